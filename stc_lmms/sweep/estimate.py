"""Estimates GPU hours, memory and disk of every job of a sweep, before anything is submitted.

Work follows from the cost model (`bench/work.py`); the speed of a machine comes from a latency card of
`stc-lmms bench`, or from a guess that is printed with the result.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stc_lmms.bench.plan import ClipCosts
from stc_lmms.bench.shapes import DecoderShape, ModelShape, TowerShape, public_shape
from stc_lmms.bench.work import Workload, kv_bytes_per_token, reference_bytes, stages
from stc_lmms.config import Settings
from stc_lmms.errors import CheckpointError, SettingsError
from stc_lmms.eval.run_config import RunConfig, check
from stc_lmms.sweep.spec import Spec
from stc_lmms.text_table import text_table

GUESSED_BYTES_PER_S = 1e12  # of GPU memory, without a card
ANSWER_TOKENS = 8  # a letter or a word
QUESTION_TOKENS = 100
RECORD_BYTES = 6_000  # per round: journal, sample, efficiency and summary
NOTES = (
    "Hours: ViT, prefill and answers, without video decoding, preprocessing and loading weights.",
    "A method without a cost model is estimated as dense (<=); a model without one needs its card (-).",
    "Memory: weights, the KV cache of the longest stream, and the cacher's reference, in 16 bit; without "
    "activations.",
)
_STAGES = ("vit_ms", "prefill_ms", "ttft_ms")


class Speed(NamedTuple):
    """FLOP/s that one model achieves by stage, and bytes per second while it decodes a token."""

    flops_per_s: Mapping[str, float]
    bytes_per_s: float


@dataclass(frozen=True)
class Estimate:
    """Estimate of one job; hours and GPU memory are None for a model without a cost model."""

    recipe: str
    task: str
    shard: int
    frames: int
    rounds: int
    hours: float | None
    bound: bool  # `hours` is an upper bound, that of dense, because the method has no cost model
    memory_bytes: int | None
    memory_bound: bool  # `memory_bytes` is an upper bound, because the number of kept tokens is unknown
    disk_bytes: int  # size of the output folder


class Card:
    """A latency card; raises `SettingsError` if the file is not one."""

    def __init__(self, path: Path):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            shape, row = content["shape"], max(content["rows"], key=lambda row: row["frames"])
            self.model, self.method = str(content["model"]), str(content["method"])
            parts = {"tower": TowerShape(**shape["tower"]), "decoder": DecoderShape(**shape["decoder"])}
            self.shape = ModelShape(**shape | parts)
            self._speeds = {side: _achieved(row, side, content) for side in ("dense", "method")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise SettingsError(f"{path} is not a card of stc-lmms bench --output ({why})") from None

    def speed(self, method: str) -> Speed:
        """The measured rates of the card's own method; those of dense for any other method."""
        return self._speeds["method" if method == self.method else "dense"]


def _achieved(row: Mapping[str, Any], side: str, content: Mapping[str, Any]) -> Speed:
    work, machine = row["work"].get(side) or row["work"]["dense"], content["machine"]
    seconds = {stage: 1e-3 * times["median"] for stage, times in row["summary_ms"][side].items()}
    rates = dict.fromkeys(_STAGES, machine["flops_per_s"])
    rates |= {s: work[s]["flops"] / seconds[s] for s in _STAGES if s in work and seconds[s]}
    if "per_token_ms" not in work:
        return Speed(rates, machine["bytes_per_s"])
    return Speed(rates, work["per_token_ms"]["bytes"] / seconds["per_token_ms"])


def estimate(spec: Spec, plan: Mapping[str, Any], cards: Sequence[Card], tflops: float) -> list[Estimate]:
    """Estimate every job of a plan (see `spec.make_plan`).

    The last card of each model is used; a model without one is assumed to sustain `tflops` TFLOP/s.
    """
    by_model = {card.model: card for card in cards}
    models = {config.name: _CostModel(config, by_model, tflops) for config in spec.recipes}
    return [models[job["recipe"]].estimate(job) for job in plan["jobs"]]


class _CostModel:
    """The costs of one recipe."""

    def __init__(self, config: RunConfig, cards: Mapping[str, Card], tflops: float):
        self.settings: Settings = check(config)
        card = cards.get(self.settings.model)
        self.shape = card.shape if card else _known_shape(self.settings)
        guess = Speed(dict.fromkeys(_STAGES, 1e12 * tflops), GUESSED_BYTES_PER_S)
        self.speed = card.speed(self.settings.method) if card else guess
        self.method = self.settings.built_method
        self.memory = self.settings.built_memory  # None: the model's own
        self.bound = False
        if self.shape is not None:
            if stages(self.shape, self.method, Workload(1, 1, 0, 0)) is None:
                self.bound, self.method = True, type(self.method)("none")
            self.clips = ClipCosts(self.shape, self.method)

    def estimate(self, job: Mapping[str, Any]) -> Estimate:
        """Estimate one job."""
        streams, rounds = job["streams"], job["rounds"]
        frames, disk_bytes, hours, memory = sum(streams), rounds * RECORD_BYTES, None, None
        if self.shape is not None:
            answering_s = rounds * self._answer_s(frames // max(1, len(streams)))
            hours = (self._playing_s(streams) + answering_s) / 3600
            stream_bytes = max(streams, default=0) * self.clips.frame_bytes
            most = self.memory.most_tokens(self.clips.kept) if self.memory else None
            kv_bytes = math.inf if most is None else most * kv_bytes_per_token(self.shape)
            memory = _weight_bytes(self.shape) + min(stream_bytes, kv_bytes)
            memory += reference_bytes(self.shape, self.method.tower)
            if self.settings.flat().get("archive_dir"):  # ReKV's archive is deleted with its stream
                disk_bytes += stream_bytes
        memory_bound = self.bound or self.memory is None
        name = job["recipe"], job["task"], job["shard"]
        return Estimate(*name, frames, rounds, hours, self.bound, memory, memory_bound, disk_bytes)

    def _playing_s(self, streams: Sequence[int]) -> float:
        flops = self.clips.flops(streams)
        return sum(count / self.speed.flops_per_s[f"{stage}_ms"] for stage, count in flops.items())

    def _answer_s(self, frames: int) -> float:
        """Seconds of a question in the middle of a stream of average length, and its answer."""
        middle = Workload(max(1, frames // 2), max(1, frames), 0, QUESTION_TOKENS)
        work = stages(self.shape, self.method, middle)
        first = work["ttft_ms"].flops / self.speed.flops_per_s["ttft_ms"]
        return first + ANSWER_TOKENS * work["per_token_ms"].bytes / self.speed.bytes_per_s


def _known_shape(settings: Settings) -> ModelShape | None:
    """Shape of a LLaVA-OneVision model, from its config or name; None for other models."""
    if settings.model != "llava_ov":
        return None
    from stc_lmms import compat
    from stc_lmms.engine.api import checkpoint
    from stc_lmms.models.llava_onevision.config import layers_used, patch_grid, tokens_per_frame

    try:
        config = compat.load_config(checkpoint(settings), "llava_onevision", settings.revision)
    except CheckpointError:
        return public_shape("0.5b" if "0.5b" in settings.pretrained.lower() else "7b")
    tower = TowerShape.of(config.vision_config, layers_used(config), math.prod(patch_grid(config)))
    return ModelShape(tower, DecoderShape.of(config.text_config), tokens_per_frame(config), 2)


def _weight_bytes(shape: ModelShape) -> int:
    decoder = shape.decoder
    return (shape.tower.weights + decoder.token_macs + 2 * decoder.head_macs) * shape.itemsize


def as_json(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """The estimates as plain JSON values."""
    return {"jobs": [vars(job) for job in estimates], "notes": NOTES}


def text(estimates: Sequence[Estimate], by_job: bool = False) -> str:
    """A table with one row per recipe and task, or per job, and a row for the total."""
    head = ["recipe", "task", "jobs", "frames", "rounds"]
    head += ["GPU h", "GPU h of longest job", "GPU GiB", "disk MiB"]
    groups: dict[tuple[str, str], list[Estimate]] = {}
    for job in estimates:
        name = f"{job.task}/{job.shard:03d}" if by_job else job.task
        groups.setdefault((job.recipe, name), []).append(job)
    rows = [(*key, *_cells(jobs)) for key, jobs in groups.items()]
    rows.append(("all", "", *_cells(estimates)))
    return "\n".join([text_table(head, rows, left=2), "", *NOTES])


def _cells(jobs: Sequence[Estimate]) -> list[str]:
    hours = [job.hours for job in jobs if job.hours is not None]
    memory = [job.memory_bytes for job in jobs if job.memory_bytes is not None]
    bound = "<= " if any(job.bound for job in jobs) else ""
    memory_bound = "<= " if any(job.memory_bound for job in jobs) else ""
    incomplete = " + ?" if len(hours) < len(jobs) else ""
    return [
        str(len(jobs)),
        f"{sum(job.frames for job in jobs):,}",
        f"{sum(job.rounds for job in jobs):,}",
        f"{bound}{sum(hours):,.2f}{incomplete}" if hours else "-",
        f"{max(hours):,.2f}" if hours else "-",
        f"{memory_bound}{max(memory) / 2**30:,.1f}" if memory else "-",
        f"{sum(job.disk_bytes for job in jobs) / 2**20:,.1f}",
    ]
