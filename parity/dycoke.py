"""Area `dycoke`: token selection of one video, and the choice of visible tokens while decoding."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from parity.base import Case, CaseResult, distance, tensor_file, worst
from stc_lmms.memory.dycoke_dp import DecodePruning
from stc_lmms.methods.base import Context
from stc_lmms.methods.dycoke import DyCoke


def run_case(case: Case, case_path: Path, siblings: Sequence[Case], dtype: torch.dtype) -> CaseResult:
    """All comparisons are exact: index sets per frame or step, and the values gathered at them."""
    run = {"ttm": _tokens, "dp": _decoding}.get(case["golden"]["kind"])
    if run is None:
        return CaseResult(float("inf"), 0.0, False, f"unknown kind {case['golden']['kind']!r}")
    tensors = {
        name: x.to(dtype) if x.is_floating_point() else x
        for name, x in load_file(tensor_file(case_path)).items()
    }
    errors, problems, detail = run(case["config"], case, tensors)
    if worst(errors) != 0:
        problems.append("gathered values differ")
    return CaseResult(worst(errors), 0.0, not problems, "; ".join(problems) or detail)


def _tokens(
    config: dict[str, float], case: Case, tensors: dict[str, Tensor]
) -> tuple[list[float], list[str], str]:
    frames, length = config["frames"], config["tokens_per_frame"]
    tokens_FND = tensors["features"].unflatten(0, (frames, length))
    method = DyCoke(merge_ratio=config["merging_ratio_K"])
    compressed, _ = method.compress(tokens_FND, Context(), method.open_state())
    ours = [
        set(row.tolist()) for row in (compressed.kept_M % length).split(list(compressed.tokens_per_frame))
    ]
    # Rules for the end of a video, which a stream does not have: see the method.
    for frame in range(frames):
        if frame % DyCoke.anchor_every == 2 and frame - 2 >= frames - DyCoke.anchor_every:
            ours[frame] = set(range(length))
    if frames % 2:
        ours[-1] = set()
    kept = tensors["kept_indices"]
    theirs = [set((kept[kept // length == frame] % length).tolist()) for frame in range(frames)]
    wrong = [frame for frame in range(frames) if ours[frame] != theirs[frame]]
    problems = [f"kept tokens of frames {wrong} differ"] if wrong else []
    error = distance(tokens_FND.flatten(0, 1)[kept], tensors["out"])
    return [error], problems, f"{frames} frames, kept sets equal"


def _decoding(
    config: dict[str, float], case: Case, tensors: dict[str, Tensor]
) -> tuple[list[float], list[str], str]:
    start, length = config["image_token_start_index"], config["image_token_length"]
    choice = DecodePruning(range(start, start + length), config["dycoke_p"], layer=1)
    keys, values = tensors["key_prompt"], tensors["value_prompt"]
    errors, problems = [], []
    for step in case["steps"]:
        i = step["step"]
        keys = torch.cat((keys, tensors[f"key_new.{i}"]), dim=2)
        values = torch.cat((values, tensors[f"value_new.{i}"]), dim=2)
        visible = choice.choose(tensors[f"attn.{i}"][0, :, 0])
        if (visible is not None) != step["pruned"]:
            problems.append(f"step {i} is pruned in one and not in the other")
            continue
        if visible is None:
            visible = torch.arange(keys.shape[2])
        kept, order = tensors[f"kept.{i}"].sort()
        if not torch.equal(visible, kept):
            problems.append(f"visible tokens of step {i} differ")
            continue
        errors.append(distance(keys[:, :, visible], tensors[f"key_out.{i}"][:, :, order]))
        errors.append(distance(values[:, :, visible], tensors[f"value_out.{i}"][:, :, order]))
    return errors or [0.0], problems, f"{len(case['steps'])} steps, visible tokens equal"
