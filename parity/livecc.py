"""Area `livecc`: a small Qwen-VL tower with its weights, and STC-Cacher on some slices.

The steps of a commentary are in `livecc_stream.py`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from parity import networks
from parity.base import Case, CaseResult, SkipCase, distance, tensor_file, worst
from stc_lmms import compat
from stc_lmms.errors import CheckpointError
from stc_lmms.methods.stc_cacher import STCCacher, Trace
from stc_lmms.towers import Patches, Tower, open_tower

# Stated in the cases: largest absolute difference, and in float32 also the relative L2 distance.
TOLERANCE = {torch.float32: 2e-3, torch.float64: 1e-5}
RELATIVE = {torch.float32: 1e-4, torch.float64: 1e-4}

Outputs = dict[str, Tensor]


def run_case(case: Case, case_path: Path, siblings: Sequence[Case], dtype: torch.dtype) -> CaseResult:
    """Dense and selective outputs within tolerance, index sets and roles equal, for any grouping of slices.

    Raises:
        SkipCase: the case needs what this version does not have.
    """
    kind = case["golden"]["kind"]
    if kind == "stream":
        from parity.livecc_stream import run_stream

        return run_stream(case, case_path, dtype)
    if kind != "tower":
        return CaseResult(float("inf"), 0.0, False, f"unknown kind {kind!r}")
    try:
        compat.vision_classes(case["tower"])
    except CheckpointError as error:
        raise SkipCase(str(error)) from error
    tensors = load_file(tensor_file(case_path))
    weights = {k.removeprefix("w."): v for k, v in tensors.items() if k.startswith("w.")}
    tower = open_tower(networks.tiny_vision_model(case["tower"], case["config"], weights, dtype))

    checks = _Checks(tensors, TOLERANCE[dtype], RELATIVE[dtype])
    dense = {}
    for name, sizes in case["sequences"].items():
        clips = [
            Patches(tensors[f"{name}.pixels.{t}"].to(dtype), [(1, *size)]) for t, size in enumerate(sizes)
        ]
        dense[name] = [_dense(tower, clip) for clip in clips]
        checks.outputs(f"{name}.dense", dense[name])
    for run in case["runs"]:
        sizes = case["sequences"][run["sequence"]]
        rows = [tensors[f"{run['sequence']}.pixels.{t}"].to(dtype) for t in range(len(sizes))]
        for pieces in _cuts(sizes):
            checks.run(run, _selective(tower, run, rows, sizes, pieces), dense[run["sequence"]])
    checks.all_compared()
    detail = "; ".join(checks.problems[:3]) or (
        f"{len(case['runs'])} runs, each slice by slice and in one call per grid, index sets equal"
    )
    return CaseResult(worst(checks.errors), checks.tolerance, not checks.problems, detail)


def _cuts(sizes: Sequence[Sequence[int]]) -> Iterator[list[range]]:
    """The slices one by one; then in as few calls as consecutive grids allow."""
    yield [range(t, t + 1) for t in range(len(sizes))]
    starts = [t for t in range(len(sizes)) if t == 0 or sizes[t] != sizes[t - 1]]
    yield [range(a, b) for a, b in zip(starts, [*starts[1:], len(sizes)], strict=True)]


def _dense(tower: Tower, clip: Patches) -> Outputs:
    taps: list[Tensor] = []
    hidden = tower.encode(clip, taps)
    (one,) = _outputs(tower, clip, hidden, taps)
    return one


def _outputs(tower: Tower, clip: Patches, hidden: Tensor, taps: Sequence[Tensor]) -> list[Outputs]:
    """The values that the cases record, per slice."""
    _, layout = tower.embed(clip)
    found = {"hidden": hidden, "merged": tower.finish(hidden, layout)}
    found |= {f"deepstack{j}": x for j, x in enumerate(tower.deepstack(taps, layout))}
    return [{name: x[t] for name, x in found.items()} for t in range(len(clip))]


def _selective(
    tower: Tower, run: Case, rows: Sequence[Tensor], sizes: Sequence[Sequence[int]], pieces: Sequence[range]
) -> list[dict[str, Any]]:
    """Outputs, role, and index sets and similarities by block, of every slice."""
    cacher = STCCacher(
        cache_interval=run["interval"], update_ratio=run["ratio"], granularity=run["granularity"]
    )
    state, slices = cacher.open_state(), []
    for piece in pieces:
        clip = Patches(torch.cat([rows[t] for t in piece]), [(len(piece), *sizes[piece[0]])])
        trace, taps = Trace(), []
        hidden = cacher.encode(tower, clip, state, trace, taps=taps)
        for t, outputs in enumerate(_outputs(tower, clip, hidden, taps)):
            selective = t in trace.selective
            at = trace.selective.index(t) if selective else None
            slices.append(
                outputs
                | {
                    "reference": not selective,
                    "sel": [x[at] for x in trace.indices] if selective else [],
                    "sim": [x[at] for x in trace.similarity] if selective else [],
                }
            )
    return slices


class _Checks:
    """Compares with the recorded tensors and collects differences."""

    def __init__(self, tensors: dict[str, Tensor], tolerance: float, relative: float):
        self.tensors, self.tolerance, self.relative = tensors, tolerance, relative
        self.errors: list[float] = [0.0]
        self.problems: list[str] = []
        self.compared: set[str] = set()

    def all_compared(self) -> None:
        """Every recorded output must have been compared."""
        recorded = {n for n in self.tensors if not n.startswith("w.") and ".pixels." not in n}
        self.problems += [f"{name} is missing in ours" for name in sorted(recorded - self.compared)]

    def near(self, name: str, got: Tensor, relative: bool = False) -> None:
        self.compared.add(name)
        expected = self.tensors[name].double()
        error = distance(got, expected)
        self.errors.append(error)
        far = relative and not ((got.double() - expected).norm() <= self.relative * expected.norm())
        if not error <= self.tolerance or far:
            self.problems.append(f"{name} differs")

    def outputs(self, prefix: str, slices: Sequence[Outputs]) -> None:
        for t, found in enumerate(slices):
            for name, got in found.items():
                if name.startswith(("hidden", "merged", "deepstack")):
                    self.near(f"{prefix}.{name}.{t}", got, relative=True)

    def run(self, run: Case, slices: Sequence[dict[str, Any]], dense: Sequence[Outputs]) -> None:
        prefix = run["prefix"]
        if [found["reference"] for found in slices] != run["is_reference_slice"]:
            self.problems.append(f"{prefix}: reference slices differ")
            return
        self.outputs(prefix, slices)
        for t, found in enumerate(slices):
            for block, (got, sim) in enumerate(zip(found["sel"], found["sim"], strict=True)):
                name = f"{prefix}.sel.{t}.{block}"
                self.compared.add(name)
                if not torch.equal(got.sort().values, self.tensors[name].long()):
                    self.problems.append(f"{name} differs")
                self.near(f"{prefix}.sim.{t}.{block}", sim)
            away = (found["merged"] - dense[t]["merged"]).norm() / dense[t]["merged"].norm()
            self.errors.append(abs(away.item() - run["rel_l2_merged_vs_dense"][t]))
            if not self.errors[-1] <= self.tolerance:
                self.problems.append(f"{prefix}: distance to dense of slice {t} differs")
