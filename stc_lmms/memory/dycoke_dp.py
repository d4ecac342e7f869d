"""DyCoke's second stage: while an answer is decoded, most visual tokens are out of sight of most layers.

Source: DyCoke (arXiv 2411.15024) and the authors' `PrunableDynamicCache`. At every decoded token the layer
below `layer` tells how much attention each visual token gets (mean over heads). If that changed since the
last token (cosine below 0.9), the layers from `layer` on read only the top share; if not, they read
everything in this step, and not, as one might expect, the last choice. Nothing is freed: what shrinks is
the length that attention runs over. Keys were rotated before, so positions stay true.

Deviations from the authors' code: what the last token attended to is forgotten with the answer (there it
leaks into the next video), and all visual tokens can be hidden (there the last one never is).

Shapes: H query heads, G key heads, S keys, d head width.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from stc_lmms.memory.base import Reader
from stc_lmms.ops.attention import attend

if TYPE_CHECKING:
    from stc_lmms.memory.full import FullMemory

GATE = 0.9


class DecodePruning:
    """Chooses what is visible, token after token of one answer.

    Args:
        visual: cache positions of the visual tokens.
        prune: share of them to hide; int(n * (1 - prune)) stay.
    """

    def __init__(self, visual: range, prune: float):
        self.visual = visual
        self.keep = int(len(visual) * (1 - prune))
        self._last: Tensor | None = None

    def choose(self, attention_HS: Tensor) -> Tensor | None:
        """Visible positions, ascending, for the attention weights of one token; None: all."""
        start, stop = self.visual.start, self.visual.stop
        if stop <= start:
            return None
        score = attention_HS.mean(dim=0)[start:stop]
        last, self._last = self._last, score
        if last is not None and functional.cosine_similarity(score, last, dim=0) >= GATE:
            return None
        everything = torch.arange(attention_HS.shape[1], device=score.device)
        kept = score.topk(self.keep, sorted=False).indices.sort().values + start
        return torch.cat((everything[:start], kept, everything[stop:]))


class PrunedReader(Reader):
    """Reads the prompt with the stock model, then decodes with `DecodePruning`."""

    def __init__(self, memory: "FullMemory", choice: DecodePruning, layer: int):
        self._memory, self._choice, self._layer = memory, choice, layer
        self._before = memory.snapshot()
        self._visible: Tensor | None = None
        self._prompt_read = False

    @property
    def context_tokens(self) -> int:
        """All of them: the prompt reads everything."""
        return self._before

    def next_logits(self, embeds_LD: Tensor) -> Tensor:
        """See `Reader.next_logits`: the first call is the prompt."""
        if not self._prompt_read:
            self._prompt_read = True
            return self._memory.next_logits(embeds_LD)
        llm = self._memory.llm
        for i in range(len(embeds_LD)):
            self._visible = None
            hidden = llm.hidden(embeds_LD[i : i + 1], self._memory.cache, self._attend)
        return llm.head(hidden[-1])

    def close(self) -> None:
        """Crop the answer off."""
        self._memory.restore(self._before)

    def _attend(self, layer: int, q_HLd: Tensor, k_GSd: Tensor, v_GSd: Tensor, scale: float) -> Tensor:
        if layer == self._layer - 1:
            self._visible = self._choice.choose(weights(q_HLd, k_GSd, scale))
        if layer >= self._layer and self._visible is not None:
            k_GSd, v_GSd = k_GSd[:, self._visible], v_GSd[:, self._visible]
        return attend(q_HLd, k_GSd, v_GSd, scale).out_HLd


def weights(q_H1d: Tensor, k_GSd: Tensor, scale: float) -> Tensor:
    """Attention weights [H,S] of one query, float32 or wider."""
    wide = torch.float64 if q_H1d.dtype == torch.float64 else torch.float32
    q_GRd = q_H1d[:, 0].to(wide).unflatten(0, (len(k_GSd), -1))
    return (q_GRd @ k_GSd.to(wide).mT * scale).softmax(-1).flatten(0, 1)
