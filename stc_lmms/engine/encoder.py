"""Vision tower and projector of one stream, timed and counted.

Shapes: F frames, T tower tokens, D width of the tower; N tokens per frame of width E after the projector.
"""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from stc_lmms.engine.graphs import CudaCapture, FrameRunner
from stc_lmms.engine.timers import StageClock
from stc_lmms.methods.base import TowerMethod
from stc_lmms.towers import Patches, Tower


class FrameEncoder:
    """Encodes the frames of one stream; single frames run as captured graphs where possible.

    Args:
        clock: gets `vit_ms` and `project_ms`.
        capture: shared by all streams of the model.
        tower: the vision tower.
        method: in-tower method, or None for dense frames.
        project: tower features [F,T,D] to tokens [F,N,E].

    Attributes:
        tower_tokens: tower tokens of all frames of the stream so far.
        tokens_recomputed: how many of them were computed, not reused.
        graphed: video frames that ran as captured graphs.
    """

    video_frames: ClassVar[int] = 1  # that are one frame for the tower

    def __init__(
        self,
        clock: StageClock,
        capture: CudaCapture,
        tower: Tower,
        method: TowerMethod | None,
        project: Callable[[Tensor], Tensor],
    ):
        self.clock, self.tower, self.method, self.project = clock, tower, method, project
        self.state = method.open_state() if method else None
        self.runner = FrameRunner(capture, tower, method, self.state, project)
        self.reset()

    def reset(self) -> None:
        """Forget the stream; buffers may be kept for the next one."""
        if self.state is not None:
            self.state.reset()
        self.runner.reset()
        self.tower_tokens = self.tokens_recomputed = self.graphed = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the method's state and of the graphs' buffers."""
        return self.runner.nbytes + (self.state.nbytes if self.state is not None else 0)

    @property
    def recomputed(self) -> float:
        """Share of the tower tokens that were computed, not reused; 1 before the first frame."""
        return self.tokens_recomputed / self.tower_tokens if self.tower_tokens else 1.0

    def encode(
        self,
        x: Tensor | Patches,
        dense: Callable[[Tensor], Tensor] | None = None,
        taps: list[Tensor] | None = None,
    ) -> Tensor:
        """Tokens [F,N,E] of the next F frames.

        `dense` runs the tower instead of `tower.encode`, for instance to read its attention.
        """
        state = self.state
        before = state.tokens_recomputed if state is not None else 0
        tokens = self.runner.encode(x, self.clock.stage("vit_ms"))
        if tokens is not None:
            self.graphed += self.video_frames
        elif self.method is None:
            return self.encode_dense(x, dense, taps)
        else:
            with self.clock.stage("vit_ms"):
                features = self.method.encode(self.tower, x, state, taps=taps)
            with self.clock.stage("project_ms"):
                tokens = self.project(features)
        self._count(x, None if state is None else state.tokens_recomputed - before)
        return tokens

    def encode_dense(
        self,
        x: Tensor | Patches,
        dense: Callable[[Tensor], Tensor] | None = None,
        taps: list[Tensor] | None = None,
    ) -> Tensor:
        """The same without the method, whose state does not change."""
        with self.clock.stage("vit_ms"):
            features = self.tower.encode(x, taps) if dense is None else dense(x)
        self._count(x, None)
        with self.clock.stage("project_ms"):
            return self.project(features)

    def _count(self, x: Tensor | Patches, recomputed: int | None) -> None:
        tower = self.tower
        per_frame = tower.layout(x.size).tokens if isinstance(x, Patches) else tower.num_tokens
        self.tower_tokens += len(x) * per_frame
        self.tokens_recomputed += len(x) * per_frame if recomputed is None else recomputed
