"""StreamDyCoke's two pools of token numbers: an active list, and a bounded cache of demoted ones.

Source: the StreamDyCoke code (`dp_cache.py`, `streaming.py`). No tensors are involved: an entry is a number
with its attention and its times.

`lrr` never differs from `fifo`, because an entry in the cache was last accessed when it was inserted. A
restored entry returns to the cache immediately, with a fresh clock, unless the active list has room.
"""

from copy import copy
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

Eviction = Literal["fifo", "lrr", "decay"]


class DPCache:
    """Demoted entries in order of insertion; its arrays are never modified in place.

    Args:
        capacity: maximum number of entries.
        eviction: evict the oldest (`fifo`), the least recently accessed (`lrr`), or the lowest
            attention * exp(-decay * steps since access) (`decay`). Of equal ones, the first is evicted.
        decay: decay rate per step of the clock.
    """

    def __init__(self, capacity: int, eviction: Eviction, decay: float):
        self.capacity, self.eviction, self.decay = capacity, eviction, decay
        self.clock = 0
        self.ids = self.inserted_at = self.last_access = np.empty(0, dtype=np.int64)
        self.attention = np.empty(0)

    def __len__(self) -> int:
        return len(self.ids)

    def insert(self, entry: int, attention: float) -> None:
        """Insert an entry; at capacity, evict one first."""
        if len(self) >= self.capacity:
            order = {"fifo": self.inserted_at, "lrr": self.last_access}.get(self.eviction)
            self._remove(int(np.argmin(self.priority() if order is None else order)))
        self.ids = np.append(self.ids, entry)
        self.attention = np.append(self.attention, attention)
        self.inserted_at = np.append(self.inserted_at, self.clock)
        self.last_access = np.append(self.last_access, self.clock)

    def restore(self, count: int) -> list[tuple[int, float]]:
        """Remove and return the `count` entries of highest decayed attention, best first."""
        best = np.argsort(-self.priority(), kind="stable")[:count]
        restored = [(int(self.ids[i]), float(self.attention[i])) for i in best]
        self._remove(best)
        return restored

    def priority(self) -> np.ndarray:
        """Decayed attention of all entries."""
        return self.attention * np.exp(-self.decay * (self.clock - self.last_access))

    def _remove(self, index: int | np.ndarray) -> None:
        for name in ("ids", "attention", "inserted_at", "last_access"):
            setattr(self, name, np.delete(getattr(self, name), index))


@dataclass
class Pools:
    """The active list, in order of insertion and at most `capacity`, and the cache of demoted entries."""

    capacity: int
    cache: DPCache
    active: list[int] = field(default_factory=list)
    attention: list[float] = field(default_factory=list)
    frames: int = 0

    def take_frame(self, entries: list[int], attention: list[float]) -> None:
        """Append a frame's entries, advance the clock, and demote the lowest beyond the capacity."""
        self.active += entries
        self.attention += attention
        self.cache.clock += 1
        self.frames += 1
        self._rebalance()

    def refresh(self, every: int, top_k: int) -> None:
        """Restore `top_k` demoted entries after every `every` frames; 0 is never."""
        if every and self.frames % every == 0:
            for entry, attention in self.cache.restore(top_k):
                self.active.append(entry)
                self.attention.append(attention)
            self._rebalance()

    def copy(self) -> "Pools":
        return replace(self, cache=copy(self.cache), active=[*self.active], attention=[*self.attention])

    def _rebalance(self) -> None:
        excess = len(self.active) - self.capacity
        if excess <= 0:
            return
        lowest = np.argsort(np.array(self.attention), kind="stable")[:excess]
        for i in sorted(lowest.tolist(), reverse=True):
            self.cache.insert(self.active.pop(i), self.attention.pop(i))
