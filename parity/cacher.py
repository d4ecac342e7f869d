"""Area `cacher`: a small SigLIP or CLIP tower with its weights, and recorded outputs for some frames."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from parity import networks
from parity.base import Case, CaseResult, distance, tensor_file, worst
from stc_lmms.methods.stc_cacher import STCCacher, Trace
from stc_lmms.methods.stc_cacher_roles import FrameRoles
from stc_lmms.towers import Tower, open_tower

# Stated in the cases: float64 outputs are stored rounded; float32 adds the rounding errors of a tower.
TOLERANCE = {torch.float32: 2e-3, torch.float64: 1e-5}


def run_case(
    case: Case, case_path: Path, siblings: Sequence[Case], dtype: torch.dtype, *, device: str = "cpu"
) -> CaseResult:
    """All hidden states within tolerance, and every selected index set equal."""
    kind = case["golden"]["kind"]
    if kind != "tower":
        return CaseResult(float("inf"), 0.0, False, f"unknown kind {kind!r}")
    tensors = load_file(tensor_file(case_path), device=device)
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    config = dict(case["config"]) | {"vision_use_head": case.get("vision_use_head", False)}
    tower = open_tower(networks.tiny_vision_model(case["kind"], config, weights, dtype).to(device))
    cacher = STCCacher(
        cache_interval=case["cache_interval"],
        update_ratio=case["update_token_ratio"],
        selection="shared" if case.get("share_selection") else "per_layer",
        metric=case.get("metric", "cosine").removeprefix("negative_"),
    )
    frames = tensors["frames"].to(dtype)
    trace = Trace()
    last = tower.finish(encode(cacher, tower, frames, case.get("frames_per_chunk", 1), trace))

    errors = [distance(last, tensors["last_hidden_state"])]
    if "hidden_states" in tensors:
        errors += map(distance, trace.hidden, tensors["hidden_states"].unbind(1))
    if "dense_last_hidden_state" in tensors:
        errors.append(distance(tower.finish(tower.encode(frames)), tensors["dense_last_hidden_state"]))
    errors += _similarity_errors(tensors, trace)
    wrong_roles, wrong_sets = _compare_selection(tensors, trace)
    tolerance = TOLERANCE[dtype]
    problems = []
    if wrong_roles:
        problems.append(f"{wrong_roles} frames have the wrong role")
    if wrong_sets:
        problems.append(f"{wrong_sets} selected index sets differ")
    if not all(error <= tolerance for error in errors):  # not max(): it can lose a NaN
        problems.append("hidden states or similarities differ")
    detail = (
        "; ".join(problems) or f"{len(frames)} frames, {len(trace.selective)} selective, index sets equal"
    )
    return CaseResult(worst(errors), tolerance, not problems, detail)


@torch.no_grad()
def encode(cacher: STCCacher, tower: Tower, frames: Tensor, chunk: int, trace: Trace) -> Tensor:
    """Features of all frames in one call; the frames of a chunk share one role."""
    h_FTD, layout = tower.embed(frames)
    state = cacher.open_state()
    cacher.begin(tower, h_FTD, layout, state)
    roles = FrameRoles(tuple(i // chunk % cacher.cache_interval == 0 for i in range(len(frames))))
    return cacher.run(tower, h_FTD, layout, roles, state.references, trace)


def _similarity_errors(tensors: dict[str, Tensor], trace: Trace) -> list[float]:
    """Differences of the scores, in the blocks that score."""
    expected = tensors["similarity"][trace.selective]
    return [
        distance(got, expected[:, block]) for block, got in enumerate(trace.similarity) if got is not None
    ]


def _compare_selection(tensors: dict[str, Tensor], trace: Trace) -> tuple[int, int]:
    is_selective = tensors["is_reference"] == 0
    ours = torch.zeros_like(is_selective)
    ours[trace.selective] = True
    wrong_roles = int((ours != is_selective).sum())
    if wrong_roles or not trace.selective:
        return wrong_roles, 0
    expected = tensors["selected_indices"][is_selective].sort(-1).values
    got = torch.stack(trace.indices, dim=1).sort(-1).values
    if got.shape != expected.shape:
        return 0, expected.shape[0] * expected.shape[1]
    return 0, int((got != expected).any(-1).sum())
