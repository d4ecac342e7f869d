"""Where do the fused row kernels win? STC-Cacher with them and with PyTorch's, and dense, in turn.

    PYTHONPATH=. python benchmarks/row_kernels.py --device cuda --output rows.json

The tower of LLaVA-OneVision with random weights. `frame`: one live frame, dense, reference or selective, as
a captured graph on a GPU. `group`: 16 frames (`--small`: 4) in one call, launched eagerly. Prints a line for
every case; the last line is one JSON object with every sample, in milliseconds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from parity.unfused import unfused
from stc_lmms import compat
from stc_lmms.engine.api import open_device
from stc_lmms.engine.graphs import CudaCapture
from stc_lmms.engine.timers import environment
from stc_lmms.methods.stc_cacher import STCCacher
from stc_lmms.methods.stc_cacher_roles import FrameRoles
from stc_lmms.models.public_sizes import SO400M
from stc_lmms.ops import rows
from stc_lmms.towers import Tower, open_tower

KERNELS = {"fused": nullcontext, "torch": unfused}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="two layers and few rounds, for a CPU")
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    args = parser.parse_args()
    device, dtype = open_device(args.device), torch.bfloat16 if args.device != "cpu" else torch.float32
    warmup, repeats, group = (1, 2, 4) if args.small else (5, 30, 16)
    layers = 2 if args.small else SO400M["num_hidden_layers"]
    config, model = compat.vision_classes("siglip")
    sizes = SO400M | {"num_hidden_layers": layers, "vision_use_head": False}
    torch.manual_seed(0)
    with torch.device(device):
        weights = model._from_config(config(**sizes), dtype=dtype, attn_implementation="sdpa").eval()
    tower = open_tower(weights)
    shape = (group, 3, SO400M["image_size"], SO400M["image_size"])
    pixels = torch.randn(shape, device=device, dtype=dtype)
    name = rows.kernels(device.type, dtype).name
    print(f"fused kernels: {name}; {layers} layers, {dtype}, {environment(device)['device']}")
    with torch.inference_mode():
        runs = _runs(tower, pixels)
        for _, run in runs.values():
            run()  # compiled before anything is measured
        samples = {key: [] for key in runs}
        for number in range(warmup + repeats):
            for key, (kernels, run) in runs.items():
                with kernels():
                    elapsed = _timed(run, device)
                if number >= warmup:
                    samples[key].append(round(elapsed, 4))
    medians = {key: statistics.median(found) for key, found in samples.items()}
    for key, value in medians.items():
        over = value / medians["frame dense" if key.startswith("frame") else "group dense"]
        print(f"{key:<24}{value:>10.3f} ms  {over:.2f} of dense")
    result = {
        "benchmark": "row_kernels",
        "kernels": name,
        "layers": layers,
        "dtype": str(dtype).removeprefix("torch."),
        "group": group,
        "median_ms": medians,
        "samples_ms": samples,
        "environment": environment(device),
    }
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def _runs(tower: Tower, pixels: Tensor) -> dict[str, tuple[Callable, Callable[[], object]]]:
    """Everything that is measured: the kernels it wants, and a call."""
    capture, cacher = CudaCapture(pixels.device), STCCacher()
    found = {
        "frame dense": (nullcontext, _graph(capture, lambda: tower.encode(pixels[:1]))),
        "group dense": (nullcontext, lambda: tower.encode(pixels)),
    }
    for name, kernels in KERNELS.items():
        with kernels():
            for role, roles in (("reference", FrameRoles((True,))), ("selective", FrameRoles((False,)))):
                found[f"frame {role} {name}"] = kernels, _graph(capture, _frame(tower, cacher, pixels, roles))

        def group() -> Tensor:
            return cacher.encode(tower, pixels, cacher.open_state())

        found[f"group {name}"] = kernels, group
    return found


def _frame(tower: Tower, cacher: STCCacher, pixels: Tensor, roles: FrameRoles) -> Callable[[], Tensor]:
    state = cacher.open_state()
    cacher.encode(tower, pixels[:1], state)  # makes the references

    def run() -> Tensor:
        h_1TD, layout = tower.embed(pixels[1:2])
        return cacher.run(tower, h_1TD, layout, roles, state.references)

    return run


def _graph(capture: CudaCapture, function: Callable[[], Tensor]) -> Callable[[], object]:
    if capture.reason:
        return function
    output, replay = capture.record(function, capture.new_pool())
    # What the graph reads and writes lives as long as what is returned.
    return lambda alive=(function, output): replay()


def _timed(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds, by events on a GPU."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


if __name__ == "__main__":
    main()
