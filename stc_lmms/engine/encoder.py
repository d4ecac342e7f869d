"""The visual part of one stream: frames through tower and projector, timed and counted.

Shapes: F frames, T tower tokens, D width of the tower; N tokens per frame of width E behind the projector.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from stc_lmms.engine.graphs import UNKNOWN_ROLE, CudaCapture, FrameRunner
from stc_lmms.engine.timers import StageClock
from stc_lmms.methods.base import TowerMethod
from stc_lmms.towers import Tower


def note_unknown_role(capture: CudaCapture, method: TowerMethod | None) -> None:
    """Give `capture` its reason before any frame, if the method cannot tell what a frame will be."""
    if not capture.reason and method is not None and method.role(method.open_state()) is None:
        capture.reason = UNKNOWN_ROLE


class FrameEncoder:
    """Encodes the frames of one stream, single ones as captured graphs where that is possible.

    Args:
        clock: gets `vit_ms` and `project_ms`.
        capture: shared by all streams of the model.
        tower: the vision tower.
        method: in-tower method, or None for dense frames.
        project: tower features [F,T,D] to tokens [F,N,E].

    Attributes:
        frames: frames encoded since the start of the stream.
        state: the stream's state in the method; None without one.
        runner: its captured graphs.
    """

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
        """Forget the stream; its buffers may be kept for the next one."""
        if self.state is not None:
            self.state.reset()
        self.runner.reset()
        self.frames = 0
        self._graphed = self._billed_frames = self._billed_recomputed = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the method's state and of the graphs' buffers."""
        return self.runner.nbytes + (self.state.nbytes if self.state is not None else 0)

    @property
    def recomputed(self) -> float:
        """Share of the tower tokens that were computed, not reused."""
        state = self.state
        return state.tokens_recomputed / state.tokens_seen if state and state.tokens_seen else 1.0

    def encode(self, pixels: Tensor, dense: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Tokens [F,N,E] of the next F frames.

        Args:
            pixels: what the tower takes.
            dense: runs the tower in place of `tower.encode`, for instance to look at its attention.
        """
        self.frames += len(pixels)
        tokens = self.runner.encode(pixels, self.clock.stage("vit_ms"))
        if tokens is not None:
            self._graphed += 1
            return tokens
        with self.clock.stage("vit_ms"):
            if self.method is not None:
                features = self.method.encode(self.tower, pixels, self.state)
            else:
                features = (dense or self.tower.encode)(pixels)
        with self.clock.stage("project_ms"):
            return self.project(features)

    def take_costs(self) -> dict[str, Any]:
        """What was encoded since the last bill, as fields of `Efficiency`."""
        encoded = self.frames - self._billed_frames
        tokens = recomputed = encoded * self.tower.num_tokens
        if self.state is not None:
            recomputed = self.state.tokens_recomputed - self._billed_recomputed
            self._billed_recomputed = self.state.tokens_recomputed
        graphed, self._graphed, self._billed_frames = self._graphed, 0, self.frames
        return {
            "frames_seen": self.frames,
            "frames_encoded": encoded,
            "frames_graphed": graphed,
            "tower_tokens": tokens,
            "tower_tokens_recomputed": recomputed,
        }
