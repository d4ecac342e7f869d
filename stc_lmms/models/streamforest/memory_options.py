"""The constants of StreamForest's memory; light, because they are model arguments."""

import itertools
from dataclasses import dataclass
from typing import Literal

from stc_lmms.errors import SettingsError


@dataclass(frozen=True)
class ForestOptions:
    """How much is kept of what age. The defaults are the released constants.

    Attributes:
        now_frames: newest frames kept at `now_tokens` each.
        now_tokens: their tokens; at most those that the tower gives.
        short_frames: frames before those that are kept at `short_tokens` each, at the least.
        short_tokens: their tokens.
        event_window: an event is cut off once so many frames more than `short_frames` are there, at the
            least similar of the first `event_window` pairs of neighbours.
        long_tokens: tokens per frame of an event.
        long_quota: tokens that all events may have together when a question is asked.
        similarity_weight: what unlike neighbours count against merging two events.
        time_weight: what their recency counts.
        merge_weight: what the merges they have been through count.
        consolidate: when events are merged down to the quota. `ask`: when a question reads, on a copy, as
            the released evaluation does; events then grow by `long_tokens` tokens per frame. `frame`:
            after every frame, so that the memory is bounded; the choices, and so the answers, differ.
    """

    now_frames: int = 1
    now_tokens: int = 729
    short_frames: int = 18
    short_tokens: int = 128
    event_window: int = 8
    long_tokens: int = 64
    long_quota: int = 5120
    similarity_weight: float = 0.4
    time_weight: float = 0.2
    merge_weight: float = 0.4
    consolidate: Literal["ask", "frame"] = "ask"

    def __post_init__(self):
        """Check ranges."""
        for name in ("now_frames", "short_frames", "event_window", "long_tokens", "long_quota"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("similarity_weight", "time_weight", "merge_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingsError(f"{name}={getattr(self, name)} must be a number of 0 or more")
        sizes = ("long_tokens", "short_tokens", "now_tokens")
        for fewer, more in itertools.pairwise(sizes):
            if getattr(self, fewer) > getattr(self, more):
                raise SettingsError(
                    f"{fewer}={getattr(self, fewer)} must not exceed {more}={getattr(self, more)}: "
                    "tokens only become fewer as a frame ages"
                )
