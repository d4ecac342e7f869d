"""Area `vidcom2`: the authors' pipeline on complete videos, and STC's chunk-by-chunk ports."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from parity.base import Case, CaseResult, distance, tensor_file, worst
from parity.markers import with_markers
from stc_lmms.methods.select import take, take_each
from stc_lmms.methods.stc_pruner import PrunerState, STCPruner
from stc_lmms.methods.vidcom2 import frame_rates, pick, score_video
from stc_lmms.ops.kernels import gaussian_similarity
from stc_lmms.ops.rows import lowest

# Stated in the cases: relative for scores, of which the largest is 5; everything else is exact.
TOLERANCE = 1e-5
MARKED = {"llava_vid": (13, 13)}  # rows and columns of layouts whose rows end in a marker


def run_case(case: Case, case_path: Path, siblings: Sequence[Case], dtype: torch.dtype) -> CaseResult:
    """Kept indices and tokens equal; scores and rates within tolerance."""
    kind = case["golden"]["kind"]
    runs = {"pipeline": _pipeline, "rekv_stream": _rekv_stream}
    if kind not in runs:
        return CaseResult(float("inf"), 0.0, False, f"unknown kind {kind!r}")
    tensors = load_file(tensor_file(case_path))
    errors, done = runs[kind](case["config"], tensors, dtype)
    problems = [f"{name} differs" for name, error in errors.items() if not error <= TOLERANCE]
    return CaseResult(worst(errors.values()), TOLERANCE, not problems, "; ".join(problems) or done)


def published_counts(rates_T: Tensor, tokens: int) -> list[int]:
    """Tokens kept per frame with the authors' rounding; the total may miss the budget by some tokens."""
    return (rates_T * tokens).round().clamp_min(1).long().tolist()


def _pipeline(
    config: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype
) -> tuple[dict[str, float], str]:
    frames, tokens = config["frames"], config["tokens_per_frame"]
    patches_TND = tensors["features"].to(dtype).unflatten(0, (frames, tokens))
    scores = score_video(patches_TND)
    rates = frame_rates(scores.video_TN, config["base_scale"])
    counts = published_counts(rates, tokens)
    kept = pick(scores, counts)
    flat = torch.cat([index.sort().values + t * tokens for t, index in enumerate(kept)])
    out = take_each(patches_TND, kept)
    out_MD = out.tokens_MD
    if (grid := MARKED.get(config["model"])) is not None:
        out_MD = tensors["img_feat"].to(dtype)[with_markers(out.kept_M, out.tokens_per_frame, grid)]
    errors = {
        "channels": distance(scores.channels_C, tensors["channels"]),
        "video_score": _relative(scores.video_TN, tensors["video_score"]),
        "frame_score": _relative(scores.frame_TN, tensors["frame_score"]),
        "scales": _relative(rates, tensors["scales"]),
        "kept_per_frame": distance(torch.tensor(counts), tensors["kept_per_frame"]),
        "kept_indices": distance(flat, tensors["kept_indices"]),
        "out": distance(out_MD, tensors["out"]),
    }
    return errors, f"{frames} frames keep {', '.join(map(str, counts))} of {tokens}, indices equal"


def _rekv_stream(
    config: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype
) -> tuple[dict[str, float], str]:
    """Consecutive chunks, k tokens per frame, selected by the sum of scores that the strategy uses."""
    strategy, budget = config["prune_strategy"], config["k"]
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown prune_strategy {strategy!r}")
    chunks_BFND = tensors["features"].to(dtype).unflatten(1, (config["frames_per_chunk"], -1))
    pruner = STCPruner(token_budget=budget)
    found, _ = pruner.score(chunks_BFND, PrunerState())
    kept_all, out_all, raw_all = [], [], []
    for chunk, channels, memory in zip(chunks_BFND, found.channels, found.memory, strict=True):
        own = score_video(chunk)
        z = torch.nn.functional.normalize(chunk[..., channels], dim=-1)
        parts = {
            "video": own.video_TN,
            "frame": own.frame_TN,
            "memory": gaussian_similarity(z, torch.nn.functional.normalize(memory, dim=-1)),
        }
        score = sum(parts[name] for name in STRATEGIES[strategy])
        kept = take(chunk, lowest(score, budget))
        kept_all.append(kept.kept_M)
        out_all.append(kept.tokens_MD)
        raw_all.append(chunk[..., channels].flatten(0, 1).mean(dim=0))
    errors = {
        "kept_indices": distance(torch.stack(kept_all), tensors["kept_indices"]),
        "out": distance(torch.stack(out_all), tensors["out"]),
    }
    if "memory" in tensors:
        errors["memory"] = distance(torch.stack(raw_all), tensors["memory"])
    if strategy == "vidcom2_two_score":  # the method of that name uses this score
        compressed, _ = pruner.compress_chunks(chunks_BFND, PrunerState())
        errors["vidcom2_two_score"] = distance(compressed.tokens_MD, torch.cat(out_all))
    return errors, f"{len(chunks_BFND)} chunks, {budget} tokens of each frame, indices equal"


STRATEGIES = {
    "vidcom2_orignal": ("frame", "video"),  # spelt like this in the cases
    "vidcom2_original": ("frame", "video"),
    "vidcom2_two_score": ("frame", "memory"),
    "vidcom2_only_memory": ("memory",),
    "dart": ("frame",),
}


def _relative(got: Tensor, expected: Tensor) -> float:
    return (
        distance(got / expected, torch.ones_like(expected)) if got.shape == expected.shape else float("inf")
    )
