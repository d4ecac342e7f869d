"""Area `tome`: single matching steps, small encoders, schedules, and STC's one-shot merge."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from parity import networks
from parity.base import Case, CaseResult, distance, tensor_file, worst
from stc_lmms.methods.tome import merge_once, merging_block
from stc_lmms.ops.merge import Matching, match, merge_weighted
from stc_lmms.towers import open_tower

# Stated in the cases. A float64 case in float32 arithmetic is allowed the rounding of float32.
MATCH, ENCODER, ONE_SHOT, SINGLE = 1e-9, 2e-5, 1e-6, 1e-5


def run_case(case: Case, case_path: Path, siblings: Sequence[Case], dtype: torch.dtype) -> CaseResult:
    """Same tokens in the same order, same groups, same sizes."""
    kind = case["golden"]["kind"]
    if kind == "parse_r":
        return _schedules(case)
    runs = {"match": _match, "encoder": _encoder, "stc_oneshot": _one_shot}
    if kind not in runs:
        return CaseResult(float("inf"), 0.0, False, f"unknown kind {kind!r}")
    tensors = load_file(tensor_file(case_path))
    errors, tolerance, done = runs[kind](case["config"], tensors, dtype)
    problems = [f"{name} differs" for name, error in errors.items() if not error <= tolerance]
    return CaseResult(worst(errors.values()), tolerance, not problems, "; ".join(problems) or done)


Outcome = tuple[dict[str, float], float, str]


def _schedules(case: Case) -> CaseResult:
    wrong = 0
    for row in case["cases"]:
        r, inflect = row["r"], 0.0
        if isinstance(r, dict):
            r, inflect = r["r"], r["inflect"]
        wrong += published_schedule(row["num_layers"], r, inflect) != row["expect"]
    detail = f"{wrong} schedules differ" if wrong else f"{len(case['cases'])} schedules equal"
    return CaseResult(float(wrong), 0.0, not wrong and bool(case["cases"]), detail)


def published_schedule(layers: int, r: int | list[int], inflect: float = 0.0) -> list[int]:
    """The authors' `r` argument as tokens merged per layer.

    A list is padded with zeros. A number is the mean: with `inflect` the layers range linearly from
    r (1 - inflect) to r (1 + inflect), each truncated to an integer.
    """
    if isinstance(r, list):
        return (r + [0] * layers)[:layers]
    first = int(r * (1 - inflect))
    step = 2 * (r - first) / max(layers - 1, 1)
    return [int(first + step * i) for i in range(layers)]


def _match(config: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> Outcome:
    metric, x = tensors["metric"].to(dtype), tensors["x"].to(dtype)
    found = match(metric, config["r_requested"], config["class_token"], config["distill_token"])
    if found is None:
        return {"out_wavg": distance(x, tensors["out_wavg"])}, MATCH, "nothing to merge"
    ones = torch.ones_like(x[..., :1])
    everyone = torch.eye(config["N"], dtype=dtype).expand(len(x), -1, -1)
    unit, unit_size = merge_weighted(found, x, ones)
    weighted, size = merge_weighted(found, x, tensors["size_in"].to(dtype))
    got = {
        "out_wavg_unit": unit,
        "size_out_unit": unit_size,
        "out_wavg": weighted,
        "size_out": size,
        "source": found.sum(everyone),
        "out_mean_mode": found.sum(x) / found.sum(ones),
        # The authors' unmerge does not undo the reordering of a distillation token.
        "unmerged": _unmerge(replace(found, distill_token=False), unit),
    }
    errors = {name: distance(got[name], tensors[name]) for name in got if name in tensors}
    tolerance = MATCH if dtype == tensors["x"].dtype else SINGLE
    return errors, tolerance, f"{x.shape[1]} to {weighted.shape[1]} tokens, groups and order equal"


def token_groups(matching: Matching) -> Tensor:
    """For each of the N tokens, the index among the M of the token it became: [F,N]."""
    order_FM = matching.sources()
    rank_FM = torch.arange(order_FM.shape[1], device=order_FM.device).expand_as(order_FM)
    rank_FN = order_FM.new_zeros(len(order_FM), matching.tokens).scatter(1, order_FM, rank_FM)
    target_rank = rank_FN.gather(1, 2 * matching.target_Fr + 1)
    return rank_FN.scatter(1, 2 * matching.source_Fr, target_rank)


def _unmerge(matching: Matching, x_FMC: Tensor) -> Tensor:
    """Copy each merged token back to all tokens that were merged into it: [F,N,C]."""
    index_FN1 = token_groups(matching)[..., None]
    return x_FMC.gather(1, index_FN1.expand(-1, -1, x_FMC.shape[-1]))


def _encoder(config: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> Outcome:
    tower = open_tower(_tower_model(config, tensors, dtype))
    plain, layout = tensors["hidden_in"].to(dtype), None
    h, size = plain, None
    groups = torch.arange(h.shape[1]).expand(len(h), -1)
    errors = {}
    for depth, (block, r) in enumerate(zip(tower.blocks, config["r_schedule"], strict=True)):
        plain = block.dense(plain, layout)
        h, size, found = merging_block(block, h, size, r, class_token=False, proportional=config["prop_attn"])
        if found is not None:
            groups = token_groups(found).gather(1, groups)
        errors[f"hidden.{depth}"] = distance(h, tensors[f"hidden.{depth}"])
        if f"size.{depth}" in tensors:
            expected = tensors[f"size.{depth}"]
            errors[f"size.{depth}"] = float("inf") if size is None else distance(size, expected)
    errors["out_no_merge"] = distance(plain, tensors["out_no_merge"])
    if "source" in tensors:
        errors["source"] = distance(torch.nn.functional.one_hot(groups, h.shape[1]).mT, tensors["source"])
    return errors, ENCODER, f"{tensors['hidden_in'].shape[1]} to {h.shape[1]} tokens in {depth + 1} layers"


def _tower_model(config: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> torch.nn.Module:
    """A SigLIP with the encoder of the case; all other parts are unused and zero."""
    width, patch = config["hidden"], 2
    side = config["grid"][0]
    vision = {
        "hidden_size": width,
        "intermediate_size": config["mlp"],
        "num_hidden_layers": config["layers"],
        "num_attention_heads": config["heads"],
        "image_size": side * patch,
        "patch_size": patch,
        "hidden_act": config["act"],
        "layer_norm_eps": config["ln_eps"],
        "vision_use_head": False,
    }
    weights = {
        "vision_model.embeddings.patch_embedding.weight": torch.zeros(width, 3, patch, patch),
        "vision_model.embeddings.patch_embedding.bias": torch.zeros(width),
        "vision_model.embeddings.position_embedding.weight": torch.zeros(side * side, width),
        "vision_model.post_layernorm.weight": torch.zeros(width),
        "vision_model.post_layernorm.bias": torch.zeros(width),
    }
    for name, tensor in tensors.items():
        if name.startswith("w."):
            weights[f"vision_model.encoder.{name.removeprefix('w.')}"] = tensor
    return networks.tiny_vision_model("siglip", vision, weights, dtype)


def _one_shot(config: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> Outcome:
    features = tensors["features"].to(dtype)
    if features.shape[1] % 2:
        merged = torch.stack([_odd_one_shot(x, config["r"]) for x in features])
    else:
        merged = merge_once(features, config["r"])
    tolerance = ONE_SHOT if dtype == tensors["features"].dtype else SINGLE
    done = f"{features.shape[1]} to {merged.shape[1]} tokens"
    return {"out": distance(merged, tensors["out"])}, tolerance, done


def _odd_one_shot(x_ND: Tensor, r: int) -> Tensor:
    """How STC's file treats an odd number of tokens, where our method differs on purpose.

    It pads with a zero token, which can be merged into, and then cuts off two tokens instead of one: the
    last real one is lost.
    """
    tokens = len(x_ND)
    unit = torch.nn.functional.normalize(torch.cat((x_ND, torch.zeros_like(x_ND[:1]))), dim=-1)
    best, partner = (unit[::2] @ unit[1::2].T).max(dim=1)
    source = best.argsort(descending=True, stable=True)[:r]
    label = torch.arange(tokens + 1)
    label[2 * source] = 2 * partner[source] + 1
    label = label[: tokens - 1]
    return torch.stack([x_ND[: tokens - 1][label == group].mean(dim=0) for group in label.unique()])
