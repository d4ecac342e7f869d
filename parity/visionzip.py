"""Area `visionzip`: the class-token path, STC's selection for SigLIP, and the attention-received score."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from parity.base import Case, CaseResult, distance, tensor_file, worst
from stc_lmms.methods.base import Context
from stc_lmms.methods.visionzip import VisionZip, merge_contextual, remaining
from stc_lmms.ops.grid import halve, halved
from stc_lmms.towers.attention_scores import received

# Stated in the cases; kept indices must be equal. Float32 adds its rounding errors.
CLASS_TOKEN, SCORE, SINGLE = 1e-9, 1e-6, 1e-5


def run_case(case: Case, case_path: Path, siblings: Sequence[Case], dtype: torch.dtype) -> CaseResult:
    """Kept indices equal, tokens and scores within tolerance."""
    kind = case["golden"]["kind"]
    runs = {"cls": _class_token, "siglip_frame": _frame, "siglip_score": _score}
    if kind not in runs:
        return CaseResult(float("inf"), 0.0, False, f"unknown kind {kind!r}")
    tensors = load_file(tensor_file(case_path))
    errors, tolerance, done = runs[kind](case["config"], tensors, dtype)
    problems = [f"{name} differs" for name, error in errors.items() if not error <= tolerance]
    return CaseResult(worst(errors.values()), tolerance, not problems, "; ".join(problems) or done)


Outcome = tuple[dict[str, float], float, str]


def _class_token(config: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> Outcome:
    """CLIP: the score is the class token's attention; row 0 is always kept; contextual tokens come last."""
    hidden, keys = tensors["hidden"].to(dtype), tensors["metric"].to(dtype)
    score = tensors["cls_attention"].to(dtype).sum(dim=1)
    best = score.topk(config["dominant_excluding_cls"], dim=1).indices + 1
    kept = torch.cat((torch.zeros_like(best[:, :1]), best), dim=1)
    rest = remaining(kept, hidden.shape[1])
    dominant = _rows(hidden, kept.sort(dim=1).values)
    _, contextual = merge_contextual(_rows(hidden, rest), _rows(keys, rest), config["contextual"])
    out = torch.cat((dominant, contextual), dim=1)
    errors = {
        "out": distance(out, tensors["out"]),
        "all_indices": distance(kept, tensors["all_indices"]),
    }
    tolerance = CLASS_TOKEN if dtype == tensors["hidden"].dtype else SINGLE
    return errors, tolerance, f"{kept.shape[1]} dominant and {contextual.shape[1]} contextual tokens"


def _frame(config: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> Outcome:
    """STC's form on one frame: scores resized like the features, then k tokens in position order.

    The recorded function keeps the *lowest* of its input scores (the text of the cases says the
    highest); what those scores were is not published. Our method keeps the most attended tokens, as the
    paper does, so the scores go in with the other sign.
    """
    tokens = tensors["tokens_196"].to(dtype)
    patches = tensors["scores_729"]
    side = round(len(patches) ** 0.5)
    score = halve(patches.to(dtype)[None, :, None], (side, side))[..., 0]
    method = VisionZip(token_budget=max(1, int(len(tokens) * config["keep_fraction"])))
    context = Context(grid=halved((side, side)), attention_FN=-score)
    out, _ = method.compress(tokens[None], context, method.open_state())
    errors = {
        "scores_196": distance(score[0], tensors["scores_196"]),
        "kept_indices": distance(out.kept_M, tensors["kept_indices"]),
        "out": distance(out.tokens_MD, tensors["out"]),
    }
    return errors, SCORE, f"{len(out.kept_M)} of {len(tokens)} tokens, indices equal"


def _score(config: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> Outcome:
    seen = received(tensors["q"].to(dtype), tensors["k"].to(dtype), config["scale"])
    grid = (config["grid"], config["grid"])
    errors = {
        "score": distance(seen.attention_FT, tensors["score"]),
        "score_pooled": distance(halve(seen.attention_FT[..., None], grid)[..., 0], tensors["score_pooled"]),
    }
    return errors, SCORE, f"{seen.attention_FT.shape[1]} scores and their resized map"


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
