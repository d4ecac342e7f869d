"""The functions that our task YAMLs name: rows, rounds, scores and tables, for lmms-eval.

A task's dataset is one line that names a part of a benchmark; `rows` replaces it by the benchmark's rows. A
row is a video; its questions are the rounds of one request, in order of time.
"""

import json
from collections.abc import Sequence
from typing import Any

from stc_lmms.benchmarks.base import NO_TIME_S, Round, next_round
from stc_lmms.benchmarks.registry import find
from stc_lmms.benchmarks.summary import Summary, format_table
from stc_lmms.errors import StcError, fail
from stc_lmms.eval.recorder import current, rounds_of
from stc_lmms.eval.scoring import score, summary_name
from stc_lmms.eval.shard import select

_SLIM = ("part", "task", "official", "strict", "missing", "unparsed", "failed", "past_end")


def rows(dataset: Any) -> Any:
    """`process_docs`: the rows of the part, or those in this run's shard, as a dataset.

    Exits with status 2 and one line when the data is missing: lmms-eval would print a traceback and exit 0.
    """
    from datasets import Dataset

    (source,) = dataset
    try:
        found = find(source["benchmark"]).load_rows(source["part"], source.get("size", ""))
        found = select(found, source["benchmark"], source["part"])
    except StcError as error:
        fail(error)
    return Dataset.from_list(found)


def doc_to_visual(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """The video clip of the first round."""
    return [_visual(doc, next_round(doc, []))]


def doc_to_text(
    doc: dict[str, Any],
    lmms_eval_specific_kwargs: dict[str, Any] | None = None,
    previous_output: Sequence[str] | None = None,
    round_idx: int | None = None,
    previous_round_info: Any = None,
) -> Any:
    """Prompt of the first round; for later ones lmms-eval's (visuals, prompt, stop, outputs, info)."""
    current = next_round(doc, list(previous_output or [])[:round_idx] if round_idx else [])
    if round_idx is None:
        return current.prompt
    if current is None:
        return None, None, True, previous_output, None
    return [_visual(doc, current)], current.prompt, False, previous_output, None


def doc_to_target(doc: dict[str, Any]) -> str:
    """Gold answers, for the sample log."""
    return json.dumps([question["answer"] for question in doc["questions"]], ensure_ascii=False)


def _visual(doc: dict[str, Any], current: Round) -> dict[str, Any]:
    end_s = None if current.end_s == NO_TIME_S else current.end_s
    visual = {"type": "video", "path": doc["path"], "video_start": current.start_s, "video_end": end_s}
    extra = {"search": current.search, "opening": current.opening, "watch": current.watch}
    return visual | {name: text for name, text in extra.items() if text}


def process_results(doc: dict[str, Any], results: list[list[str]]) -> dict[str, Any]:
    """Score the answers about one video: the inputs of the aggregations, by metric of the YAML."""
    (responses,) = results
    rounds = rounds_of(doc, responses)
    records = score(doc, rounds)
    slim = [{name: record[name] for name in _SLIM} for record in records]
    about = {"benchmark": doc["benchmark"], "size": doc["size"]}
    costs = [answer.efficiency for answer in rounds if answer.efficiency]
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


def acc(items: list[dict[str, Any]], args: Any = None) -> float:
    """Headline of one part by the official scorer, in percent.

    Prints the part's table, with the benchmark's totals after its last part, and adds the summary of all
    parts so far to the current run.
    """
    first, records = items[0], [record for item in items for record in item["records"]]
    recorder = current(args)
    summary = recorder.summarise(first["benchmark"], first["size"], records)
    table = format_table(summary, only=records[0]["part"])
    about = "accuracy in percent (missing and failed answers count as wrong)"
    print(f"\n{summary_name(first)}: {about}\n{table}\n")
    try:
        recorder.write()
    except StcError as error:
        fail(error)
    return _headline(items, "official")


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
