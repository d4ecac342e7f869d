"""Runs frames through a model's tower and method, and records what was recomputed and what was kept.

Frame by frame, as in a live stream: results do not depend on how a stream is divided, and the trace of all
blocks of a long clip would not fit into memory. The language model is not run.

Shapes: G frames, T tower tokens, N LLM tokens of a frame before the token method, R x C cells of a grid.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from stc_lmms.cli.overlay import KEPT, MERGED, FrameView, shrink
from stc_lmms.methods.base import Compressed
from stc_lmms.methods.stc_cacher import STCCacher, Trace
from stc_lmms.models.llava_onevision.config import patch_grid
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.ops.grid import halved
from stc_lmms.towers.attention_scores import encode_with_last_input

NO_PATCHES = (
    "recomputed patches cannot be shown: the tower runs on merged patches or a smaller frame; the count is "
    "a mean over its layers"
)
NO_TOKENS = "kept tokens cannot be shown: they are merged from several patches and do not lie on a grid"
MERGED_TOKENS = "blue: a token that others were merged into, drawn at its own position"


@torch.no_grad()
def watch(
    model: LlavaOnevision, frames: Iterable[tuple[float, np.ndarray]]
) -> tuple[list[FrameView], list[str]]:
    """One view per frame of a new stream, and notes about what the views cannot show.

    `frames` are (time in seconds, uint8 RGB [H,W,3]) in order of time.
    """
    tower, tokens = _TowerWatch(model), _TokenWatch(model)
    encoded = []
    for time_s, image in frames:
        pixels = model.pixels(image[None])
        features, last_input, share_RC, recomputed = tower.encode(pixels)
        tokens.add(time_s, pixels, model.project(features), last_input)
        encoded.append((time_s, shrink(image), share_RC, recomputed))  # keeps no full-size frames
    grid = None if model.grid is None else halved(model.grid)
    views = []
    for (time_s, image, share_RC, recomputed), (kept_N, kept) in zip(encoded, tokens.finish(), strict=True):
        kept_RC = None if grid is None else kept_N.reshape(grid)
        counts = {"patches": model.tower.num_tokens, "tokens": model.tokens_per_frame}
        views.append(FrameView(time_s, image, share_RC, recomputed, kept_RC=kept_RC, kept=kept, **counts))
    notes = []
    if any(view.share_RC is None for view in views):
        notes.append(NO_PATCHES)
    if any(view.kept_RC is None for view in views):
        notes.append(NO_TOKENS)
    elif any((view.kept_RC == MERGED).any() for view in views):
        notes.append(MERGED_TOKENS)
    return views, notes


class _TowerWatch:
    """The tower with the in-tower method, frame by frame."""

    def __init__(self, model: LlavaOnevision):
        self.model, self.method = model, model.method.tower
        self.state = self.method.open_state() if self.method else None
        self.grid = patch_grid(model.model.config)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None, np.ndarray | None, int]:
        """Encode the next frame.

        Returns:
            Features [1,T,D], input of the last block if the token method needs it, share of the blocks that
            recomputed each patch [R,C] if it can be shown, and the number of recomputed tokens.
        """
        model, last_input = self.model, None
        if self.method is None:
            if model.reads_attention:
                features, last_input = encode_with_last_input(model.tower, pixels)
            else:
                features = model.tower.encode(pixels)
            return features, last_input, np.ones(self.grid, np.float32), model.tower.num_tokens
        before, trace = self.state.tokens_recomputed, Trace()
        traced = (trace,) if isinstance(self.method, STCCacher) else ()
        features = self.method.encode(model.tower, pixels, self.state, *traced)
        recomputed = self.state.tokens_recomputed - before
        return features, None, self._share(trace, recomputed), recomputed

    def _share(self, trace: Trace, recomputed: int) -> np.ndarray | None:
        if trace.selective:
            return recomputed_share(trace, self.grid)
        dense = recomputed == self.model.tower.num_tokens
        return np.ones(self.grid, np.float32) if dense else None


def recomputed_share(trace: Trace, grid: tuple[int, int]) -> np.ndarray:
    """Share of the blocks that recomputed each patch of a single selective frame, float32 [R,C]."""
    tokens = trace.hidden[0].shape[1]
    counts_T = np.zeros(tokens, np.float32)
    for index_1K in trace.indices:
        counts_T[index_1K[0].cpu().numpy()] += 1
    # A class token before the patches has no position in the frame.
    return (counts_T / len(trace.indices))[tokens - grid[0] * grid[1] :].reshape(grid)


class _TokenWatch:
    """The token method, frame by frame; a method may hold frames back and return them later."""

    def __init__(self, model: LlavaOnevision):
        self.model, self.method = model, model.method.token
        self.state = self.method.open_state() if self.method else None
        self.waiting: list[Tensor] = []
        self.kinds_and_counts: list[tuple[np.ndarray, int]] = []

    def add(self, time_s: float, pixels: Tensor, tokens_1ND: Tensor, last_input: Tensor | None) -> None:
        """Pass the next frame to the method."""
        if self.method is None:
            count = tokens_1ND.shape[1]
            self.kinds_and_counts.append((np.full(count, KEPT, np.int8), count))
            return
        self.waiting.append(tokens_1ND[0])
        context = self.model.context([time_s], pixels, last_input)
        compressed, self.state = self.method.compress(tokens_1ND, context, self.state)
        self._record(compressed)

    def finish(self) -> list[tuple[np.ndarray, int]]:
        """For every frame the kind of its tokens [N] and how many were kept, if the stream ended now."""
        if self.method is not None and (pending := self.method.pending(self.state)) is not None:
            self._record(pending)
        return self.kinds_and_counts

    def _record(self, compressed: Compressed) -> None:
        count = len(compressed.tokens_per_frame)
        if count == 0:
            return
        raw_GND = torch.stack(self.waiting[:count])
        del self.waiting[:count]
        kinds_GN = kinds(raw_GND, compressed)
        self.kinds_and_counts += zip(kinds_GN, compressed.tokens_per_frame, strict=True)


def kinds(raw_GND: Tensor, compressed: Compressed) -> np.ndarray:
    """DROPPED, KEPT or MERGED (kept with a changed value) for every token, int8 [G,N]."""
    flat_XD = raw_GND.flatten(0, 1)
    changed_M = (compressed.tokens_MD != flat_XD[compressed.kept_M]).any(dim=-1)
    kinds_X = torch.zeros(len(flat_XD), dtype=torch.int8, device=flat_XD.device)
    kinds_X[compressed.kept_M] = torch.where(changed_M, MERGED, KEPT).to(torch.int8)
    return kinds_X.unflatten(0, raw_GND.shape[:2]).cpu().numpy()
