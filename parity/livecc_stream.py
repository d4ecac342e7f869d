"""The stream case of area `livecc`: three steps of a commentary on a small Qwen2-VL with its weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from parity import networks
from parity.base import Case, CaseResult, distance, tensor_file, worst
from stc_lmms.models.livecc.commentary import Commentary
from stc_lmms.models.livecc.model import LiveCC
from stc_lmms.settings import resolve
from stc_lmms.towers import Patches

# Stated in the case for logits; also used for the features of the tower.
TOLERANCE = {torch.float32: 5e-3, torch.float64: 1e-4}


class _Tokenizer:
    """Placeholder: the case consists of token ids, so nothing is tokenised."""

    def __init__(self, eos_token_id: int):
        self.eos_token_id = eos_token_id

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return " ".join(map(str, ids))


class _Processor:
    def __init__(self, eos_token_id: int):
        self.tokenizer = _Tokenizer(eos_token_id)


def run_stream(case: Case, case_path: Path, dtype: torch.dtype) -> CaseResult:
    """Features, positions, logits and generated ids of every step, for each tower and position mode."""
    tensors = load_file(tensor_file(case_path))
    special = case["special_tokens"]
    text = {k: v for k, v in case["text_config"].items() if k != "mrope_section"}
    model = networks.tiny_qwen_vl(
        "qwen2_vl",
        case["vision_config"],
        text,
        case["text_rope"],
        {
            "video_token_id": special["video_pad"],
            "image_token_id": special["image_pad"],
            "vision_start_token_id": special["vision_start"],
            "vision_end_token_id": special["vision_end"],
            "tie_word_embeddings": False,
        },
        {name.removeprefix("w."): x for name, x in tensors.items() if name.startswith("w.")},
    ).to(dtype)
    errors, problems = [0.0], []
    for run in case["runs"]:
        vision, positions = run["prefix"].split(".")
        method = {"method": "none"}
        if vision == "stc":
            stc = case["stc"]
            method = {
                "method": "stc_cacher",
                "cache_interval": stc["interval"],
                "update_ratio": stc["ratio"],
                "granularity": stc["granularity"],
            }
        penalty = {"repetition_penalty": case["protocol"]["repetition_penalty"]}
        settings = resolve(method | penalty | {"positions": positions, "device": "cpu"}, {}, "livecc")
        loaded = LiveCC.from_parts(settings, model, _Processor(special["eos_for_generation"]))
        loaded.eos_ids = frozenset({special["eos_for_generation"]})
        commentary = loaded.open_commentary(max_new_tokens=case["protocol"]["max_new_tokens"])
        for step in range(case["protocol"]["steps"]):
            found = _step(commentary, case, tensors, step, dtype)
            expected = {
                "features": tensors[f"{vision}.features.{step}"],
                **{
                    name: tensors[f"{run['prefix']}.{name}.{step}"] for name in ("gen", "logits", "positions")
                },
            }
            for name, value in expected.items():
                error = distance(found[name], value)
                errors.append(error)
                exact = name in ("gen", "positions")
                if not error <= (0 if exact else TOLERANCE[dtype]):
                    problems.append(f"{run['prefix']}: {name} of step {step} differ")
    detail = "; ".join(problems[:3]) or (
        f"{len(case['runs'])} runs of {case['protocol']['steps']} steps, ids and positions equal"
    )
    return CaseResult(worst(errors), TOLERANCE[dtype], not problems, detail)


def _step(
    commentary: Commentary, case: Case, tensors: dict[str, Tensor], step: int, dtype: torch.dtype
) -> dict[str, Any]:
    protocol, pad = case["protocol"], case["special_tokens"]["video_pad"]
    first = protocol["initial_slices"] + (step - 1) * protocol["slices_per_later_step"] if step else 0
    count = protocol["slices_per_later_step"] if step else protocol["initial_slices"]
    rows = torch.cat([tensors[f"pixels.{t}"] for t in range(first, first + count)]).to(dtype)
    patches = Patches(rows, [(count, *protocol["grid_per_slice"])])
    pairs = commentary.encoder.encode_pairs(patches, [0.0] * (2 * count))
    ids = tensors[f"prompt.{step}"].tolist()
    start, end = ids.index(pad), len(ids) - ids[::-1].index(pad)
    trace: list[Tensor] = []
    decoded = commentary.advance(ids[:start], pairs, ids[end:], trace)
    generated = [*decoded.token_ids, *([] if decoded.end_id is None else [decoded.end_id])]
    return {
        "features": torch.cat([one.tokens_KD for one in pairs]),
        "gen": torch.tensor(generated),
        "logits": torch.stack(trace),
        "positions": commentary.position_ids,
    }
