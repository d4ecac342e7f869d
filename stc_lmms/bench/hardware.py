"""What the machine can do, measured in the same process: arithmetic and memory rates, and its state.

Rates come from one large matrix product and one large copy through torch, so a floor (`Machine.floor_ms`) can
be reached on this machine. The fastest of several runs counts: other programs may slow down the rest.
"""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from stc_lmms.bench.work import Work

_REPEATS = 10
_QUERY = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,temperature.gpu"


@dataclass(frozen=True)
class Machine:
    """Measured rates of one device in one dtype."""

    flops_per_s: float
    bytes_per_s: float

    def floor_ms(self, work: Work) -> float:
        """Least time: for every call the larger of its arithmetic and its memory time."""
        calls = work.calls or (work,)
        return 1e3 * sum(max(one.flops / self.flops_per_s, one.bytes / self.bytes_per_s) for one in calls)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished; does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_machine(device: torch.device, dtype: torch.dtype, side: int | None = None) -> Machine:
    """Time a `side` x `side` matrix product (random data: zeros can run faster) and a copy."""
    side = side or (8192 if device.type == "cuda" else 1024)
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(side, side, device=device, dtype=dtype, generator=generator) for _ in range(2))
    # The copy has 16 times the elements: 2 GiB in bfloat16 on a GPU, far more than any cache.
    source = left.repeat(16, 1)
    target = torch.empty_like(source)
    product_s = _least_s(lambda: left @ right, device)
    copy_s = _least_s(lambda: target.copy_(source), device)
    return Machine(2 * side**3 / product_s, 2 * source.nbytes / copy_s)


def _least_s(run: Callable[[], object], device: torch.device) -> float:
    times = []
    for repeat in range(_REPEATS + 3):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        if repeat >= 3:  # the first calls load kernels and raise the clocks
            times.append(time.perf_counter() - start)
    return min(times)


def gpu_state() -> dict[str, str] | None:
    """Driver, clocks, power and temperature as reported by nvidia-smi; None without it."""
    query = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    try:
        reported = subprocess.run(
            query, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (subprocess.SubprocessError, OSError):
        return None
    values = [value.strip() for value in reported.partition("\n")[0].split(",")]
    return dict(zip(_QUERY.split(","), values, strict=True)) if reported else None
