"""A CUDA device that computes nothing, for what a machine without a GPU can still show about one.

PyTorch's fake tensors have shapes, dtypes and devices but no numbers. Code that mixes up devices fails on
them as it would on a GPU, and every place where the host waits for the device shows.
"""

import contextlib
import dataclasses
import sys
from pathlib import Path
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import stc_lmms
from parity.unfused import unfused

PACKAGE = str(Path(stc_lmms.__file__).parent)
_READ = torch.ops.aten._local_scalar_dense.default  # what `item`, `tolist`, `bool` and `int` come to


class FakeCuda(TorchDispatchMode):
    """Use it as a context manager.

    Attributes:
        waits: public functions of the package, "file:name", in which the host waited for the device: it read
            a number, or copied to or from memory that is not pinned, or not in one piece.
        copies: public functions in which anything was copied between host and device.
    """

    def __init__(self):
        super().__init__()
        self.waits, self.copies = set(), set()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        for name, stub in _STUBS.items():
            self._stack.enter_context(mock.patch(name, stub))
        self._stack.enter_context(unfused())  # Triton wants numbers
        self._stack.enter_context(self._fake)
        return super().__enter__()

    def __exit__(self, *exc):
        super().__exit__(*exc)
        self._stack.close()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is _READ:
            if args[0].device.type == "cuda":
                self.waits.add(_caller())
            return {True: 0.5, False: 1}[args[0].is_floating_point()]
        out = function(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor) and x.numel()]
        copy = function in _COPIES
        # Other operations take numbers of the host as they are, but copy indices.
        if {x.device.type for x in tensors if copy or x.dim() or x.is_cuda} == {"cpu", "cuda"}:
            self.copies.add(_caller())
            queued = copy and (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            if not queued or not _in_one_piece(tensors):
                self.waits.add(_caller())
        return out

    def tensor(self, x):
        """A tensor like `x` on the device; call it outside of the context."""
        with self._fake:
            return self._fake.from_tensor(x.detach()).to("cuda")

    def like(self, x):
        """A dataclass or tuple like `x` with its tensors, however deep, on the device."""
        if isinstance(x, torch.Tensor):
            return self.tensor(x)
        if isinstance(x, tuple):
            return tuple(map(self.like, x))
        if dataclasses.is_dataclass(x):
            return dataclasses.replace(x, **{name: self.like(value) for name, value in vars(x).items()})
        return x

    def move(self, *modules):
        """Put modules on the device; shared weights stay shared."""
        made = {}
        for module in (inner for outer in modules for inner in outer.modules()):
            for name, x in (*module._parameters.items(), *module._buffers.items()):
                if x is None:
                    continue
                if id(x) not in made:  # with the original: its id must not be given to another tensor
                    made[id(x)] = x, self.tensor(x)
                fake = made[id(x)][1]
                if name in module._parameters:
                    module._parameters[name] = torch.nn.Parameter(fake, requires_grad=False)
                else:
                    module._buffers[name] = fake


def _caller():
    """The innermost public function of the package that is running."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_qualname.partition(".<locals>")[0]
        public = not name.rpartition(".")[2].startswith(("_", "<"))
        if public and frame.f_code.co_filename.startswith(PACKAGE):
            return f"{Path(frame.f_code.co_filename).stem}:{name}"
        frame = frame.f_back
    return "?"


def _in_one_piece(tensors):
    """Whether PyTorch (Copy.cu) copies these between host and device with no pageable memory in between."""
    host, device = (next(x for x in tensors if x.is_cuda is wanted) for wanted in (False, True))
    host = host.expand(device.shape)
    gapless = 1 + sum((n - 1) * step for n, step in zip(host.shape, host.stride())) == host.numel()
    alike = host.dtype == device.dtype and host.stride() == device.stride()
    return host.is_contiguous() or (gapless and alike)


_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class _Event:
    def __init__(self, enable_timing=False):
        pass

    def record(self, stream=None):
        pass

    def elapsed_time(self, end):
        return 1.0


class _Stream:
    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass


_STUBS = {
    "torch.cuda.Event": _Event,
    "torch.cuda.Stream": _Stream,
    "torch.cuda.current_stream": _Stream,
    "torch.cuda.stream": contextlib.nullcontext,
    "torch.cuda.synchronize": lambda device=None: None,
    "torch.cuda.max_memory_allocated": lambda device=None: 0,
    "torch.Tensor.pin_memory": lambda x: x,
    "torch.Tensor.record_stream": lambda x, stream: None,
}
