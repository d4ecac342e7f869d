"""StreamForest's memory of tower tokens: a fine window of the newest frames, and a forest of older events.

Source: StreamForest (arXiv 2509.24871), sections on the fine-grained spatiotemporal window and the persistent
event memory forest; where paper and code differ, the authors' code. A frame has `now_tokens` tokens at first,
`short_tokens` when it is no longer the newest, and `long_tokens` as part of an event. Events are cut between
the least similar frames. Two neighbouring events merge into one of half the frames; similar, old and rarely
merged ones first. Tokens are always reduced by merging similar ones.

A frame is processed once, when it arrives; only events are merged later, see `ForestOptions.consolidate`.

Shapes: F frames, P tokens per frame, C width, f virtual frames of an event, K `long_tokens`, N tokens read.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stc_lmms.models.streamforest.options import ForestOptions
from stc_lmms.ops.merge import head_mean, match, merge_to

# Called with every choice: the values compared, and the index of the lowest.
Trace = Callable[[Sequence[float], int], None]


class Event(NamedTuple):
    """Neighbouring frames that became one piece."""

    tokens_fKC: Tensor
    time: np.float32  # number of the frame at its centre; float32, as in the authors' code
    merges: int  # number of events merged into it
    similarity: float  # to the previous event; NaN for the first


class Forest:
    """The memory of one stream.

    Args:
        options: its constants.
        heads: attention heads of the tower; tokens are compared by their mean over heads.
        trace: see `Trace`, for verification.

    Attributes:
        now: the newest frames, [now_tokens,C] each.
        recent: all frames that are not part of an event, [short_tokens,C] each, those of `now` included.
        similarities: cosine similarity of each of `recent` but the last to the next, over all tokens; on
            the device, so that the host waits for them only when it cuts an event.
        events: in order of time.
    """

    def __init__(self, options: ForestOptions, heads: int, trace: Trace | None = None):
        self.options, self.heads, self._trace = options, heads, trace
        self.frames = 0  # observed
        self.now: deque[Tensor] = deque(maxlen=self.options.now_frames)
        self.recent: list[Tensor] = []
        self.similarities: list[Tensor] = []
        self.events: list[Event] = []
        self._last_1PC: Tensor | None = None

    @property
    def short_frames(self) -> int:
        """Frames that a question reads at `short_tokens` tokens."""
        return len(self.recent) - len(self.now)

    @property
    def nbytes(self) -> int:
        """Bytes of all tokens held."""
        events = [event.tokens_fKC for event in self.events]
        last = [] if self._last_1PC is None else [self._last_1PC]
        return sum(x.nbytes for x in (*self.now, *self.recent, *events, *last))

    @property
    def tokens(self) -> int:
        """Tokens that a question would read at most: merging two events may free more than necessary."""
        options = self.options
        long = sum(len(event.tokens_fKC) for event in self.events) * options.long_tokens
        if len(self.events) > 1:
            long = min(long, options.long_quota)
        return len(self.now) * options.now_tokens + self.short_frames * options.short_tokens + long

    @torch.no_grad()
    def append(self, x_FPC: Tensor) -> None:
        """Take in the next F frames, with position codes, P at least `now_tokens`.

        The result does not depend on how a stream is split into calls, except for rounding in the merges.
        """
        options = self.options
        now_FPC = merge_to(x_FPC, options.now_tokens, self.heads)
        short_FPC = merge_to(now_FPC, options.short_tokens, self.heads)
        before_FPC = x_FPC[:-1] if self._last_1PC is None else torch.cat((self._last_1PC, x_FPC[:-1]))
        self.similarities += _cosine(before_FPC, x_FPC[len(x_FPC) - len(before_FPC) :]).unbind()
        for now_PC, short_PC in zip(now_FPC, short_FPC, strict=True):
            self.frames += 1
            self.now.append(now_PC.clone())  # a view would keep all frames of the call
            self.recent.append(short_PC.clone())
            while self.short_frames >= options.short_frames + options.event_window:
                self._cut_event()
            if options.consolidate == "frame":
                self.events = self.consolidated()
        self._last_1PC = x_FPC[-1:].clone() if len(x_FPC) else self._last_1PC

    def _cut_event(self) -> None:
        """Make an event of the oldest frames."""
        options = self.options
        frames = 1 + self._lowest(torch.stack(self.similarities[: options.event_window]).tolist())
        tokens_1NC = torch.cat(self.recent[:frames])[None]
        merged_1NC = merge_to(tokens_1NC, frames * options.long_tokens, self.heads)
        centre = np.float32(self.frames - len(self.recent) + (frames - 1) / 2)
        self.events.append(Event(merged_1NC.view(frames, -1, merged_1NC.shape[-1]), centre, 1, float("nan")))
        self._compare(self.events, len(self.events) - 1)
        del self.recent[:frames], self.similarities[:frames]

    def consolidated(self) -> list[Event]:
        """A copy of the events, merged down to the quota."""
        options, events = self.options, list(self.events)
        frames = sum(len(event.tokens_fKC) for event in events)
        while frames * options.long_tokens > options.long_quota and len(events) > 1:
            i = self._lowest(self._penalties(events))
            frames -= len(events[i].tokens_fKC) + len(events[i + 1].tokens_fKC)
            events[i : i + 2] = [self._joined(*events[i : i + 2])]
            frames += len(events[i].tokens_fKC)
            self._compare(events, i)
            self._compare(events, i + 1)
        return events

    def read(self) -> Tensor:
        """Tokens [N,C] that a question reads: events, short frames, newest frames; changes nothing."""
        events = [event.tokens_fKC.flatten(0, 1) for event in self.consolidated()]
        return torch.cat((*events, *self.recent[: self.short_frames], *self.now))

    def _penalties(self, events: Sequence[Event]) -> np.ndarray:
        """Penalty for merging each event with the next; float32, as in the authors' code."""
        options = self.options
        time = np.array([event.time for event in events], np.float32)
        merges = np.array([event.merges for event in events], np.float32)
        similarity = np.array([event.similarity for event in events[1:]], np.float32)
        recency = (time[:-1] + time[1:]) / 2 / np.float32(self.frames - 1)
        merged = (merges[:-1] + merges[1:]) / 2
        return (
            options.similarity_weight * (1 - similarity)
            + options.time_weight * recency
            + options.merge_weight * (merged / merged.max() + np.float32(1e-6))
        )

    def _joined(self, a: Event, b: Event) -> Event:
        """Two neighbours as one event of half their frames."""
        tokens_1NC = torch.cat((a.tokens_fKC, b.tokens_fKC)).flatten(0, 1)[None]
        n_a, n_b = len(a.tokens_fKC), len(b.tokens_fKC)
        frames = _half(n_a + n_b)
        merged_1NC = merge_to(tokens_1NC, frames * self.options.long_tokens, self.heads)
        time = (a.time * np.float32(n_a) + b.time * np.float32(n_b)) / np.float32(n_a + n_b)
        tokens_fKC = merged_1NC.view(frames, -1, merged_1NC.shape[-1])
        return Event(tokens_fKC, time, a.merges + b.merges, a.similarity)

    def _compare(self, events: list[Event], i: int) -> None:
        """Set the similarity of event `i` to the previous one: that of the tokens that a merge would join."""
        if not 0 < i < len(events):
            return
        pair = events[i - 1].tokens_fKC, events[i].tokens_fKC
        tokens_1NC = torch.cat(pair).flatten(0, 1)[None]
        left = _half(len(pair[0]) + len(pair[1])) * self.options.long_tokens
        matching = match(head_mean(tokens_1NC, self.heads), tokens_1NC.shape[1] - left)
        events[i] = events[i]._replace(similarity=float(matching.similarity_Fr.mean()))

    def _lowest(self, values: Sequence[float] | np.ndarray) -> int:
        """Index of the lowest value, the first if there are several."""
        chosen = int(np.argmin(values))
        if self._trace is not None:
            self._trace([float(value) for value in values], chosen)
        return chosen


def _half(frames: int) -> int:
    return -(-frames // 2)


def _cosine(a_FPC: Tensor, b_FPC: Tensor) -> Tensor:
    wide = torch.promote_types(a_FPC.dtype, torch.float32)
    return functional.cosine_similarity(a_FPC.flatten(1).to(wide), b_FPC.flatten(1).to(wide))
