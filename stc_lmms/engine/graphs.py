"""Single frames as CUDA graphs: tower, in-tower method, projector and pooling in one launch.

Launched kernel by kernel, a selective frame costs as much as a dense one, because the host cannot keep up.
A graph replays the same kernels on the same addresses: it reads its frame from its own buffer, the references
of STC-Cacher are written in place, and its output is copied before the next replay.

Every role (dense, reference, selective) and shape has its own graph. Recording one costs as much as several
frames. A stream of single frames records at once; a single frame after a group may only be the group's
remainder, so the second one of its kind before the next group is recorded.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stc_lmms.methods.base import TowerMethod, TowerState
from stc_lmms.towers import Patches, Tower

UNKNOWN_ROLE = "the role of a frame is not known before the method runs"
_WARM_UPS = 3  # libraries choose kernels and allocate workspaces in the first calls
_UNTIMED = nullcontext()


class CudaCapture:
    """Records functions as CUDA graphs; `reason` says why not, and is empty while graphs work."""

    def __init__(self, device: torch.device, enabled: bool = True):
        self.device = device
        self.reason = ""
        self._side: torch.cuda.Stream | None = None  # graphs that share memory need the same
        if device.type != "cuda":
            self.reason = f"there are no graphs on {device.type}"
        elif not enabled:
            self.reason = "cuda_graphs=false"

    def new_pool(self) -> Any:
        """Memory shared by the graphs of one stream, which never run at once."""
        return torch.cuda.graph_pool_handle()

    def record(self, function: Callable[[], Tensor], pool: Any) -> tuple[Tensor, Callable[[], None]]:
        """The buffer that `function` returns, and a call that recomputes it.

        `function` is called several times; it must run the same kernels on the same addresses and never wait.
        """
        # The model's device need not be the current one (device=cuda:1), but only that one is recorded.
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
                # thread_local: other threads may allocate meanwhile (a camera's frames).
                with torch.cuda.graph(graph, pool, self._side, "thread_local"):
                    output = function()
            finally:
                torch.cuda.set_stream(current)  # a failed capture leaves the side stream current
        return output, graph.replay


class _Frame(NamedTuple):
    """A captured frame: its buffers, the references it reads, and what the host needs to count it."""

    input: Tensor
    output: Tensor
    replay: Callable[[], None]
    references: Any
    plan: Any
    layout: Any


class FrameRunner:
    """Tower and projector on the single frames of one stream; arguments as for `FrameEncoder`."""

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
        """A new stream begins; it may use the graphs of the previous one."""
        self._kinds: set[Any] | None = None  # of single frames since the last group; None: no group yet

    @property
    def nbytes(self) -> int:
        """Bytes of the graphs' inputs and outputs, without their scratch memory."""
        return sum(frame.input.nbytes + frame.output.nbytes for frame in self._frames.values())

    @torch.no_grad()
    def encode(self, x: Tensor | Patches, timed: AbstractContextManager[None] = _UNTIMED) -> Tensor | None:
        """LLM tokens [1,N,D] of the next frame in a new tensor; None if it has to run eagerly.

        Groups always run eagerly, but must be passed, too. `timed` is entered only while a graph runs.
        """
        if len(x) > 1:
            self._kinds = set()
            return None
        role = self._role()
        if self.capture.reason:
            return None
        kind = (role, *_form(x))
        frame = self._frames.get(kind)
        if frame is None or not self._current(frame):
            if self._kinds is not None and kind not in self._kinds:
                self._kinds.add(kind)
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
        """Whether it writes the stream's present references; another shape makes new ones."""
        return self.method is None or frame.references is self.state.references

    def _record(self, x: Tensor | Patches) -> _Frame:
        if self._pool is None:
            self._pool = self.capture.new_pool()
        tower, method = self.tower, self.method
        with torch.inference_mode(False):  # the next frame may come outside inference mode
            buffer = Patches(x.rows_PC.clone(), x.grid_thw) if isinstance(x, Patches) else x.clone()
        h_1TD, layout = tower.embed(buffer)
        role, plan, references = "dense", None, None
        if method is not None:
            plan = method.begin(tower, h_1TD, layout, self.state)
            references = self.state.references
            role = "reference" if plan.dense else "selective"  # the first frame of a new shape is dense
            # Graphs of an earlier shape would keep its references alive.
            self._frames = {key: frame for key, frame in self._frames.items() if self._current(frame)}

        def function() -> Tensor:
            if method is None:
                return self.project(tower.encode(buffer))
            return self.project(method.run(tower, tower.embed(buffer)[0], layout, plan, references))

        frame = _Frame(_tensor(buffer), *self.capture.record(function, self._pool), references, plan, layout)
        self._frames[role, *_form(x)] = frame
        return frame


def _cause(error: BaseException) -> BaseException:
    """The first error: ending a failed capture raises another one that says nothing."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _tensor(x: Tensor | Patches) -> Tensor:
    return x.rows_PC if isinstance(x, Patches) else x


def _form(x: Tensor | Patches) -> tuple[Any, ...]:
    """Frames of equal form can share a graph."""
    tensor = _tensor(x)
    return (x.grid_thw if isinstance(x, Patches) else None), tensor.shape, tensor.dtype
