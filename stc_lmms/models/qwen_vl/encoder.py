"""Frames of one stream to the LLM tokens of its frame pairs: resize, tower, merger, token method.

Two consecutive frames make one temporal slice, which the tower, STC-Cacher and the token methods treat as a
frame. An odd last frame waits for its partner; a question sees it paired with itself (as the stock processor
does at the end of a video), encoded densely and without a trace in the stream.

Shapes: F frames, S frame pairs, N LLM tokens of a pair, K kept tokens, B deepstack levels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stc_lmms.engine.encoder import FrameEncoder
from stc_lmms.engine.timers import StageClock
from stc_lmms.errors import StcError
from stc_lmms.methods.base import Compressed, Context, whole
from stc_lmms.models.qwen_vl.config import frame_size
from stc_lmms.ops.mrope import FramePair
from stc_lmms.ops.transfer import to_device
from stc_lmms.towers import Patches

# What a token method holds back of a pair: its time stamp and its deepstack features [B,N,D].
_Held = list[tuple[float, Tensor | None]]


class FramePairEncoder(FrameEncoder):
    """The visual half of one stream of a `QwenVL` model.

    Attributes:
        kept: LLM tokens of every pair emitted.
        pair_tokens: limit of LLM tokens per pair before compression; applied at the first frame.
    """

    video_frames = 2

    def __init__(self, clock: StageClock, model: Any):
        self.token, self.options, self.patches = model.method.token, model.options, model.patches
        tower = model.tower
        self.token_side: int = tower.config.patch_size * tower.merge  # pixels of an LLM token's side
        super().__init__(clock, model.capture, tower, model.method.tower, self._merge)

    def reset(self) -> None:
        """See `FrameEncoder.reset`."""
        super().reset()
        self._token_state = self.token.open_state() if self.token else None
        self._held: _Held = []
        self._odd: tuple[Tensor, float] | None = None
        self.pair_tokens: int = self.options.slice_tokens
        self._shape: tuple[int, int] | None = None
        self._size = (0, 0)
        self.kept: list[int] = []

    @property
    def nbytes(self) -> int:
        """Bytes of references, method state, graph buffers and features held back, on the device."""
        held = sum(deep.nbytes for _, deep in self._held if deep is not None)
        token = self._token_state.nbytes if self._token_state is not None else 0
        return super().nbytes + held + token

    def observe(self, frames: np.ndarray, times_s: Sequence[float]) -> list[FramePair]:
        """Pairs that the next frames, uint8 [F,H,W,3], complete."""
        with self.clock.stage("preprocess_ms"):
            resized = self.resize(frames)
            times_s = list(times_s)
            if self._odd is not None:
                resized, times_s = torch.cat((self._odd[0], resized)), [self._odd[1], *times_s]
            even = len(resized) - len(resized) % 2
            self._odd = (resized[even:].clone(), times_s[even]) if even < len(resized) else None
            if not even:
                return []
            patches = self.patches(resized[:even])
        return self.encode_pairs(patches, times_s[:even], resized[:even])

    def encode_pairs(
        self, patches: Patches, times_s: Sequence[float], resized: Tensor | None = None
    ) -> list[FramePair]:
        """Pairs that the token method emits when the patches of the next S pairs have come.

        `resized` are their frames, uint8 [2*S,3,h,w]; only needed by a token method that looks at pixels.
        """
        tokens, deep = self._run(self.encode, patches)
        pairs, self._token_state, self._held = self._compress(tokens, deep, patches, times_s, resized)
        self.kept.extend(len(pair.kept_K) for pair in pairs)
        return pairs

    def peek(self) -> list[FramePair]:
        """What a question sees beyond the pairs emitted: those held back, and an odd last frame."""
        state, held, pairs = self._token_state, self._held, []
        if self._odd is not None:
            frame, time_s = self._odd
            resized = frame.repeat(2, 1, 1, 1)
            with self.clock.stage("preprocess_ms"):
                patches = self.patches(resized)
            tokens, deep = self._run(self.encode_dense, patches)
            pairs, state, held = self._compress(tokens, deep, patches, [time_s, time_s], resized)
        pending = None if self.token is None else self.token.pending(state)
        if pending is not None:
            pairs = pairs + _pairs(pending, held, self._grid())
        return pairs

    def resize(self, frames: np.ndarray) -> Tensor:
        """uint8 [F,H,W,3] to uint8 [F,3,h,w]: antialiased bicubic; the first frame of a stream sets the size.

        Raises:
            StcError: the frames have another size than the first.
        """
        shape = frames.shape[1:3]
        if self._shape is None:
            limits = self.options.min_slice_tokens, self.pair_tokens
            self._size = frame_size(*shape, self.token_side, *limits)
            if self.token is not None:
                rows, columns = self._grid()
                self.token.check(rows * columns)
            self._shape = shape
        if shape != self._shape:
            raise StcError(
                f"a frame of {shape[1]}x{shape[0]} pixels in a stream of {self._shape[1]}x{self._shape[0]}: "
                "the grid of a video cannot change; open a new stream"
            )
        video = to_device(np.ascontiguousarray(frames), self.tower.patch_weight.device).permute(0, 3, 1, 2)
        sized = functional.interpolate(video.float(), self._size, mode="bicubic", antialias=True)
        return sized.round_().clamp_(0, 255).to(torch.uint8)

    def _grid(self) -> tuple[int, int]:
        return self._size[0] // self.token_side, self._size[1] // self.token_side

    def _run(self, encode: Callable[..., Tensor], patches: Patches) -> tuple[Tensor, Tensor | None]:
        """LLM tokens [S,N,D] and deepstack features [B,S,N,D] of some pairs."""
        self._layout = self.tower.layout(patches.size)
        taps: list[Tensor] | None = [] if self.tower.taps else None
        tokens = encode(patches, taps=taps)
        if not taps:
            return tokens, None
        with self.clock.stage("project_ms"):
            return tokens, torch.stack(self.tower.deepstack(taps, self._layout))

    def _merge(self, features: Tensor) -> Tensor:
        return self.tower.finish(features, self._layout)

    def _compress(
        self,
        tokens: Tensor,
        deep: Tensor | None,
        patches: Patches,
        times_s: Sequence[float],
        resized: Tensor | None,
    ) -> tuple[list[FramePair], Any, _Held]:
        """Pairs emitted, and the new state of the token method; the present one is unchanged."""
        grid = (patches.size[0] // self.tower.merge, patches.size[1] // self.tower.merge)
        pair_times = [(a + b) / 2 for a, b in zip(times_s[::2], times_s[1::2], strict=True)]
        held = self._held + [(t, None if deep is None else deep[:, i]) for i, t in enumerate(pair_times)]
        if self.token is None:
            return _pairs(whole(tokens), held, grid), None, []
        with self.clock.stage("method_ms"):
            pixels = None
            if "pixels" in self.token.needs:
                pixels = resized.unflatten(0, (-1, 2)).flatten(1, 2).float().div(255)
            context = Context(times_s=tuple(pair_times), grid=grid, pixels_FCHW=pixels)
            compressed, state = self.token.compress(tokens, context, self._token_state)
            pairs = _pairs(compressed, held, grid)
        return pairs, state, held[len(pairs) :]


def _pairs(compressed: Compressed, held: _Held, grid: tuple[int, int]) -> list[FramePair]:
    """The pairs of a compression, the oldest of those held first."""
    total, pairs, at = grid[0] * grid[1], [], 0
    for number, count in enumerate(compressed.tokens_per_frame):
        kept = compressed.kept_M[at : at + count] - number * total
        time_s, deep = held[number]
        chosen = None if deep is None else deep.index_select(1, kept)
        pairs.append(FramePair(compressed.tokens_MD[at : at + count], kept, grid, time_s, chosen))
        at += count
    return pairs
