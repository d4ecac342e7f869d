"""The functions our task YAMLs name: rows, rounds, scores and tables, for lmms-eval.

A task's dataset is one line that says which part of which benchmark it is; `rows` puts the real rows in its
place. A row is a video; its questions are the rounds of one request, in order of time.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stc_lmms.benchmarks.base import NO_TIME_S, next_round
from stc_lmms.benchmarks.registry import find
from stc_lmms.benchmarks.summary import Summary, format_table
from stc_lmms.errors import StcError
from stc_lmms.eval.scoring import score, summary_name, write_summary
from stc_lmms.eval.shard import select

_SLIM = ("part", "task", "official", "strict", "missing", "unparsed", "failed", "past_end")
_EFFICIENCY = ("vit_ms", "prefill_ms", "ttft_ms", "llm_tokens_mean")


def rows(dataset: Any) -> Any:
    """`process_docs`: the descriptor's benchmark rows, or those of this run's shard, as a dataset.

    Exits with status 2 and one line when the data is missing: lmms-eval would print a traceback and exit 0.
    """
    from datasets import Dataset

    (source,) = dataset
    try:
        found = find(source["benchmark"]).load_rows(source["part"], source.get("size", ""))
        found = select(found, source["benchmark"], source["part"])
    except StcError as error:
        print(f"stc-lmms: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    return Dataset.from_list(found)


def doc_to_visual(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """The clip of the first round."""
    return [_visual(doc, next_round(doc, []))]


def doc_to_text(
    doc: dict[str, Any],
    lmms_eval_specific_kwargs: dict[str, Any] | None = None,
    previous_output: Sequence[str] | None = None,
    round_idx: int | None = None,
    previous_round_info: Any = None,
) -> Any:
    """Prompt of the first round; for later ones lmms-eval's (visuals, prompt, stop, outputs, info)."""
    asked = next_round(doc, list(previous_output or [])[:round_idx] if round_idx else [])
    if round_idx is None:
        return asked.prompt
    if asked is None:
        return None, None, True, previous_output, None
    return [_visual(doc, asked)], asked.prompt, False, previous_output, None


def doc_to_target(doc: dict[str, Any]) -> str:
    """Gold answers, for the sample log."""
    return json.dumps([question["answer"] for question in doc["questions"]], ensure_ascii=False)


def _visual(doc: dict[str, Any], asked: Any) -> dict[str, Any]:
    visual = {
        "type": "video",
        "path": doc["path"],
        "video_start": asked.start_s,
        "video_end": None if asked.end_s == NO_TIME_S else asked.end_s,
    }
    told = {"search": asked.search, "opening": asked.opening, "watch": asked.watch}
    return visual | {name: text for name, text in told.items() if text}


def process_results(doc: dict[str, Any], results: list[list[str]]) -> dict[str, Any]:
    """Score one video's answers. Keys are the metrics of the YAML, values what their aggregations take."""
    (responses,) = results
    said = [getattr(response, "record", {}) for response in responses]
    records = score(doc, responses)
    slim = [{name: record[name] for name in _SLIM} for record in records]
    about = {"benchmark": doc["benchmark"], "size": doc["size"]}
    costs = [r["efficiency"] for r in said if r.get("efficiency")]
    frames = sum(cost["frames_encoded"] for cost in costs)
    return {
        "acc": about | {"records": records},
        "acc_strict": about | {"records": slim},
        find(doc["benchmark"]).other_average: about | {"records": slim},
        "n": len(records),
        "n_missing": sum(record["missing"] for record in records),
        "n_unparsed": sum(record["unparsed"] for record in records),
        "n_failed": sum(bool(record["failed"]) for record in records),
        "n_past_end": sum(record["past_end"] for record in records),
        "vit_ms_per_frame": [sum(cost["vit_ms"] for cost in costs), frames],
        "prefill_ms_per_frame": [sum(cost["prefill_ms"] for cost in costs), frames],
        "ttft_ms": [sum(cost["ttft_ms"] for cost in costs), len(costs)],
        "llm_tokens_per_frame": [sum(cost["llm_tokens_mean"] for cost in costs), len(costs)],
    }


# Records by part of every run. The run's namespace is kept, or its id could come back as another run's.
_seen: dict[tuple[int, str, str], tuple[Any, dict[str, list[dict[str, Any]]]]] = {}


def acc(items: list[dict[str, Any]], args: Any = None) -> float:
    """Headline of one part by the official scorer, in percent.

    Prints the part's table, with the benchmark's totals when this was its last part, and writes the summary
    of all parts so far to the output path.
    """
    key = (id(args), items[0]["benchmark"], items[0]["size"])
    _, parts = _seen.setdefault(key, (args, {}))
    part = items[0]["records"][0]["part"]
    parts[part] = [record for item in items for record in item["records"]]
    benchmark = items[0]["benchmark"]
    summary = find(benchmark).summarise([record for records in parts.values() for record in records])
    name = summary_name(items[0])
    table = format_table(summary, only=part)
    print(f"\n{name}: accuracy in percent (missing and failed answers count as wrong)\n{table}\n")
    output = getattr(args, "output_path", None)
    if output:
        run = getattr(args, "stc_run", None)  # None: a model of lmms-eval's own
        write_summary(Path(output), name, summary, run, getattr(args, "stc_settings", None))
    return _headline(items, "official")


def forget(args: Any) -> None:
    """Drop the records of a run whose summary is complete; `acc` gathers them by its `args`."""
    for key in [key for key, (run, _) in _seen.items() if run is args]:
        del _seen[key]


def acc_strict(items: list[dict[str, Any]]) -> float:
    """Headline of one part by the strict scorer, in percent."""
    return _headline(items, "strict")


def macro(items: list[dict[str, Any]]) -> float:
    """Mean of the sub-tasks' official accuracies, in percent."""
    return 100 * _part(items)[0]["macro"]["official"]


def micro(items: list[dict[str, Any]]) -> float:
    """Official accuracy pooled over the questions, in percent."""
    return 100 * _part(items)[0]["micro"]["official"]


def ratio_of_sums(items: list[list[float]]) -> float:
    """Sum of the first numbers over the sum of the second."""
    above, below = (sum(values) for values in zip(*items, strict=True))
    return above / below if below else float("nan")


def total(items: list[int]) -> int:
    """Sum over the videos."""
    return sum(items)


def _part(items: list[dict[str, Any]]) -> tuple[Any, Summary]:
    records = [record for item in items for record in item["records"]]
    summary = find(items[0]["benchmark"]).summarise(records)
    (part,) = summary["parts"].values()
    return part, summary


def _headline(items: list[dict[str, Any]], scorer: str) -> float:
    part, summary = _part(items)
    return 100 * part[summary["headline"]][scorer]
