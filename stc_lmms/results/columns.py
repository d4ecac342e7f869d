"""The columns of every table about runs: their keys, headings, definitions and how costs become cells."""

from collections.abc import Mapping
from typing import Any

from stc_lmms.results.totals import recomputed_percent

MIB = 2**20
# Key of a cell to its heading, in the order of the leaderboard: the most important ones first.
HEADINGS = {
    "run": "run",
    "method": "method",
    "benchmark": "benchmark",
    "accuracy": "accuracy %",
    "tokens_mean": "tokens/frame",
    "frame_ms": "ms/frame",
    "vit_ms": "ViT ms/frame",
    "prefill_ms": "prefill ms/frame",
    "ttft_ms": "TTFT ms",
    "token_ms": "ms/token",
    "tokens_max": "tokens/frame max",
    "recomputed": "recomputed %",
    "kv_mib": "KV MiB",
    "state_mib": "state MiB",
    "peak_mib": "peak MiB",
    "frames": "frames",
    "strict": "strict %",
    "macro": "macro %",
    "micro": "micro %",
    "n": "n",
    "n_missing": "missing",
    "n_unparsed": "unparsed",
    "n_failed": "failed",
    "memory": "memory",
    "model": "model",
}
TEXT = frozenset({"run", "method", "benchmark", "memory", "model"})
SCORE = ("n", "n_missing", "n_unparsed", "n_failed", "accuracy", "strict", "macro", "micro")
DEFINITIONS = {
    "accuracy %": "the average that the benchmark itself reports, by its official scorer; missing, unparsed "
    "and failed answers count as wrong. In plain lmms-eval files: the first metric where higher is better; "
    "values of at most 1 are read as fractions",
    "strict %": "by the strict scorer, in the same average",
    "macro %, micro %": "mean over parts of the mean over their tasks; pooled over all questions",
    "tokens/frame": "LLM tokens kept per frame: mean over answers of the mean over the stream; max: the most "
    "kept for any frame",
    "recomputed %": "share of vision-tower tokens that were computed, not reused",
    "ms/frame": "ViT, projector, token method and prefill for one frame, without decoding and preprocessing",
    "ViT ms/frame, prefill ms/frame": "vision tower including the method in it; prefill of visual tokens",
    "TTFT ms": "from the question to its first answer token, mean over answers",
    "ms/token": "each further answer token, mean over answers",
    "KV MiB, state MiB, peak MiB": "largest KV cache of one stream; everything that a stream holds on the "
    "device; peak memory of the device, or of the process where there is no GPU",
    "frames": "frames encoded in the whole run",
    "Pareto front": "runs that no other run beats in accuracy or cost without being worse in the other. Only "
    "runs on the same benchmark, with the same number of questions and (for time) hardware, are compared",
    "costs": "over all answers of a run, that is, over all benchmarks evaluated together",
}


def costs(efficiency: Mapping[str, Any]) -> dict[str, Any]:
    """The cost cells of a run from its efficiency (`stc_lmms.results.totals.total`); None where unknown."""
    frames = efficiency.get("frames_encoded")
    stages = ("vit_ms", "project_ms", "method_ms", "prefill_ms")

    def mib(name: str) -> float | None:
        return efficiency[name] / MIB if name in efficiency else None

    return {
        "frames": frames,
        "recomputed": recomputed_percent(efficiency),
        "tokens_mean": efficiency.get("llm_tokens_mean"),
        "tokens_max": efficiency.get("llm_tokens_max"),
        "frame_ms": sum(efficiency[stage] for stage in stages) / frames if frames else None,
        "vit_ms": efficiency.get("vit_ms_per_frame"),
        "prefill_ms": efficiency.get("prefill_ms_per_frame"),
        "ttft_ms": efficiency.get("ttft_ms"),
        "token_ms": efficiency.get("per_token_ms"),
        "kv_mib": mib("kv_bytes"),
        "state_mib": mib("state_bytes"),
        "peak_mib": mib("peak_memory_bytes"),
    }


COST = tuple(costs({}))


def shown(value: Any) -> str:
    """A cell as text: fractions with two decimals, `-` for an unknown value."""
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
