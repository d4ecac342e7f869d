"""Frames of one stream to the LLM tokens of its temporal slices: resize, tower, merger, token method.

Two consecutive frames are one temporal slice, which is what the tower, STC-Cacher and the token methods take
for a frame. An odd last frame waits for its partner; a question sees it paired with itself (what the stock
processor does at the end of a video), encoded densely and without leaving a trace in the stream.

Shapes: F frames, S slices, N LLM tokens of a slice, G slices given out, K kept tokens, B deepstack levels.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stc_lmms.engine.graphs import FrameRunner
from stc_lmms.engine.timers import StageClock
from stc_lmms.errors import StcError
from stc_lmms.methods.base import Compressed, Context
from stc_lmms.models.qwen_vl.config import frame_size
from stc_lmms.ops.mrope import FramePair
from stc_lmms.ops.transfer import to_device
from stc_lmms.towers import Patches

if TYPE_CHECKING:
    from stc_lmms.models.qwen_vl.model import QwenVL

# What a token method holds back of a slice: its time stamp and its deepstack features [B,N,D].
_Held = list[tuple[float, Tensor | None]]


class FramePairEncoder:
    """The visual half of one stream.

    Attributes:
        kept: LLM tokens of every slice given out.
        tower_tokens: tower tokens of all slices encoded.
        recomputed: how many of them were computed, not reused.
        graphed: frames that were launched as captured graphs.
        slice_tokens: LLM tokens that a slice has at most before compression; fixed by the first frame.
    """

    def __init__(self, model: "QwenVL", clock: StageClock):
        self.model, self.clock = model, clock
        method = model.method.tower
        self.tower_state = method.open_state() if method else None
        self.runner = FrameRunner(model.capture, model.tower, method, self.tower_state, self._project)
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        token = self.model.method.token
        if self.tower_state is not None:
            self.tower_state.reset()
        self.runner.reset()
        self._token_state = token.open_state() if token else None
        self._held: _Held = []
        self._odd: tuple[Tensor, float] | None = None
        self.slice_tokens: int = self.model.options.slice_tokens
        self._shape: tuple[int, int] | None = None
        self._size = (0, 0)
        self.kept: list[int] = []
        self.tower_tokens = self.recomputed = self.graphed = 0

    @property
    def nbytes(self) -> int:
        """Bytes of references, method state, graph buffers and features held back, on the device."""
        states = (self.tower_state, self._token_state)
        held = sum(deep.nbytes for _, deep in self._held if deep is not None)
        return held + self.runner.nbytes + sum(state.nbytes for state in states if state is not None)

    def observe(self, frames: np.ndarray, times_s: Sequence[float]) -> Iterator[list[FramePair]]:
        """Slices that the next frames complete, in groups of `prefill_frames` frames."""
        if not len(frames):
            return
        with self.clock.stage("preprocess_ms"):
            resized = self._resize(frames)
        times_s = list(times_s)
        if self._odd is not None:
            resized, times_s = torch.cat((self._odd[0], resized)), [self._odd[1], *times_s]
        even = len(resized) - len(resized) % 2
        self._odd = (resized[even:].clone(), times_s[even]) if even < len(resized) else None
        step = max(2, self.model.settings.prefill_frames // 2 * 2)
        for start in range(0, even, step):
            stop = min(start + step, even)
            with self.clock.stage("preprocess_ms"):
                patches = self.model.patches(resized[start:stop])
            yield self.encode(patches, times_s[start:stop], resized[start:stop])

    def encode(
        self, patches: Patches, times_s: Sequence[float], resized: Tensor | None = None
    ) -> list[FramePair]:
        """Slices that are given out when the patches of the next S slices have come.

        Args:
            patches: of the tower.
            times_s: time stamps of their 2*S frames.
            resized: those frames, uint8 [2*S,3,H,W]; only for a token method that looks at pixels.
        """
        state = self.tower_state
        before = state.tokens_recomputed if state else 0
        tokens, deep = self._tower(patches)
        count = len(patches) * self.model.tower.layout(patches.size).tokens
        self.tower_tokens += count
        self.recomputed += state.tokens_recomputed - before if state else count
        given, self._token_state, self._held = self._choose(tokens, deep, patches, times_s, resized)
        self.kept.extend(len(one.kept_K) for one in given)
        return given

    def peek(self) -> list[FramePair]:
        """What a question sees beyond the slices given out: those held back, and an odd last frame."""
        token, state, held, given = self.model.method.token, self._token_state, self._held, []
        if self._odd is not None:
            frame, time_s = self._odd
            resized = frame.repeat(2, 1, 1, 1)
            with self.clock.stage("preprocess_ms"):
                patches = self.model.patches(resized)
            with self.clock.stage("vit_ms"):
                tokens, deep = self._dense(patches)
            self.tower_tokens += self.model.tower.layout(patches.size).tokens
            self.recomputed += self.model.tower.layout(patches.size).tokens
            given, state, held = self._choose(tokens, deep, patches, [time_s, time_s], resized)
        pending = None if token is None else token.pending(state)
        if pending is not None:
            given = given + self._slices(pending, held, self._grid())
        return given

    def _resize(self, frames: np.ndarray) -> Tensor:
        """uint8 [F,H,W,3] to uint8 [F,3,h,w]: bicubic with antialiasing, the size of the first frame."""
        options, shape = self.model.options, frames.shape[1:3]
        if self._shape is None:
            limits = options.min_slice_tokens, self.slice_tokens
            self._size = frame_size(*shape, self.model.token_side, *limits)
            if self.model.method.token is not None:
                rows, columns = self._grid()
                self.model.method.token.check(rows * columns)
            self._shape = shape
        if shape != self._shape:
            raise StcError(
                f"a frame of {shape[1]}x{shape[0]} pixels in a stream of {self._shape[1]}x{self._shape[0]}: "
                "the grid of a video cannot change; open a new stream"
            )
        video = to_device(np.ascontiguousarray(frames), self.model.device).permute(0, 3, 1, 2)
        sized = functional.interpolate(video.float(), self._size, mode="bicubic", antialias=True)
        return sized.round_().clamp_(0, 255).to(torch.uint8)

    def _grid(self) -> tuple[int, int]:
        side = self.model.token_side
        return self._size[0] // side, self._size[1] // side

    def _tower(self, patches: Patches) -> tuple[Tensor, Tensor | None]:
        """LLM tokens [S,N,D] and deepstack features [B,S,N,D] of the next slices."""
        model, method = self.model, self.model.method.tower
        self._layout = model.tower.layout(patches.size)
        tokens = self.runner.encode(patches, self.clock.stage("vit_ms"))
        if tokens is not None:
            self.graphed += 2
            return tokens, None
        if method is None:
            with self.clock.stage("vit_ms"):
                return self._dense(patches)
        taps = [] if model.tower.taps else None
        with self.clock.stage("vit_ms"):
            features = method.encode(model.tower, patches, self.tower_state, taps=taps)
        with self.clock.stage("project_ms"):
            return self._project(features), self._deepstack(taps)

    def _dense(self, patches: Patches) -> tuple[Tensor, Tensor | None]:
        tower = self.model.tower
        self._layout = tower.layout(patches.size)
        taps = [] if tower.taps else None
        features = tower.encode(patches, taps)
        return self._project(features), self._deepstack(taps)

    def _project(self, features: Tensor) -> Tensor:
        return self.model.tower.finish(features, self._layout)

    def _deepstack(self, taps: list[Tensor] | None) -> Tensor | None:
        return torch.stack(self.model.tower.deepstack(taps, self._layout)) if taps else None

    def _choose(
        self,
        tokens: Tensor,
        deep: Tensor | None,
        patches: Patches,
        times_s: Sequence[float],
        resized: Tensor | None,
    ) -> tuple[list[FramePair], Any, _Held]:
        """Slices given out, and the new state of the token method; the present one stays as it is."""
        token, merge = self.model.method.token, self.model.tower.merge
        grid = (patches.size[0] // merge, patches.size[1] // merge)
        slice_times = [(a + b) / 2 for a, b in zip(times_s[::2], times_s[1::2], strict=True)]
        held = self._held + [(t, None if deep is None else deep[:, i]) for i, t in enumerate(slice_times)]
        if token is None:
            slices, number = tokens.shape[:2]
            everything = torch.arange(slices * number, device=tokens.device)
            compressed = Compressed(tokens.flatten(0, 1), everything, (number,) * slices)
            return self._slices(compressed, held, grid), None, []
        with self.clock.stage("method_ms"):
            pixels = None
            if "pixels" in token.needs:
                pixels = resized.unflatten(0, (-1, 2)).flatten(1, 2).float().div(255)
            context = Context(times_s=tuple(slice_times), grid=grid, pixels_FCHW=pixels)
            compressed, state = token.compress(tokens, context, self._token_state)
            given = self._slices(compressed, held, grid)
        return given, state, held[len(given) :]

    @staticmethod
    def _slices(compressed: Compressed, held: _Held, grid: tuple[int, int]) -> list[FramePair]:
        """The slices of a compression, the oldest of those held first."""
        total, slices, at = grid[0] * grid[1], [], 0
        for number, count in enumerate(compressed.tokens_per_frame):
            kept = compressed.kept_M[at : at + count] - number * total
            time_s, deep = held[number]
            chosen = None if deep is None else deep.index_select(1, kept)
            slices.append(FramePair(compressed.tokens_MD[at : at + count], kept, grid, time_s, chosen))
            at += count
        return slices
