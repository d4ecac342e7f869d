"""Published accuracies of the compared methods, their known problems, and the gaps of our runs to them.

Sources of `published.json`: the tables of the STC paper (arXiv 2512.00891), and the answer files that its
authors published with their code, scored again by exact letter match.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any

from stc_lmms.benchmarks.registry import BENCHMARKS
from stc_lmms.results.read import FoundRun
from stc_lmms.results.schema import Score


@dataclass(frozen=True)
class Published:
    """One published accuracy in percent.

    Attributes:
        methods: names of our methods that it is compared with.
        published_parts: part of OVO-Bench -> accuracy.
        speed: published change of ViT and prefill time against its baseline, in percent; "" if not given.
        caveat: what is wrong or unclear about the number.
    """

    benchmark: str
    model: str
    method: str
    methods: Sequence[str]
    published: float
    published_parts: dict[str, float] = field(default_factory=dict)
    speed: str = ""
    caveat: str = ""


_DATA = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
NOTES: list[str] = _DATA["notes"]
PUBLISHED = [Published(**row) for row in _DATA["rows"]]


def comparison(runs: Sequence[FoundRun]) -> list[dict[str, Any]]:
    """Every published row with the gaps of our runs, in percentage points.

    A row is compared with runs of the same model, method and whole benchmark only, never with a mini set.
    """
    lines = []
    for row in PUBLISHED:
        same = [run for run in runs if run.method in row.methods and _is_model(run, row.model)]
        ours = [_gap(row, run, s) for run in same for s in run.scores if _is_whole(s, run, row.benchmark)]
        about = {key: value for key, value in asdict(row).items() if key != "methods"}
        lines.append(about | {"source": _DATA["source"], "ours": ours})
    return lines


def _is_model(run: FoundRun, model: str) -> bool:
    return any(name in run.model_name.lower() for name in _DATA["checkpoints"][model])


def _is_whole(score: Score, run: FoundRun, title: str) -> bool:
    for benchmark in BENCHMARKS.values():
        published = benchmark.published
        if published and published.title == title:
            name = benchmark.task_name(parts=published.parts or None)
            builtin = not score.ours and score.benchmark == published.builtin_task
            return (score.benchmark, score.n) == (name, published.questions) or (builtin and not run.limited)
    return False


def _gap(row: Published, run: FoundRun, score: Score) -> dict[str, Any]:
    expected, settings = _DATA["settings"].get(row.model, {}), run.record.settings
    differs = [f"{k}={settings[k]}" for k, value in expected.items() if settings.get(k, value) != value]
    if not score.ours:
        differs.append("prompt and scoring of lmms-eval's own task")
    return {
        "run": run.label,
        "method": run.method,
        "accuracy": score.accuracy,
        "gap": score.accuracy - row.published,
        "gap_parts": {
            k: score.parts[k] - value for k, value in row.published_parts.items() if k in score.parts
        },
        "differs": ", ".join(differs),
    }
