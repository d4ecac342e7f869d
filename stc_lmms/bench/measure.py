"""Measure two models on the same frames alternately: dense, method, dense, method, ...

Stage times are those of the efficiency record: CUDA events on a GPU, wall clock on a CPU. `observe_ms` is
wall clock from the first frame to the end of the prefill, with the device idle before and after.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from stc_lmms.bench.entry import QUESTION, Pair
from stc_lmms.bench.hardware import synchronize
from stc_lmms.engine.api import Generation, Stream, StreamingModel

# In order; `decode_ms` is measured separately, and only for a real video.
OBSERVE_STAGES = ("preprocess_ms", "vit_ms", "project_ms", "method_ms", "prefill_ms")
STAGES = (*OBSERVE_STAGES, "observe_ms", "ttft_ms", "per_token_ms")
SLOWER = 1.03

SIZES = (
    "llm_tokens_mean",
    "frames_graphed",
    "tower_tokens",
    "tower_tokens_recomputed",
    "kv_bytes",
    "state_bytes",
)


@dataclass
class Samples:
    """All rounds of one model: milliseconds by stage, and the sizes after the last round."""

    ms: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    sizes: dict[str, Any] = field(default_factory=dict)


def summary(times: Sequence[float]) -> dict[str, float]:
    """Minimum, median and 95th percentile (nearest rank)."""
    ranked = sorted(times)
    p95 = ranked[math.ceil(0.95 * len(ranked)) - 1]
    return {"min": ranked[0], "median": round(statistics.median(ranked), 4), "p95": p95}


@dataclass
class Comparison:
    """Dense and method on the same frames."""

    dense: Samples = field(default_factory=Samples)
    method: Samples = field(default_factory=Samples)

    def ratios(self) -> dict[str, float | None]:
        """Method over dense: median of the ratios per round, so that a slow spell of the machine cancels."""
        by_stage = {stage: self._ratios(stage) for stage in STAGES}
        return {stage: statistics.median(ratios) if ratios else None for stage, ratios in by_stage.items()}

    def minima(self) -> dict[str, float | None]:
        """Method over dense, fastest round of each: the figure to trust on a shared machine."""
        fastest = {stage: (min(self.method.ms[stage]), min(self.dense.ms[stage])) for stage in STAGES}
        return {stage: method / dense if dense > 0 else None for stage, (method, dense) in fastest.items()}

    def slower(self) -> list[dict[str, Any]]:
        """Stages in which the method is slower than dense, and in how many rounds."""
        found = []
        for stage, ratio in self.ratios().items():
            if ratio is not None and ratio > SLOWER:
                ratios = self._ratios(stage)
                rounds = {"slower": sum(one > 1 for one in ratios), "rounds": len(ratios)}
                found.append({"stage": stage, "ratio": round(ratio, 4)} | rounds)
        return found

    def _ratios(self, stage: str) -> list[float]:
        rounds = zip(self.method.ms[stage], self.dense.ms[stage], strict=True)
        return [method / dense for method, dense in rounds if dense > 0]


def compare(
    pair: Pair, frames: np.ndarray, times_s: Sequence[float], *, repeats: int, warmup: int, new_tokens: int
) -> Comparison:
    """Run both models on `frames` uint8 [F,H,W,3] alternately; the first `warmup` rounds are dropped.

    Each model keeps one stream, which is reset after every round, so buffers and captured graphs are made
    during the warm-up.
    """
    result = Comparison()
    streams = [model.open_stream() for model in pair]
    for number in range(warmup + repeats):
        for model, stream, samples in zip(pair, streams, (result.dense, result.method), strict=True):
            ms, sizes = one_round(model, stream, frames, times_s, new_tokens)
            if number >= warmup:
                for stage in STAGES:
                    samples.ms[stage].append(round(ms[stage], 4))
                samples.sizes = sizes
    return result


def one_round(
    model: StreamingModel, stream: Stream, frames: np.ndarray, times_s: Sequence[float], new_tokens: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """The empty stream observes all frames, answers once and is reset: milliseconds by stage, and sizes."""
    device = model.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    synchronize(device)
    start = time.perf_counter()
    stream.observe(frames, times_s)
    synchronize(device)
    observe_ms = (time.perf_counter() - start) * 1e3
    efficiency = stream.ask(QUESTION, Generation(max_new_tokens=new_tokens)).efficiency
    synchronize(device)
    ms = {stage: getattr(efficiency, stage) for stage in STAGES if stage != "observe_ms"}
    sizes = {name: getattr(efficiency, name) for name in (*SIZES, "peak_memory_bytes")}
    tower_state = stream.encoder.state
    sizes["tower_reference_bytes"] = tower_state.nbytes if tower_state is not None else 0
    stream.reset()  # or its cache would count in the peak of the other model
    return ms | {"observe_ms": observe_ms}, sizes
