"""Sums over answers: what a run cost. Torch-free, unlike the clock that measures it (`engine/timers.py`)."""

from collections.abc import Sequence
from typing import Any

STAGES = ("decode_ms", "preprocess_ms", "vit_ms", "project_ms", "method_ms", "prefill_ms")
_SUMMED = (
    "frames_encoded",
    "frames_graphed",
    "tower_tokens",
    "tower_tokens_recomputed",
    "new_tokens",
    *STAGES,
)
_AVERAGED = ("ttft_ms", "per_token_ms", "llm_tokens_mean")
_LARGEST = (
    "llm_tokens_max",
    "frames_seen",
    "context_tokens",
    "kv_bytes",
    "archive_bytes",
    "state_bytes",
    "peak_memory_bytes",
)


def total(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Efficiency of a run from `Efficiency.to_dict()` of its answers: sums, means per answer, maxima."""
    out: dict[str, Any] = {"answers": len(answers)}
    if not answers:
        return out

    def values(name: str) -> list[float]:
        return [answer[name] for answer in answers if answer.get(name) is not None]

    out |= {name: round(sum(values(name)), 3) for name in _SUMMED}
    for name in _AVERAGED:
        known = values(name)
        out[name] = round(sum(known) / len(known), 3) if known else None
    out |= {name: max(values(name), default=0) for name in _LARGEST}
    frames = out["frames_encoded"]
    for stage in ("vit_ms", "prefill_ms"):
        out[f"{stage}_per_frame"] = round(out[stage] / frames, 3) if frames else None
    return out


def recomputed_percent(efficiency: dict[str, Any]) -> float | None:
    """Share of tower tokens that were computed, not reused; None when no frame was encoded."""
    seen = efficiency.get("tower_tokens")
    return 100 * efficiency["tower_tokens_recomputed"] / seen if seen else None


def notes(replayed: int, beyond_context: int, answers: int) -> tuple[str, ...]:
    """Caveats for the readers of a run's costs."""
    found = []
    if replayed:
        found.append(f"{replayed} of {answers} answers were timed by the run that it resumed")
    if beyond_context:
        found.append(f"{beyond_context} answers had more context than the model is made for")
    return tuple(found)
