"""DyCoke's second stage: while an answer is decoded, most layers do not see most visual tokens.

Source: DyCoke (arXiv 2411.15024) and the authors' `PrunableDynamicCache`. At every decoded token the layer
below `layer` measures how much attention each visual token receives (mean over heads). If that has changed
since the last token (cosine below 0.9), the layers from `layer` on read only the top share; if not, they read
everything in this step (not the previous choice). Nothing is freed: only the attention gets shorter.

Deviations from the authors' code: what the last token attended to is forgotten with the answer (theirs leaks
into the next video), and all visual tokens can be hidden (theirs always keeps the last one).

Shapes: H query heads, G key heads, S keys, d head width.
"""

from __future__ import annotations

from stc_lmms.lazy import Tensor, functional, torch
from stc_lmms.ops.attention import attend
from stc_lmms.ops.wide import wide

GATE = 0.9


class DecodePruning:
    """Hides visual tokens from the upper layers, for the decoded tokens of one answer.

    Args:
        visual: cache positions of the visual tokens.
        prune: share of them to hide.
        layer: the first layer that reads fewer; the layer below it measures the attention.
    """

    def __init__(self, visual: range, prune: float, layer: int):
        self.visual, self.layer = visual, layer
        self.keep = int(len(visual) * (1 - prune))
        self._last: Tensor | None = None
        self._visible: Tensor | None = None

    def choose(self, attention_HS: Tensor) -> Tensor | None:
        """Visible positions, ascending, for the attention weights of one token; None for all."""
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

    def attend(self, layer: int, q_H1d: Tensor, k_GSd: Tensor, v_GSd: Tensor, scale: float) -> Tensor:
        """Attention of one token in one layer, see `compat_llm.Attend`; layers come in order."""
        if layer == 0:
            self._visible = None
        if layer == self.layer - 1:
            self._visible = self.choose(weights(q_H1d, k_GSd, scale))
        if layer >= self.layer and self._visible is not None:
            k_GSd, v_GSd = k_GSd[:, self._visible], v_GSd[:, self._visible]
        return attend(q_H1d, k_GSd, v_GSd, scale).out_HLd


def weights(q_H1d: Tensor, k_GSd: Tensor, scale: float) -> Tensor:
    """Attention weights [H,S] of one query, float32 or wider."""
    q_GRd = wide(q_H1d[:, 0]).unflatten(0, (len(k_GSd), -1))
    return (q_GRd @ wide(k_GSd).mT * scale).softmax(-1).flatten(0, 1)
