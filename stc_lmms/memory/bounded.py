"""Bounded memory: a fixed number of visual tokens, chosen as StreamDyCoke does.

Source: StreamDyCoke (its code; see `dp_cache.py`). Tokens of new frames join an active list; the ones of
lowest attention are demoted to a bounded cache, from which some are restored now and then and others are
evicted. Published without a language model, so three things are decided here:

  - what is kept are token embeddings. Frames cost no prefill; a question prefills the text before the
    video and the active tokens, in order of frame and place, at consecutive positions, every time;
  - the attention of a token, which StreamDyCoke gets from outside, is its novelty: half of one minus the
    cosine to the mean of its frame's tokens, so 0 to 1. `importance=order` is StreamDyCoke's own stand-in
    where it gets none: 0.1 to 1 along the frame;
  - the active list is what is read, as in StreamDyCoke; the cache only waits.

Shapes: M tokens, A active tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from stc_lmms.errors import SettingsError
from stc_lmms.lazy import Tensor, functional, torch
from stc_lmms.memory.base import Memory, Reader, StreamMemory, check_append
from stc_lmms.memory.dp_cache import DPCache, Eviction, Pools, Schedule
from stc_lmms.ops.transfer import to_device

if TYPE_CHECKING:
    from stc_lmms.compat_llm import LanguageModel


@dataclass(frozen=True)
class Bounded(Memory):
    """StreamDyCoke's active list and DP cache.

    Args:
        active_tokens: tokens that a question reads.
        pool_tokens: demoted tokens that may come back.
        eviction: which demoted token goes when there are too many: `fifo`, `lrr` (the same, see
            `dp_cache.py`), or `decay`: lowest attention, fading with time.
        decay: rate of that fading per frame.
        refresh_every: demoted tokens are restored after every so many frames; 0 is never.
        refresh_top_k: how many.
        importance: a token's attention: `novelty` in its frame, or `order`.
    """

    active_tokens: int = 4096
    pool_tokens: int = 2048
    eviction: Eviction = "decay"
    decay: float = 0.05
    refresh_every: int = 4
    refresh_top_k: int = 64
    importance: Literal["novelty", "order"] = "novelty"

    one_axis = True

    def __post_init__(self):
        """Check ranges."""
        for name, least in (
            ("active_tokens", 1),
            ("pool_tokens", 1),
            ("decay", 0),
            ("refresh_every", 0),
            ("refresh_top_k", 1),
        ):
            if not getattr(self, name) >= least:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least {least}")

    def most_tokens(self, tokens_per_frame: int) -> int:
        """See `Memory.most_tokens`."""
        return self.active_tokens

    def open(self, llm: LanguageModel) -> BoundedMemory:
        """See `Memory.open`."""
        return BoundedMemory(llm, self)


@dataclass(frozen=True)
class _State:
    """`tokens` holds the embeddings of all entries, `ids` their numbers, ascending in order of the stream."""

    pools: Pools
    prefix_LD: Tensor | None = None
    tokens: Tensor | None = None
    ids: np.ndarray | None = None
    length: int = 0
    seen: int = 0


class BoundedMemory(StreamMemory):
    """Embeddings of the active and the demoted tokens of one stream."""

    def __init__(self, llm: LanguageModel, options: Bounded):
        self.llm, self.options = llm, options
        self._schedule = Schedule(options.refresh_every, options.refresh_top_k)
        cache = DPCache(options.pool_tokens, options.eviction, options.decay)
        self._state = _State(Pools(options.active_tokens, cache))

    @property
    def length(self) -> int:
        """Tokens taken in, dropped ones included."""
        return self._state.length

    @property
    def nbytes(self) -> int:
        """Bytes of the embeddings kept."""
        kept = (self._state.prefix_LD, self._state.tokens)
        return sum(x.nbytes for x in kept if x is not None)

    def begin(self, prefix_LD: Tensor) -> None:
        """See `StreamMemory.begin`."""
        self._state = _State(self._state.pools, prefix_LD, length=len(prefix_LD))

    def append(self, embeds_MD: Tensor, tokens_per_frame: Sequence[int]) -> None:
        """See `StreamMemory.append`; nothing is prefilled."""
        check_append(embeds_MD, tokens_per_frame)
        old, pools = self._state, self._state.pools.copy()
        frames = embeds_MD.split(list(tokens_per_frame))
        parts = [importance(frame, self.options.importance) for frame in frames]
        attention = torch.cat(parts).tolist() if parts else []  # the host waits once, not for every frame
        seen = old.seen
        for count in tokens_per_frame:
            at = seen - old.seen
            pools.take_frame(list(range(seen, seen + count)), attention[at : at + count])
            pools.refresh(self._schedule)
            seen += count
        tokens = embeds_MD if old.tokens is None else torch.cat((old.tokens, embeds_MD))
        new = np.arange(old.seen, seen)
        ids = new if old.ids is None else np.concatenate((old.ids, new))
        kept = np.isin(ids, [*pools.active, *pools.cache.ids])
        self._state = _State(
            pools,
            old.prefix_LD,
            _rows(tokens, kept),
            ids[kept],
            old.length + len(embeds_MD),
            seen,
        )

    def ask(self, question_LD: Tensor | None = None) -> Reader:
        """See `StreamMemory.ask`; prefills the active tokens when it is first read."""
        return ContextReader(self.llm, self.context())

    def context(self) -> Tensor:
        """Text before the video and active tokens [L+A,D], in order of the stream."""
        state = self._state
        parts = [] if state.prefix_LD is None else [state.prefix_LD]
        if state.tokens is not None:
            parts.append(_rows(state.tokens, np.isin(state.ids, state.pools.active)))
        if not parts:
            return torch.empty(0)
        return torch.cat(parts)

    def snapshot(self) -> object:
        """See `StreamMemory.snapshot`."""
        return self._state  # `append` never changes it

    def restore(self, snapshot: object) -> None:
        """See `StreamMemory.restore`."""
        self._state = snapshot


def _rows(x_TD: Tensor, mask_T: np.ndarray) -> Tensor:
    """Rows of a tensor by a mask of the host, which need not ask the device how many there are."""
    return x_TD.index_select(0, to_device(np.flatnonzero(mask_T), x_TD.device))


class ContextReader(Reader):
    """Prefills a context for one question, into a KV cache of its own."""

    def __init__(self, llm: LanguageModel, context_LD: Tensor):
        self._llm, self._context_LD = llm, context_LD
        self._cache = llm.new_cache()

    @property
    def context_tokens(self) -> int:
        """Text before the video and active tokens."""
        return len(self._context_LD)

    def next_logits(self, embeds_LD: Tensor) -> Tensor:
        """See `Reader.next_logits`; the first call prefills the context, too."""
        if self.context_tokens and self._cache.get_seq_length() == 0:
            embeds_LD = torch.cat((self._context_LD, embeds_LD))
        return self._llm.head(self._llm.hidden(embeds_LD, self._cache)[-1])


def importance(tokens_ND: Tensor, kind: str) -> Tensor:
    """What stands for the attention of each of N tokens of a frame [N]; `order` needs no device."""
    if kind == "order":
        return torch.linspace(0.1, 1, len(tokens_ND))
    wide = tokens_ND if tokens_ND.dtype == torch.float64 else tokens_ND.float()
    mean = wide.mean(dim=0, keepdim=True)
    return (1 - functional.cosine_similarity(wide, mean, dim=-1)) / 2
