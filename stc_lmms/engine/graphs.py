"""One frame at a time as CUDA graphs: tower, in-tower method, projector and pooling in one launch.

A live frame is small: launched kernel by kernel, a selective frame costs as much as a dense one, because
the host cannot keep up. A graph replays the same kernels on the same addresses with one launch. So a graph
reads its frame from a buffer of its own, the references of STC-Cacher are written in place, and what a
graph returns is copied out before the next replay.

Every role (dense, reference, selective) and shape has its own graph. Recording one costs as much as several
frames, so it has to pay: a stream of single frames records at once, but a single frame behind a group may be
no more than its rest, and only a second one of the same kind before the next group is recorded.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stc_lmms.methods.base import TowerMethod, TowerState
from stc_lmms.towers import Patches, Tower

UNKNOWN_ROLE = "what the method does with a frame is not known before it runs"
_WARM_UPS = 3  # libraries choose kernels and allocate workspaces in the first calls
_UNTIMED = nullcontext()


class CudaCapture:
    """Records functions as CUDA graphs.

    Args:
        device: where the model is.
        wanted: the model argument `cuda_graphs`.

    Attributes:
        reason: why frames are launched kernel by kernel; empty while graphs work.
    """

    def __init__(self, device: torch.device, wanted: bool = True):
        self.device = device
        self.reason = ""
        self._side: torch.cuda.Stream | None = None  # one for all: graphs that share memory need the same
        if device.type != "cuda":
            self.reason = f"there are no graphs on {device.type}"
        elif not wanted:
            self.reason = "cuda_graphs=false"

    def new_pool(self) -> Any:
        """Memory that the graphs of one stream share: they never run at the same time."""
        return torch.cuda.graph_pool_handle()

    def record(self, function: Callable[[], Tensor], pool: Any) -> tuple[Tensor, Callable[[], None]]:
        """The buffer that `function` returns, and a call that fills it anew.

        Args:
            function: the same kernels on the same addresses whenever it is called; nothing in it may wait
                for the device. Calling it twice must do no harm: it runs before it is recorded.
            pool: of `new_pool`.
        """
        # Not always the current device (device=cuda:1): elsewhere the kernels would run, but not be recorded.
        with torch.cuda.device(self.device):
            if self._side is None:
                self._side = torch.cuda.Stream()
            current = torch.cuda.current_stream()
            self._side.wait_stream(current)
            with torch.cuda.stream(self._side):
                for _ in range(_WARM_UPS):
                    function()
            current.wait_stream(self._side)
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads may allocate meanwhile (a camera's frames): only this one's mistakes count.
                with torch.cuda.graph(graph, pool, self._side, "thread_local"):
                    output = function()
            finally:
                torch.cuda.set_stream(current)  # a capture that fails leaves the side stream the current one
        return output, graph.replay


class _Frame(NamedTuple):
    """A captured frame: its buffers, what it reads besides, and what the host needs to count it."""

    input: Tensor
    output: Tensor
    replay: Callable[[], None]
    references: Any
    plan: Any
    layout: Any


class FrameRunner:
    """The visual part of a model on the single frames of one stream.

    Args:
        capture: shared by all streams of the model.
        tower: the vision tower.
        method: in-tower method, or None for dense frames.
        state: the stream's state in that method.
        project: tower features [1,T,D] to LLM tokens [1,N,D].
    """

    def __init__(
        self,
        capture: CudaCapture,
        tower: Tower,
        method: TowerMethod | None,
        state: TowerState | None,
        project: Callable[[Tensor], Tensor],
    ):
        self.capture, self.tower, self.method, self.state = capture, tower, method, state
        self.project = project
        self._frames: dict[Any, _Frame] = {}
        self._pool: Any = None
        self.reset()

    def reset(self) -> None:
        """A new stream begins; its frames may use the graphs of the one before."""
        self._met: set[Any] | None = None  # kinds of single frames since the last group; None: no group yet

    @property
    def nbytes(self) -> int:
        """Bytes of the graphs' own inputs and outputs; their scratch memory is not counted."""
        return sum(frame.input.nbytes + frame.output.nbytes for frame in self._frames.values())

    @torch.no_grad()
    def encode(self, x: Tensor | Patches, timed: AbstractContextManager[None] = _UNTIMED) -> Tensor | None:
        """LLM tokens [1,N,D] of the next frame, a tensor of their own; None if it has to run eagerly.

        Groups, of which it has to be told, always run eagerly. Why all single frames do is in
        `capture.reason`.

        Args:
            x: what the tower takes: pixel values [F,3,S,S], or the patches of F temporal slices.
            timed: entered while a graph runs, not while it is recorded, nor when None is returned.
        """
        if len(x) > 1:
            self._met = set()
            return None
        role = self._role()
        if self.capture.reason:
            return None
        kind = (role, *_form(x))
        frame = self._frames.get(kind)
        if frame is None or not self._current(frame):
            if self._met is not None and kind not in self._met:
                self._met.add(kind)
                return None
            try:
                frame = self._record(x)
            except RuntimeError as error:  # an operation that cannot be captured, or no memory for it
                self._frames.clear()
                self.capture.reason = f"capture failed: {(str(_cause(error)).splitlines() or ['?'])[0]}"
                return None
        with timed:
            frame.input.copy_(_tensor(x))
            frame.replay()
            if self.method is not None:
                self.method.commit(frame.plan, frame.layout, self.state)
            return frame.output.clone()

    def _role(self) -> str | None:
        if self.method is None:
            return "dense"
        role = self.method.role(self.state)
        if role is None and not self.capture.reason:
            self.capture.reason = UNKNOWN_ROLE
        return role

    def _current(self, frame: _Frame) -> bool:
        """Whether it writes the references that the stream has now: another shape makes new ones."""
        return self.method is None or frame.references is self.state.references

    def _record(self, x: Tensor | Patches) -> _Frame:
        if self._pool is None:
            self._pool = self.capture.new_pool()
        tower, method = self.tower, self.method
        with torch.inference_mode(False):  # the next frame may come in or outside inference mode
            buffer = Patches(x.rows_PC.clone(), x.grid_thw) if isinstance(x, Patches) else x.clone()
        h_1TD, layout = tower.embed(buffer)
        role, plan, references = "dense", None, None
        if method is not None:
            plan = method.begin(tower, h_1TD, layout, self.state)
            references = self.state.references
            role = "reference" if plan.dense else "selective"  # the first frame of a new shape is dense
            # Graphs of the shape before would hold on to its references.
            self._frames = {key: frame for key, frame in self._frames.items() if self._current(frame)}

        def function() -> Tensor:
            if method is None:
                return self.project(tower.encode(buffer))
            return self.project(method.run(tower, tower.embed(buffer)[0], layout, plan, references))

        frame = _Frame(_tensor(buffer), *self.capture.record(function, self._pool), references, plan, layout)
        self._frames[role, *_form(x)] = frame
        return frame


def _cause(error: BaseException) -> BaseException:
    """What went wrong first: where a capture fails, ending it raises an error that says no more than that."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _tensor(x: Tensor | Patches) -> Tensor:
    return x.rows_PC if isinstance(x, Patches) else x


def _form(x: Tensor | Patches) -> tuple[Any, ...]:
    """What must be equal for two frames to share a graph."""
    tensor = _tensor(x)
    return (x.grid_thw if isinstance(x, Patches) else None), tensor.shape, tensor.dtype
