"""Area `streamdycoke`: token selection, the DP cache's operations, and the published synthetic experiment."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from parity.base import Case, CaseResult, tensor_file, worst
from stc_lmms.memory.dp_cache import DPCache, Pools
from stc_lmms.methods.base import Context
from stc_lmms.methods.streamdycoke import StreamDyCoke


def run_case(case: Case, case_path: Path, siblings: Sequence[Case], dtype: torch.dtype) -> CaseResult:
    """Masks, ids and counts equal; floats within the tolerance stated in each case."""
    run = {"ttm": _tokens, "dp_ops": _operations, "benchmark": _benchmark}.get(case["golden"]["kind"])
    if run is None:
        return CaseResult(float("inf"), 0.0, False, f"unknown kind {case['golden']['kind']!r}")
    return run(case, case_path, dtype)


def _result(errors: list[float], tolerance: float, problems: list[str], detail: str) -> CaseResult:
    if not worst(errors) <= tolerance:
        problems = [*problems, "values differ"]
    shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
    return CaseResult(worst(errors), tolerance, not problems, shown or detail)


def _tokens(case: Case, case_path: Path, dtype: torch.dtype) -> CaseResult:
    config, tensors = case["config"], load_file(tensor_file(case_path))
    frames_TND = tensors["frames"].to(dtype)
    method = _method(config)
    errors, problems, state = [0.0], [], method.open_state()
    for t, frame_ND in enumerate(frames_TND):
        compressed, state = method.compress(frame_ND[None], Context(), state)
        mask = torch.zeros(len(frame_ND), dtype=torch.uint8)
        mask[compressed.kept_M] = 1
        if not torch.equal(mask, tensors["kept_mask"][t]):
            problems.append(f"kept tokens of frame {t} differ")
        if not config["is_anchor"][t]:
            earlier = frames_TND[max(0, t + 1 - config["window_size"]) : t]
            errors.append(float((method.score(frame_ND, earlier) - tensors["max_sim"][t]).abs().max()))
    return _result(errors, 1e-6, problems, f"{len(frames_TND)} frames, masks equal")


def _method(config: Mapping[str, Any]) -> StreamDyCoke:
    return StreamDyCoke(
        similarity_threshold=config["similarity_threshold"],
        window_size=config["window_size"],
        anchor_every=config["anchor_every"],
    )


def _operations(case: Case, case_path: Path, dtype: torch.dtype) -> CaseResult:
    config, errors, problems = case["config"], [0.0], []
    for policy, expect in case["expect"].items():
        cache, made = _CountedCache(config["capacity"], policy, config["decay_lambda"]), 0
        for i, ((name, value), expected) in enumerate(zip(case["ops"], expect["trace"], strict=True)):
            result: Any = None
            if name == "insert":
                cache.insert(made, value)
                result, made = made, made + 1
            elif name == "advance":
                cache.clock += value
            else:
                result = [list(entry) for entry in cache.restore(value)]
            if result != expected["result"] or cache.ids.tolist() != expected["ids"]:
                problems.append(f"{policy}: operation {i} ({name}) differs")
        final = np.stack((cache.ids, cache.attention, cache.inserted_at, cache.last_access), axis=1)
        wanted_final = np.array(expect["final"], dtype=float)
        same = final.shape == wanted_final.shape
        errors.append(float(np.abs(final - wanted_final).max(initial=0)) if same else float("inf"))
        stats = {
            "num_inserts": cache.inserts,
            "num_restores": cache.restores,
            "num_evictions": cache.evictions,
            "size": len(cache),
            "clock": cache.clock,
        }
        wrong = {k: v for k, v in expect["stats"].items() if stats[k] != v}
        problems += [f"{policy}: {k} is {stats[k]}, not {v}" for k, v in wrong.items()]
    return _result(errors, 1e-9, problems, f"{len(case['ops'])} operations, 3 policies, ids equal")


def _benchmark(case: Case, case_path: Path, dtype: torch.dtype) -> CaseResult:
    config, tensors = case["config"], load_file(tensor_file(case_path))
    errors, problems = [0.0], []
    for policy, expect in case["expect"].items():
        runs = []
        for seed, expected in zip(config["seeds"], expect["per_seed"], strict=True):
            frames = tensors[f"frames.{seed}"].to(dtype)
            runs.append(_play(config, policy, frames, tensors[f"attention.{seed}"]))
            _compare(runs[-1], {k: v for k, v in expected.items() if k != "seed"}, errors, problems)
        means = {k: float(np.mean([run[k] for run in runs])) for k in expect["mean"]}
        _compare(means, expect["mean"], errors, problems)
    return _result(errors, 1e-6, problems, f"{len(config['seeds'])} seeds, 3 policies, counts equal")


class _CountedCache(DPCache):
    inserts = evictions = restores = 0

    def insert(self, entry: int, attention: float) -> None:
        self.inserts += 1
        self.evictions += len(self) >= self.capacity
        super().insert(entry, attention)

    def restore(self, count: int) -> list[tuple[int, float]]:
        restored = super().restore(count)
        self.restores += len(restored)
        return restored


def _play(
    config: Mapping[str, Any], policy: Any, frames_TND: torch.Tensor, attention_TN: torch.Tensor
) -> dict[str, Any]:
    """One seed under one policy, with the names of the recorded results."""
    method, cache = _method(config), _CountedCache(config["dp_capacity"], policy, config["decay_lambda"])
    pools = Pools(config["active_capacity"], cache)
    rows: dict[str, list[int]] = {"in_active": [], "in_dp": [], "kept_after_ttm_total": []}
    state, kept_total = method.open_state(), 0
    for frame_ND, attention_N in zip(frames_TND, attention_TN, strict=True):
        compressed, state = method.compress(frame_ND[None], Context(), state)
        kept = compressed.kept_M
        entries = list(range(kept_total, kept_total + len(kept)))
        kept_total += len(kept)
        pools.take_frame(entries, attention_N[kept].tolist())
        for name, value in zip(rows, (len(pools.active), len(cache), kept_total), strict=True):
            rows[name].append(value)
        pools.refresh(config["refresh_every"], config["refresh_top_k"])
    return {
        "ttm_total_reduction": 1 - kept_total / attention_TN.numel(),
        "dp_inserts": cache.inserts,
        "dp_evictions": cache.evictions,
        "dp_restores": cache.restores,
        "dp_final_size": len(cache),
        "dp_final_mean_attention": float(cache.attention.mean()),
        "dp_final_mean_age_frames": float((cache.clock - cache.inserted_at).mean()),
        "active_final_mean_attention": float(np.mean(pools.attention)),
        "per_frame": rows,
        "dp_final_attention_sorted": sorted(cache.attention.tolist()),
        "active_final_attention_sorted": sorted(pools.attention),
    }


def _compare(
    got: Mapping[str, Any], expected: Mapping[str, Any], errors: list[float], problems: list[str]
) -> None:
    for name, value in expected.items():
        if name == "per_frame":
            problems += [f"{row} per frame differs" for row in value if got[name][row] != value[row]]
        elif isinstance(value, int):
            problems += [] if got[name] == value else [f"{name} is {got[name]}, not {value}"]
        else:
            errors += _differences(got[name], value)


def _differences(got: Any, expected: Any) -> list[float]:
    a, b = np.atleast_1d(got), np.atleast_1d(expected)
    return [float(np.abs(a - b).max(initial=0))] if a.shape == b.shape else [float("inf")]
