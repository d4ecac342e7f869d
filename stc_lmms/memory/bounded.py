"""Bounded memory: a fixed number of visual tokens, chosen as StreamDyCoke does.

Source: StreamDyCoke (its code; see `dp_cache.py`). Tokens of new frames join an active list; those with the
lowest attention are demoted to a bounded cache, from which some are periodically restored and others evicted.
It was published without a language model, so two choices are ours:

  - token embeddings are kept. Frames need no prefill; every question prefills the text before the video and
    the active tokens (not the cache), in order of frame and position, at consecutive positions;
  - the attention of a token, an input of StreamDyCoke, is its novelty: half of one minus the cosine to the
    mean of its frame's tokens. `importance=order` is StreamDyCoke's own substitute: 0.1 to 1 along the frame.

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
from stc_lmms.memory.dp_cache import DPCache, Eviction, Pools
from stc_lmms.ops.transfer import to_device
from stc_lmms.ops.wide import wide

if TYPE_CHECKING:
    from stc_lmms.compat_llm import LanguageModel


@dataclass(frozen=True)
class Bounded(Memory):
    """StreamDyCoke's active list and DP cache.

    Args:
        active_tokens: tokens that a question reads.
        pool_tokens: demoted tokens that can be restored.
        eviction: which demoted token is evicted when there are too many: `fifo`, `lrr` (the same, see
            `dp_cache.py`), or `decay`: the lowest attention, decaying over time.
        decay: decay rate per frame.
        refresh_every: number of frames after which demoted tokens are restored; 0 is never.
        refresh_top_k: number of tokens restored.
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
        least_of = {"active_tokens": 1, "pool_tokens": 1, "decay": 0, "refresh_every": 0, "refresh_top_k": 1}
        for name, least in least_of.items():
            if not getattr(self, name) >= least:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least {least}")

    def most_tokens(self, tokens_per_frame: int) -> int:
        return self.active_tokens

    def open(self, llm: LanguageModel) -> BoundedMemory:
        return BoundedMemory(llm, self)


@dataclass(frozen=True)
class _State:
    """`tokens` holds the embeddings of all entries, `ids` their token numbers, ascending."""

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
        cache = DPCache(options.pool_tokens, options.eviction, options.decay)
        self._state = _State(Pools(options.active_tokens, cache))

    @property
    def length(self) -> int:
        return self._state.length

    @property
    def nbytes(self) -> int:
        kept = (self._state.prefix_LD, self._state.tokens)
        return sum(x.nbytes for x in kept if x is not None)

    def begin(self, prefix_LD: Tensor) -> None:
        self._state = _State(self._state.pools, prefix_LD, length=len(prefix_LD))

    def append(self, embeds_MD: Tensor, tokens_per_frame: Sequence[int]) -> None:
        check_append(embeds_MD, tokens_per_frame)
        old, pools = self._state, self._state.pools.copy()
        frames = embeds_MD.split(list(tokens_per_frame))
        parts = [importance(frame, self.options.importance) for frame in frames]
        attention = torch.cat(parts).tolist() if parts else []  # one host synchronisation, not one per frame
        seen = old.seen
        for count in tokens_per_frame:
            at = seen - old.seen
            pools.take_frame(list(range(seen, seen + count)), attention[at : at + count])
            pools.refresh(self.options.refresh_every, self.options.refresh_top_k)
            seen += count
        tokens = embeds_MD if old.tokens is None else torch.cat((old.tokens, embeds_MD))
        new = np.arange(old.seen, seen)
        ids = new if old.ids is None else np.concatenate((old.ids, new))
        kept = np.isin(ids, [*pools.active, *pools.cache.ids])
        self._state = _State(
            pools, old.prefix_LD, _rows(tokens, kept), ids[kept], old.length + len(embeds_MD), seen
        )

    def ask(self, question_LD: Tensor | None = None) -> Reader:
        return ContextReader(self.llm, self.context())

    def context(self) -> Tensor:
        """Text before the video and active tokens [L+A,D], in stream order."""
        state = self._state
        parts = [] if state.prefix_LD is None else [state.prefix_LD]
        if state.tokens is not None:
            parts.append(_rows(state.tokens, np.isin(state.ids, state.pools.active)))
        return torch.cat(parts) if parts else torch.empty(0)


def _rows(x_TD: Tensor, mask_T: np.ndarray) -> Tensor:
    """Rows of a tensor by a mask on the host, without a device synchronisation."""
    return x_TD.index_select(0, to_device(np.flatnonzero(mask_T), x_TD.device))


class ContextReader(Reader):
    """Prefills a context for one question, into a KV cache of its own."""

    def __init__(self, llm: LanguageModel, context_LD: Tensor):
        self._llm, self._context_LD = llm, context_LD
        self._cache = llm.new_cache()

    @property
    def context_tokens(self) -> int:
        return len(self._context_LD)

    def next_logits(self, embeds_LD: Tensor) -> Tensor:
        if self.context_tokens and self._cache.get_seq_length() == 0:
            embeds_LD = torch.cat((self._context_LD, embeds_LD))
        return self._llm.head(self._llm.hidden(embeds_LD, self._cache)[-1])


def importance(tokens_ND: Tensor, kind: str) -> Tensor:
    """Substitute for the attention of the N tokens of a frame [N]."""
    if kind == "order":
        return torch.linspace(0.1, 1, len(tokens_ND))
    x = wide(tokens_ND)
    return (1 - functional.cosine_similarity(x, x.mean(dim=0, keepdim=True), dim=-1)) / 2
