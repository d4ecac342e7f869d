"""Area `pruner`: consecutive chunks of tokens through one STC-Pruner."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from parity.base import Case, CaseResult, distance, tensor_file, worst
from parity.markers import with_markers
from stc_lmms.methods.stc_pruner import STCPruner

# Scores are stored with atol 1e-5; float32 sums of Gaussians stay within that as well.
TOLERANCE = 1e-5


def run_case(
    case: Case, case_path: Path, siblings: Sequence[Case], dtype: torch.dtype, *, device: str = "cpu"
) -> CaseResult:
    """Scores and anchors within tolerance; channels, kept indices and kept tokens equal."""
    kind = case["golden"]["kind"]
    if kind != "stream":
        return CaseResult(float("inf"), 0.0, False, f"unknown kind {kind!r}")
    tensors = load_file(tensor_file(case_path), device=device)
    pruner = STCPruner(
        token_budget=case["token_per_frame"],
        strategy=case["strategy"],
        history=case.get("history", "official"),
        alpha=0.5 if case.get("alpha") is None else case["alpha"],
        channel_keep=case["channel_keep_ratio"],
    )
    frames, patches = case["frames_per_chunk"], case["tokens_per_frame_in"]
    patches_BFND = tensors["features"].to(dtype).unflatten(1, (frames, patches))
    scores, _ = pruner.score(patches_BFND, pruner.open_state())
    compressed, _ = pruner.compress_chunks(patches_BFND, pruner.open_state())
    raw_BFND, kept_M = _raw_stream(case, tensors, patches_BFND), compressed.kept_M
    if (grid := _grid(case)) is not None:
        kept_M = with_markers(kept_M, compressed.tokens_per_frame, grid)
    out_MD = raw_BFND.flatten(0, 2)[kept_M]

    chunks, stream = len(raw_BFND), raw_BFND.shape[1] * raw_BFND.shape[2]
    kept = kept_M.view(chunks, -1) - torch.arange(chunks, device=device)[:, None] * stream
    errors = {
        "scores": distance(scores.value, tensors["scores"]),
        "memory_mean": distance(scores.memory, tensors["memory_mean"]),
    }
    if "output" in tensors:
        errors["output"] = distance(out_MD.view(chunks, kept.shape[1], -1), tensors["output"])
    problems = [f"{name} differs" for name, error in errors.items() if not error <= TOLERANCE]
    problems += [
        f"{name} differs"
        for name, got in (("kept_channels", scores.channels), ("kept_indices", kept))
        if not torch.equal(got, tensors[name])
    ]
    detail = "; ".join(problems) or f"{chunks} chunks, {kept.shape[1]} tokens kept of each, indices equal"
    return CaseResult(worst(errors.values()), TOLERANCE, not problems, detail)


def _grid(case: Case) -> tuple[int, int] | None:
    """Rows and columns of a layout with a marker after every row; None for one without markers."""
    grid = re.fullmatch(r"grid_(\d+)x(\d+)", case.get("layout", "flat"))
    return None if grid is None else (int(grid[1]), int(grid[2]))


def _raw_stream(case: Case, tensors: dict[str, Tensor], patches_BFND: Tensor) -> Tensor:
    """The recorded token stream, with a marker after every row if the layout has them."""
    if (grid := _grid(case)) is None:
        return patches_BFND
    rows_BFRCD = patches_BFND.unflatten(2, grid)
    shape = (*rows_BFRCD.shape[:3], 1, rows_BFRCD.shape[-1])
    markers = tensors["raw_marker_values"].to(patches_BFND.dtype)[:, None, None].expand(shape)
    return torch.cat((rows_BFRCD, markers), dim=3).flatten(2, 3)
