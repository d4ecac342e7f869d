"""What a sweep will take, before anything is submitted: GPU hours, memory and disk of every job.

FLOPs and bytes come from the cost model (`bench/work.py`) and the frames and rounds of the plan; how fast a
machine does them comes from a latency card of `stc-lmms bench`, or from a guess that is printed beside.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stc_lmms.bench.shapes import DecoderShape, ModelShape, TowerShape, public_shape
from stc_lmms.bench.work import Workload as Clip
from stc_lmms.bench.work import kv_bytes_per_token, reference_bytes, stages
from stc_lmms.config import Settings
from stc_lmms.errors import CheckpointError, SettingsError
from stc_lmms.eval.run_config import RunConfig, check
from stc_lmms.sweep.spec import Spec
from stc_lmms.text_table import text_table

GUESSED_BYTES_PER_S = 1e12  # of GPU memory; with a card it is measured
ANSWER_TOKENS = 8  # the tasks ask for a letter or a word
QUESTION_TOKENS = 100
RECORD_BYTES = 6_000  # journal, sample, efficiency and summary of a round
NOTES = (
    "Hours: ViT, prefill and answers; without decoding videos, preprocessing, loading weights.",
    "A method without a cost model is reckoned as dense (<=); a model without one needs a card of it (-).",
    "Memory: weights, the KV that the memory keeps of the longest stream, and the cacher's reference; "
    "16 bit, without activations.",
)


@dataclass(frozen=True)
class Speed:
    """How fast a machine is with one model.

    Attributes:
        flops_per_s: achieved, by stage (`vit_ms`, `prefill_ms`, and `ttft_ms` for questions).
        bytes_per_s: while a token is decoded.
    """

    flops_per_s: Mapping[str, float]
    bytes_per_s: float


@dataclass(frozen=True)
class Estimate:
    """One job.

    Attributes:
        recipe, task, shard: which.
        frames, rounds: how many.
        hours: of one GPU; None without a cost model.
        bound: `hours` is that of dense, because the method has no cost model.
        memory_bytes: of the GPU; None without a cost model.
        memory_bound: `memory_bytes` is that of all tokens, because it is not known how many are kept.
        disk_bytes: of the output folder.
    """

    recipe: str
    task: str
    shard: int
    frames: int
    rounds: int
    hours: float | None
    bound: bool
    memory_bytes: int | None
    memory_bound: bool
    disk_bytes: int


class Card:
    """A latency card's file.

    Raises:
        SettingsError: it is none.
    """

    def __init__(self, path: Path):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            shape, row = content["shape"], max(content["rows"], key=lambda row: row["frames"])
            self.model, self.method = str(content["model"]), str(content["method"])
            self.shape = ModelShape(
                TowerShape(**shape["tower"]),
                DecoderShape(**shape["decoder"]),
                shape["tokens_per_frame"],
                shape["itemsize"],
            )
            self._speeds = {who: _achieved(row, who, content) for who in ("dense", "method")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise SettingsError(f"{path} is no card of stc-lmms bench --output ({why})") from None

    def speed(self, method: str) -> Speed:
        """With the card's own method as measured, with any other at the rates of dense."""
        return self._speeds["method" if method == self.method else "dense"]


def _achieved(row: Mapping[str, Any], who: str, content: Mapping[str, Any]) -> Speed:
    work, spent = row["work"].get(who) or row["work"]["dense"], row["summary_ms"][who]
    rates = {
        stage: work[stage]["flops"] / (1e-3 * spent[stage]["median"])
        for stage in ("vit_ms", "prefill_ms", "ttft_ms")
        if stage in work and spent[stage]["median"]
    }
    per_token_s = 1e-3 * spent["per_token_ms"]["median"]
    machine = content["machine"]
    moved = work["per_token_ms"]["bytes"] if "per_token_ms" in work else machine["bytes_per_s"] * per_token_s
    rates |= {
        stage: machine["flops_per_s"] for stage in ("vit_ms", "prefill_ms", "ttft_ms") if stage not in rates
    }
    return Speed(rates, moved / per_token_s)


def estimate(spec: Spec, plan: Mapping[str, Any], cards: Sequence[Card], tflops: float) -> list[Estimate]:
    """Every job of a plan.

    Args:
        spec: the sweep.
        plan: of it, see `spec.plan`.
        cards: the last one of a model counts.
        tflops: arithmetic that a GPU sustains, for models without a card.

    Raises:
        SettingsError: a recipe does not work.
    """
    by_model = {card.model: card for card in cards}
    recipes = {recipe.name: _Recipe(recipe, by_model, tflops) for recipe in spec.recipes}
    return [recipes[job["recipe"]].job(job) for job in plan["jobs"]]


class _Recipe:
    """The costs of one recipe; streams of equal length are reckoned once."""

    def __init__(self, recipe: RunConfig, cards: Mapping[str, Card], tflops: float):
        self.settings: Settings = check(recipe)
        card = cards.get(self.settings.model)
        self.shape = card.shape if card else _known_shape(self.settings)
        guess = Speed(dict.fromkeys(("vit_ms", "prefill_ms", "ttft_ms"), 1e12 * tflops), GUESSED_BYTES_PER_S)
        self.speed = card.speed(self.settings.method) if card else guess
        self.method = self.settings.build_method()
        self.memory = self.settings.build_memory()  # None: the model's own
        self.bound = False
        if self.shape is not None and stages(self.shape, self.method, Clip(1, 1, 0, 0)) is None:
            self.bound, self.method = True, type(self.method)("none")
        self._seconds: dict[int, float] = {}

    def job(self, job: Mapping[str, Any]) -> Estimate:
        """What one job takes."""
        frames, hours, memory = sum(job["streams"]), None, None
        if self.shape is not None:
            longest = max(job["streams"], default=0)
            playing = sum(self._stream_s(count) for count in job["streams"])
            hours = (playing + job["rounds"] * self._answer_s(frames // max(1, len(job["streams"])))) / 3600
            memory = _weight_bytes(self.shape) + self._kv_tokens(longest) * kv_bytes_per_token(self.shape)
            memory += reference_bytes(self.shape, self.method.tower)
        return Estimate(
            job["recipe"],
            job["task"],
            job["shard"],
            frames,
            job["rounds"],
            hours,
            self.bound,
            memory,
            self.bound or self.memory is None,
            job["rounds"] * RECORD_BYTES + self._archive_bytes(job),
        )

    def _kept(self) -> int:
        return getattr(self.method.token, "token_budget", self.shape.tokens_per_frame)

    def _kv_tokens(self, frames: int) -> int:
        most = self.memory.most_tokens(self._kept()) if self.memory else None
        return frames * self._kept() if most is None else min(frames * self._kept(), most)

    def _stream_s(self, count: int) -> float:
        if count not in self._seconds:
            work = stages(self.shape, self.method, Clip(count, max(count, 1), 0, 0))
            rates = self.speed.flops_per_s
            self._seconds[count] = sum(work[s].flops / rates[s] for s in ("vit_ms", "prefill_ms"))
        return self._seconds[count]

    def _answer_s(self, frames: int) -> float:
        """A question at the middle of a stream of average length, and its answer."""
        work = stages(self.shape, self.method, Clip(max(1, frames // 2), max(1, frames), 0, QUESTION_TOKENS))
        first = work["ttft_ms"].flops / self.speed.flops_per_s["ttft_ms"]
        return first + ANSWER_TOKENS * work["per_token_ms"].bytes / self.speed.bytes_per_s

    def _archive_bytes(self, job: Mapping[str, Any]) -> int:
        """ReKV's archive in files, of the longest stream; it is deleted with its stream."""
        if self.shape is None or not self.settings.flat().get("archive_dir"):
            return 0
        return max(job["streams"], default=0) * self._kept() * kv_bytes_per_token(self.shape)


def _known_shape(settings: Settings) -> ModelShape | None:
    """Shape of a LLaVA-OneVision, from its config or its name; None for the other models."""
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


def as_json(found: Sequence[Estimate]) -> dict[str, Any]:
    """All jobs as plain JSON values."""
    return {"jobs": [vars(each) for each in found], "notes": NOTES}


def text(found: Sequence[Estimate], by_job: bool = False) -> str:
    """One line per recipe and task, or per job, and the sum."""
    head = (
        "recipe",
        "task",
        "jobs",
        "frames",
        "rounds",
        "GPU h",
        "GPU h of longest job",
        "GPU GiB",
        "disk MiB",
    )
    groups: dict[tuple[str, str], list[Estimate]] = {}
    for each in found:
        what = f"{each.task}/{each.shard:03d}" if by_job else each.task
        groups.setdefault((each.recipe, what), []).append(each)
    rows = [(*key, *_cells(jobs)) for key, jobs in groups.items()]
    rows.append(("all", "", *_cells(found)))
    return "\n".join([text_table(head, rows, left=2), "", *NOTES])


def _cells(jobs: Sequence[Estimate]) -> list[str]:
    hours = [job.hours for job in jobs if job.hours is not None]
    memory = [job.memory_bytes for job in jobs if job.memory_bytes is not None]
    sign = "<= " if any(job.bound for job in jobs) else ""
    memory_sign = "<= " if any(job.memory_bound for job in jobs) else ""
    whole = len(hours) == len(jobs)
    return [
        str(len(jobs)),
        f"{sum(job.frames for job in jobs):,}",
        f"{sum(job.rounds for job in jobs):,}",
        f"{sign}{sum(hours):,.2f}" + ("" if whole else " + ?") if hours else "-",
        f"{max(hours):,.2f}" if hours else "-",
        f"{memory_sign}{max(memory) / 2**30:,.1f}" if memory else "-",
        f"{sum(job.disk_bytes for job in jobs) / 2**20:,.1f}",
    ]
