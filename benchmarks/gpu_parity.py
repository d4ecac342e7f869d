"""Checks the arithmetic on this device: golden cases and equal executions, in float32 and bfloat16.

    PYTHONPATH=. python benchmarks/gpu_parity.py --device cuda --output parity.json

float32 must meet the tolerances of the golden cases with equal index sets. bfloat16 has 8 bits: there outputs
may differ by a given share of their norm, and a given share of selected tokens may differ. Prints a line per
check, and one JSON object last; exit status 1 if a check fails, 2 without the device. An exception counts as
a failed check and ends its part; the other parts continue.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from parity import cacher as golden_cacher
from parity import networks
from parity import pruner as golden_pruner
from parity.unfused import unfused
from stc_lmms import compat
from stc_lmms.bench.frames import synthetic_frames
from stc_lmms.bench.options import Options
from stc_lmms.engine.api import Generation, open_device
from stc_lmms.engine.timers import environment
from stc_lmms.errors import StcError
from stc_lmms.methods.stc_cacher import STCCacher, Trace
from stc_lmms.models.llava_onevision.bench import ENTRY
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.ops import rows
from stc_lmms.towers import open_tower

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
AREAS = {"cacher": golden_cacher.run_case, "pruner": golden_pruner.run_case}
# Shares of the norm, and of the selected tokens. A frame that selects other tokens than the original is a
# different computation, so bfloat16 outputs are compared on frames with the same selection.
BF16_TOLERANCE, BF16_MISSED = 0.03, 0.10
GROUPED_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}


class Check(NamedTuple):
    """One comparison."""

    name: str
    error: float
    tolerance: float
    passed: bool
    detail: str


def golden_float32(device: str) -> Iterator[Check]:
    """The recorded cases of the originals, with their own tolerances."""
    for path, case in _cases():
        result = AREAS[case["golden"]["area"]](case, path, [], torch.float32, device=device)
        yield Check(
            f"golden float32 {path.stem}", result.max_error, result.tolerance, result.passed, result.detail
        )


def golden_bfloat16(device: str) -> Iterator[Check]:
    """The cacher's cases in bfloat16: distance in norm, and the share of selected tokens that differ."""
    for path, case in _cases():
        if case["golden"]["area"] != "cacher":
            continue
        tensors = load_file(path.with_suffix(".safetensors"), device=device)
        weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
        config = dict(case["config"]) | {"vision_use_head": case.get("vision_use_head", False)}
        model = networks.tiny_vision_model(case["kind"], config, weights, torch.bfloat16)
        tower = open_tower(model.to(device))
        method = STCCacher(
            cache_interval=case["cache_interval"],
            update_ratio=case["update_token_ratio"],
            selection="shared" if case.get("share_selection") else "per_layer",
        )
        trace = Trace()
        frames = tensors["frames"].to(torch.bfloat16)
        chunk = case.get("frames_per_chunk", 1)
        out = tower.finish(golden_cacher.encode(method, tower, frames, chunk, trace))
        selective = tensors["is_reference"] == 0
        missed = _missed(torch.stack(trace.indices, dim=1), tensors["selected_indices"][selective])
        same = ~selective
        same[selective] = missed == 0
        error, share = norm_error(out[same], tensors["last_hidden_state"][same]), missed.mean().item()
        passed = error <= BF16_TOLERANCE and share <= BF16_MISSED
        detail = (
            f"of the norm over {int(same.sum())} of {len(same)} frames with the same selection; "
            f"{share:.1%} of selected tokens differ (up to {BF16_MISSED:.0%})"
        )
        yield Check(f"golden bfloat16 {path.stem}", error, BF16_TOLERANCE, passed, detail)


def grouped_equals_frame_by_frame(device: str, small: bool) -> Iterator[Check]:
    """The real sizes with random weights: one call of 16 frames against 16 calls of one."""
    layers, llm_layers = (2, 1) if small else (26, 4)
    frames, times_s = synthetic_frames(5 if small else 16)
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        torch.manual_seed(0)
        grouped = _model(method="stc_cacher", dtype=name, device=device, layers=layers, llm_layers=llm_layers)
        settings = dataclasses.replace(grouped.settings, prefill_frames=1)
        single = LlavaOnevision.from_parts(settings, grouped.model, grouped.processor)
        results = [_cached_values(model, frames, times_s)[0] for model in (grouped, single)]
        error, tolerance = norm_error(*results), GROUPED_TOLERANCE[dtype]
        detail = f"of the norm of the cached values; {len(frames)} frames, tower of {layers} layers"
        yield Check(f"grouped = frame by frame {name}", error, tolerance, error <= tolerance, detail)


def graph_equals_eager(device: str, small: bool) -> Iterator[Check]:
    """Frames one by one, as captured graphs and launched eagerly: equal bit for bit, dense and STC.

    Twelve frames are three intervals; the stream is emptied in between and runs them again.
    """
    layers = 2 if small else 26
    frames, times_s = synthetic_frames(12)
    for dtype in ("float32", "bfloat16"):
        for method in ("none", "stc_cacher"):
            torch.manual_seed(0)
            graph = _model(
                protocol="live", method=method, dtype=dtype, device=device, layers=layers, llm_layers=1
            )
            settings = dataclasses.replace(graph.settings, cuda_graphs=False)
            eager = LlavaOnevision.from_parts(settings, graph.model, graph.processor)
            (got, graphed), (wanted, _) = (_cached_values(m, frames, times_s) for m in (graph, eager))
            passed = graphed == 2 * len(frames) and torch.equal(got, wanted)
            detail = f"{graphed} of {2 * len(frames)} frames were graphs {graph.capture.reason}"
            yield Check(f"graph = eager {method} {dtype}", norm_error(got, wanted), 0.0, passed, detail)


def fused_equals_torch(device: str) -> Iterator[Check]:
    """The fused row kernels at the size of SigLIP-so400m, 12 frames of 3 references."""
    tokens, width, count = 729, 1152, 182
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        fused, why = rows.kernels(torch.device(device).type, dtype)
        yield Check(f"fused rows run {name}", 0.0 if fused else 1.0, 0.0, fused is not None, why)
        if fused is None:
            continue
        torch.manual_seed(0)
        x, more, wide = (
            torch.randn(*shape, device=device, dtype=dtype)
            for shape in ((12, tokens, width), (12, count, width), (3, tokens, 3 * width))
        )
        old = wide[..., width : 2 * width]  # a third of a fused projection
        new = x.unflatten(0, (3, 4))
        score = rows.cosine(new, old[:, None]).flatten(0, 1)
        index, place = rows.pick(score, count)
        flat = rows.flat_index(index, tokens)
        got = {
            "take_add": rows.take_add(x, flat, more),
            "overlay": fused.overlay_(x.clone(), old, more, place, False),
            "overlay add": fused.overlay_(x.clone(), old, more, place, True),
        }
        with unfused():
            wanted = rows.cosine(new, old[:, None]).flatten(0, 1)
            error = (score - wanted).abs().max().item()
            yield Check(f"fused cosine {name}", error, 1e-5, error <= 1e-5, "largest difference")
            same = torch.equal(index, rows.lowest(score, count).sort(-1).values)
            yield Check(f"fused lowest {name}", float(not same), 0.0, same, "equal tokens from equal scores")
            each = old.repeat_interleave(4, 0)
            results = {
                "take_add": rows.take_add(x, flat, more),
                "overlay": rows.put_rows_(each.clone(), flat, more),
                "overlay add": rows.put_rows_(x + each, flat, more),
            }
        for what, result in results.items():
            same = torch.equal(got[what], result)
            yield Check(f"fused {what} {name}", norm_error(got[what], result), 0.0, same, "bit for bit")


def _guarded(name: str, part: Iterator[Check]) -> Iterator[Check]:
    """The checks of a part; an exception becomes a failed check that ends the part."""
    try:
        yield from part
    except Exception as error:
        yield Check(name, math.nan, 0.0, False, f"{type(error).__name__}: {compat.first_line(error)}")


def _cached_values(model: LlavaOnevision, frames: Any, times_s: list[float]) -> tuple[Tensor, int]:
    """All values in the KV cache after two runs over the frames, and the number of graphed frames."""
    stream, found, graphed = model.open_stream(), [], 0
    for _ in range(2):
        stream.reset()
        stream.observe(frames, times_s)
        graphed += stream.ask("", Generation(max_new_tokens=1)).efficiency.frames_graphed
        found += [layer.values.flatten() for layer in stream.memory.cache.layers]
    return torch.cat(found), graphed


def norm_error(got: Tensor, wanted: Tensor) -> float:
    """|got - wanted| / |wanted|; NaN stays NaN, which fails every tolerance."""
    got, wanted = got.double(), wanted.double()
    return ((got - wanted).norm() / wanted.norm()).item()


def _missed(got_SLK: Tensor, wanted_SLK: Tensor) -> Tensor:
    """Share of wanted tokens that were not selected, [S] selective frames (L blocks, K tokens)."""
    found = (wanted_SLK[..., :, None] == got_SLK[..., None, :]).any(-1)
    return 1 - found.double().flatten(1).mean(1)


def _model(**options: Any) -> LlavaOnevision:
    """A random model of 0.5B width; keyword arguments are those of `Options`."""
    chosen = Options(size="0.5b", **options)
    return ENTRY.open(chosen, ENTRY.check(chosen)).method


def _cases() -> Iterator[tuple[Path, dict[str, Any]]]:
    for area in AREAS:
        for path in sorted((GOLDEN / area).glob("*.json")):
            yield path, json.loads(path.read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="few layers and frames, for a CPU")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    args = parser.parse_args()
    try:
        device = open_device(args.device)
    except StcError as error:
        print(f"gpu_parity: error: {error}", file=sys.stderr)
        return 2
    torch.backends.cudnn.allow_tf32 = False  # the patch embedding would round float32 to 10 bits
    parts = {
        "golden float32": golden_float32(args.device),
        "golden bfloat16": golden_bfloat16(args.device),
        "grouped = frame by frame": grouped_equals_frame_by_frame(args.device, args.small),
    }
    if device.type == "cuda":
        parts["graph = eager"] = graph_equals_eager(args.device, args.small)
        parts["fused = torch"] = fused_equals_torch(args.device)
    checks, where = [], environment(device)  # before a kernel can break the device
    for name, part in parts.items():
        for check in _guarded(name, part):
            checks.append(check)
            print(
                f"{'pass' if check.passed else 'FAIL'}  {check.name:<44} error {check.error:.2e}  "
                f"tolerance {check.tolerance:.0e}  {check.detail}",
                flush=True,
            )
    failed = sum(not check.passed for check in checks)
    result = {
        "benchmark": "parity",
        "passed": len(checks) - failed,
        "failed": failed,
        # JSON has no NaN and no infinity.
        "checks": [c._asdict() | {"error": c.error if math.isfinite(c.error) else None} for c in checks],
        "environment": where,
    }
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
