"""Recent memory: the last frames, and the text before the video.

The KV of a frame that leaves is dropped; nothing is recomputed. So in every layer but the first, the KV of
the remaining frames still carries what they saw of the dropped ones.

Positions are consecutive: text, then the oldest frame kept, and so on, as if the stream had started there
(as in StreamingLLM, arXiv 2309.17453). Only relative positions matter to RoPE (and to each axis of M-RoPE),
so instead of rotating all keys again at every step, frames keep their position in the whole stream, and
queries are rotated a second time for the few keys of the text.

Shapes: F frames, M tokens, L queries, G key heads, S keys, d head width, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from stc_lmms.errors import SettingsError
from stc_lmms.lazy import Tensor, torch
from stc_lmms.memory.base import Memory, Reader, StreamMemory, check_append
from stc_lmms.memory.kv import KV, empty
from stc_lmms.ops.attention import Part, attend, combine, windowed
from stc_lmms.ops.rope import rotate

if TYPE_CHECKING:
    from stc_lmms.compat_llm import LanguageModel


@dataclass(frozen=True)
class Recent(Memory):
    """The last frames.

    Args:
        recent_frames: frames that every new token and the question see.
    """

    recent_frames: int = 64

    runs_attention = True

    def __post_init__(self):
        if self.recent_frames < 1:
            raise SettingsError(f"recent_frames={self.recent_frames} must be at least 1")

    def most_tokens(self, tokens_per_frame: int) -> int:
        return self.recent_frames * tokens_per_frame

    def open(self, llm: LanguageModel) -> RecentMemory:
        return RecentMemory(llm, self.recent_frames)


@dataclass(frozen=True)
class _State:
    """Keys of `prefix` are rotated at 0, 1, ..., those of `frames` at their position in the whole stream.

    `starts` are the stream positions of the kept frames' first tokens, `end` is that of the next token.
    `shifts_FA` is how far each kept frame would move towards the text if it were the first.
    """

    prefix: tuple[KV, ...]
    frames: tuple[KV, ...]
    starts: tuple[int, ...] = ()
    end: int = 0
    shifts_FA: Tensor | None = None
    forgotten: int = 0


class RecentMemory(StreamMemory):
    """Rotated keys and values of the last frames of one stream."""

    def __init__(self, llm: LanguageModel, recent_frames: int):
        self.llm = llm
        self.recent_frames = recent_frames
        nothing = (empty(llm),) * llm.layers
        self._state = _State(nothing, nothing)

    @property
    def length(self) -> int:
        return self._state.end

    @property
    def forgotten_frames(self) -> int:
        return self._state.forgotten

    @property
    def nbytes(self) -> int:
        return sum(kv.nbytes for kv in (*self._state.prefix, *self._state.frames))

    def begin(self, prefix_LD: Tensor) -> None:
        cos_sin = self.llm.rotation(self.llm.position_ids(prefix_LD, 0))
        prefix: list[KV] = []

        def step(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            prefix.append(KV(rotate(k, cos_sin), v))
            past = self._state.frames[layer].pair
            return windowed(rotate(q, cos_sin), past, prefix[-1].pair, scale).out_HLd

        self.llm.hidden(prefix_LD, None, step)
        self._state = _State(tuple(prefix), self._state.frames, (), len(prefix_LD))

    def append(self, embeds_MD: Tensor, tokens_per_frame: Sequence[int]) -> None:
        check_append(embeds_MD, tokens_per_frame)
        old = self._state
        if not tokens_per_frame:
            return
        first_tokens = list(accumulate(tokens_per_frame[:-1], initial=old.end))
        starts = (*old.starts, *first_tokens)
        shifts_FA = self.llm.shifts(embeds_MD, first_tokens, len(old.prefix[0]))
        if old.shifts_FA is not None:
            shifts_FA = torch.cat((old.shifts_FA, shifts_FA))
        kept_starts = starts[-self.recent_frames :]
        end = old.end + len(embeds_MD)
        keep = end - kept_starts[0]
        forgotten = old.forgotten + len(starts) - len(kept_starts)
        now = (kept_starts, end, shifts_FA[-self.recent_frames :], forgotten)
        if not len(embeds_MD):  # frames without tokens, which may still replace others
            frames = tuple(KV(*(x.clone() for x in kv.tail(keep).pair)) for kv in old.frames)
            self._state = _State(old.prefix, frames, *now)
            return
        runs = self._runs(starts, len(old.starts), end)
        position_ids_AM = self.llm.position_ids(embeds_MD, old.end)
        cos_sin = self.llm.rotation(position_ids_AM)
        to_prefix = self.llm.rotation(position_ids_AM - self._shift(runs, starts, shifts_FA))
        new_frames: list[KV] = []

        def step(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            past, new = old.frames[layer], KV(rotate(k, cos_sin), v)
            parts = [self._attend_runs(runs, rotate(q, cos_sin), past, new, scale)]
            if len(old.prefix[layer]):
                parts.append(attend(rotate(q, to_prefix), *old.prefix[layer].pair, scale))
            new_frames.append(past.extended(*new.pair, keep=keep))
            return combine(parts).out_HLd

        self.llm.hidden(embeds_MD, None, step)
        self._state = _State(old.prefix, tuple(new_frames), *now)

    def _runs(self, starts: Sequence[int], old: int, end: int) -> list[tuple[int, int, int]]:
        """Runs (start, stop, first visible position) of new tokens that see the same past."""
        runs: list[tuple[int, int, int]] = []
        for i in range(old, len(starts)):
            stop = starts[i + 1] if i + 1 < len(starts) else end
            seen = starts[max(0, i + 1 - self.recent_frames)]
            if runs and runs[-1][2] == seen:
                runs[-1] = (runs[-1][0], stop, seen)
            elif stop > starts[i]:
                runs.append((starts[i], stop, seen))
        return runs

    def _attend_runs(
        self, runs: list[tuple[int, int, int]], q_HLd: Tensor, past: KV, new: KV, scale: float
    ) -> Part:
        first = runs[0][0]
        if len(runs) == 1:
            return windowed(q_HLd, past.tail(first - runs[0][2]).pair, new.pair, scale)
        every = past.extended(*new.pair)
        origin = first - len(past)  # stream position of the first token of `every`
        parts = []
        for start, stop, seen in runs:
            k, v = every.pair
            before = k[:, seen - origin : start - origin], v[:, seen - origin : start - origin]
            here = k[:, start - origin : stop - origin], v[:, start - origin : stop - origin]
            parts.append(windowed(q_HLd[:, start - first : stop - first], before, here, scale))
        return Part.join(parts)

    @staticmethod
    def _shift(runs: list[tuple[int, int, int]], starts: Sequence[int], shifts_FA: Tensor) -> Tensor:
        """Position shift [A,M] of new tokens that puts the first frame they see right after the text."""
        # Views with lengths known to the host: indices would have to be copied to the device.
        first = [len(starts) - 1 - starts[::-1].index(seen) for _, _, seen in runs]
        pairs = zip(first, runs, strict=True)
        return torch.cat([shifts_FA[i, :, None].expand(-1, b - a) for i, (a, b, _) in pairs], dim=1)

    def ask(self, question_LD: Tensor | None = None) -> Reader:
        return RecentReader(self.llm, self._state)


class RecentReader(Reader):
    """Attends to text, frames and its own tokens as three parts, so that the frames are not copied."""

    def __init__(self, llm: LanguageModel, state: _State):
        self._llm, self._state = llm, state
        self._own = [empty(llm)] * llm.layers

    @property
    def context_tokens(self) -> int:
        return len(self._state.prefix[0]) + len(self._state.frames[0])

    def next_logits(self, embeds_LD: Tensor) -> Tensor:
        llm, state = self._llm, self._state
        position_ids_AL = llm.position_ids(embeds_LD, state.end + len(self._own[0]))
        cos_sin = to_prefix = llm.rotation(position_ids_AL)
        if state.shifts_FA is not None:
            to_prefix = llm.rotation(position_ids_AL - state.shifts_FA[:1].T)

        def step(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            own, k = self._own[layer], rotate(k, cos_sin)
            parts = [windowed(rotate(q, cos_sin), own.pair, (k, v), scale)]
            if len(state.frames[layer]):
                parts.append(attend(rotate(q, cos_sin), *state.frames[layer].pair, scale))
            if len(state.prefix[layer]):
                parts.append(attend(rotate(q, to_prefix), *state.prefix[layer].pair, scale))
            self._own[layer] = own.extended(k, v)
            return combine(parts).out_HLd

        return llm.head(llm.hidden(embeds_LD, None, step)[-1])
