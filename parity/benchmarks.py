"""Golden checks of the `benchmarks` area: recorded prompts, scores and grids of the original evaluators.

`run_case` is called for one case at a time. Cases are distinguished only by their kind;
prompts need annotation rows, which are pooled from all annotation cases of the area and found by their id.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity import rules
from parity.base import CaseResult
from stc_lmms.benchmarks import offline, ovobench, streamingbench
from stc_lmms.benchmarks import streamingbench_data as sb_data
from stc_lmms.benchmarks.base import Question, Round, Verdict, make_row, rounds, score_row
from stc_lmms.benchmarks.fields import short
from stc_lmms.errors import StcError

AREA = "benchmarks"
PARTS_OF_FILE = {
    "real": ("real",),
    "omni": ("omni", "contextual"),
    "sqa": ("sqa",),
    "proactive": ("proactive",),
}
Case = Mapping[str, Any]


@dataclass
class _Tally:
    """Counts comparisons and collects differences."""

    checked: int = 0
    problems: list[str] = field(default_factory=list)

    def same(self, what: str, got: object, expected: object, tolerance: float = 0.0) -> None:
        """Compare two values, numbers up to a tolerance."""
        self.checked += 1
        if tolerance and isinstance(got, int | float) and isinstance(expected, int | float):
            equal = abs(got - expected) <= tolerance
        else:
            equal = got == expected
        if not equal:
            self.problems.append(f"{what}: got {short(got)}, expected {short(expected)}")


def run_case(case_json: Case, case_path: Path, siblings: Sequence[Case], dtype: object = None) -> CaseResult:
    """Check one case against this package.

    Args:
        case_json: the loaded case.
        case_path: its file; CSV files next to an annotation case are checked with it.
        siblings: the other loaded cases of the area.
        dtype: not used; these cases are text and integers.
    """
    kind = case_json.get("golden", {}).get("kind")
    check = _CHECKS.get(kind)
    if check is None:
        return CaseResult(1.0, 0.0, False, f"unknown kind {kind!r}")
    tally = _Tally()
    try:
        check(case_json, Path(case_path).parent, [case_json, *siblings], tally)
    except Exception as error:  # an exception fails the case and must not end the run
        tally.problems.append(f"stopped by {type(error).__name__}: {' '.join(str(error).split())}")
    if not tally.checked and not tally.problems:
        tally.problems.append("nothing to compare")
    bad = len(tally.problems)
    detail = f"{tally.checked} values" if not bad else f"{bad} of {tally.checked} wrong; {tally.problems[0]}"
    return CaseResult(float(bad), 0.0, not bad, detail)


def _ovo_annotations(case: Case, folder: Path, cases: Sequence[Case], tally: _Tally) -> None:
    rows = ovobench.check_annotations(case["rows"], "golden rows")
    by_mode = {mode: ovobench.build_rows(rows, mode) for mode in ovobench.MODES}
    expected = Counter(
        (str(row["id"]), row["video"]) if "test_info" not in row else (f"{row['id']}:{index}", row["video"])
        for row in rows
        for index in range(len(row.get("test_info", [0])))
    )
    built = Counter((q["qid"], r["video"]) for mode in by_mode.values() for r in mode for q in r["questions"])
    for key in expected | built:
        tally.same(f"question {key}", built[key], expected[key])
    for mode, mode_rows in by_mode.items():
        tally.same(f"{mode}: rows per video", len({row["video"] for row in mode_rows}), len(mode_rows))
        lasts = [row["questions"][-1]["end_s"] for row in mode_rows]
        tally.same(f"{mode}: row order", lasts, sorted(lasts, reverse=True))
        for row in mode_rows:
            times = [question["end_s"] for question in row["questions"]]
            tally.same(f"{row['video']}: question order", times, sorted(times))


def _ovo_prompts(case: Case, folder: Path, cases: Sequence[Case], tally: _Tally) -> None:
    pool = {row["id"]: row for c in _of_kind(cases, "ovo_annotations") for row in c.get("rows", ())}
    for item in case["prompts"]:
        row, index = pool.get(item["id"]), item.get("round")
        name = f"id {item['id']} round {index}"
        if row is None:
            tally.problems.append(f"{name}: not checkable, no annotation case holds this row")
            continue
        questions = {question["qid"]: question for question in ovobench.questions_of(row)}
        question = questions.get(str(row["id"]) if index is None else f"{row['id']}:{index}")
        tally.same(f"{name}: prompt", question and question["prompt"], item["prompt"])
        tally.same(f"{name}: end_s", question and question["end_s"], item["end_s"])
        tally.same(f"{name}: chunk", ovobench.chunk_name(row["id"], index), item["chunk"])


def _ovo_scoring(case: Case, folder: Path, cases: Sequence[Case], tally: _Tally) -> None:
    records = []
    for number, item in enumerate(case.get("mc_items", ())):
        verdict = _score(tally, f"mc item {number}", "choice", item["ground_truth"], item["response"], item)
        records.append((item["task"], verdict))
    for number, item in enumerate(case.get("forward_items", ())):
        kind = "count" if item["task"] == "REC" else "yesno"
        for index, info in enumerate(item["test_info"]):
            answer = ovobench.gold(item, index)
            name = f"forward item {number} round {index}"
            verdict = _score(tally, name, kind, answer, info["response"], item, index)
            records.append((item["task"], verdict))
    if "aggregate" in case:
        _ovo_aggregate(case["aggregate"], records, tally)


def _score(
    tally: _Tally, name: str, kind: str, answer: str, response: Any, item: Case, index: int | None = None
) -> int:
    """Score a response as part of a row and compare with the official score."""
    question = _plain_question(name, kind, answer, item["task"])
    record = score_row(make_row(name, "any", [question]), [response], ovobench.judge)[0]
    expected = item["expected"]["official"]
    expected = expected if index is None else expected[index]
    tally.same(f"{name} {short(response)}", record["official"], expected)
    tally.same(f"{name} plain", ovobench.official_score(kind, answer, response), expected)
    return record["official"]


def _ovo_aggregate(expected: Case, scores: Iterable[tuple[str, int]], tally: _Tally) -> None:
    records: list[Any] = []
    for number, (task, score) in enumerate(scores):
        row = make_row(str(number), ovobench.MODE_OF[task], [_plain_question("q", "choice", "A", task)])
        records += score_row(row, ["A"], lambda *_, score=score: Verdict(score, score))
    summary = ovobench.BENCHMARK.summarise(records)
    tasks = {name: task for part in summary["parts"].values() for name, task in part["tasks"].items()}
    for name, value in expected.get("per_task", {}).items():
        tally.same(f"task {name}", _percent(tasks.get(name, {}).get("accuracy")), value, 0.006)
    for name, value in expected.get("counts", {}).items():
        task = tasks.get(name)
        tally.same(f"count {name}", task and [task["correct"]["official"], task["n"]], list(value))
    for key, tolerance in (("modes", 0.006), ("modes_exact", 1e-9)):
        for name, value in expected.get(key, {}).items():
            part = summary["parts"].get(name)
            tally.same(f"{key} {name}", _percent(part and part["macro"]), value, tolerance)
    for key, tolerance in (("total", 0.006), ("total_exact", 1e-9)):
        if key in expected:
            tally.same(key, _percent(summary["total"]), expected[key], tolerance)


def _sb_annotations(case: Case, folder: Path, cases: Sequence[Case], tally: _Tally) -> None:
    for item in case.get("timestamps", ()):
        tally.same(f"time {item['text']}", sb_data.parse_time(item["text"], "golden time"), item["seconds"])
    for name, parts in PARTS_OF_FILE.items():
        if not case.get(name):
            continue
        entries = sb_data.parse_json(case[name], name)
        raw = [clip for item in case[name] for clip in (item if isinstance(item, list) else [item])]
        tally.same(f"{name}: questions", len(entries), sum(len(clip["questions"]) for clip in raw))
        rows = [row for part in parts for row in streamingbench.build_rows(entries, part)]
        tally.same(f"{name}: asked", sum(len(row["questions"]) for row in rows), len(entries))
        qids = [question["qid"] for row in rows for question in row["questions"]]
        tally.same(f"{name}: unique qids", len(set(qids)), len(qids))
    _sb_csv(folder, cases, tally)


def _sb_csv(folder: Path, cases: Sequence[Case], tally: _Tally) -> None:
    """Every CSV must have the same questions as the JSON for the same videos."""
    pool = _sb_pool(cases, "real")
    for path in sorted(folder.glob("*.csv")):
        text = path.read_text(encoding="utf-8-sig")
        if not {"question_id", "options"} <= set(text.partition("\n")[0].strip().split(",")):
            continue
        entries = [entry for entry in sb_data.parse_csv(text, path.name) if entry.part == "real"]
        videos = {entry.video for entry in entries}
        got = Counter(_content(entry) for entry in entries)
        expected = Counter(_content(entry) for entry in pool if entry.video in videos)
        for key in got | expected:
            tally.same(f"{path.name}: {short(key)}", got[key], expected[key])


def _content(entry: sb_data.Entry) -> tuple[Any, ...]:
    return (entry.video, entry.task, entry.time_s, streamingbench.prompt(entry), entry.answer)


def _sb_prompts(case: Case, folder: Path, cases: Sequence[Case], tally: _Tally) -> None:
    polls: dict[tuple[str, str, str], list[Round]] = {}
    for number, item in enumerate(case["prompts"]):
        video, subset = item["video"].rsplit("/", 1)[-1], item["subset"]
        name = f"prompt {number} ({video} at {item['end_s']} s)"
        rows = [
            row
            for part in PARTS_OF_FILE[subset]
            for row in streamingbench.build_rows(_sb_pool(cases, subset), part, item.get("context_time", -1))
            if row["video"] == video
        ]
        if not rows:
            tally.problems.append(f"{name}: not checkable, no annotation case holds this video")
            continue
        asked = (item["start_s"], item["end_s"], item["prompt"])
        questions = [question for row in rows for question in row["questions"]]
        if subset == "proactive":
            hits = [
                q["qid"]
                for q in questions
                if asked[0] == q["start_s"] and asked[2] in (q["prompt"], q["follow_up"])
            ]
        else:
            hits = [ask.qid for ask in rounds(rows[0]) if ask[:3] == asked]
        tally.same(f"{name}: clip and text", bool(hits), True)
        if subset == "proactive" and hits:
            key = (item.get("scenario", ""), video, hits[0])
            polls.setdefault(key, []).append(Round(*asked, hits[0]))
    _sb_polls(polls, cases, tally)


def _sb_polls(
    polls: Mapping[tuple[str, str, str], list[Round]], cases: Sequence[Case], tally: _Tally
) -> None:
    """Answer polls as the recorded order implies; the sequence of rounds must be the same."""
    pool = _sb_pool(cases, "proactive")
    for (scenario, video, qid), recorded in polls.items():
        rows = [row for row in streamingbench.build_rows(pool, "proactive") if row["video"] == video]
        question = next(q for row in rows for q in row["questions"] if q["qid"] == qid)
        asked: list[Round] = []
        machine = rounds(make_row(video, "proactive", [question]))
        ask = next(machine, None)
        while ask is not None:
            asked.append(ask._replace(watch=""))  # our addition, for models that decide by themselves
            following = recorded[len(asked)] if len(asked) < len(recorded) else None
            yes = following is not None and following.prompt == question["follow_up"]
            try:
                ask = machine.send("yes" if yes else "no")
            except StopIteration:
                ask = None
        tally.same(f"{qid}, {scenario}: order of rounds", asked, recorded)


def _sb_scoring(case: Case, folder: Path, cases: Sequence[Case], tally: _Tally) -> None:
    counted: dict[str, list[tuple[str, str, int]]] = {"official_first_char": [], "stc_strip_equal": []}
    for number, item in enumerate(case.get("mc_items", ())):
        subset, response, answer = item["subset"], item.get("response"), item["answer"]
        got = {
            "official_first_char": _outcome(rules.official_first_char, response, answer, subset),
            "stc_strip_equal": _outcome(rules.stc_strip_equal, response, answer),
        }
        if "response" not in item:  # the counters skip questions that were not asked
            got = dict.fromkeys(got, "not_counted")
        for name, outcome in got.items():
            tally.same(f"mc item {number} {name}", outcome, item["expected"][name])
            if isinstance(outcome, int):
                counted[name].append((subset, item["task_type"], outcome))
    timed = []
    for number, item in enumerate(case.get("proactive_items", ())):
        due_s = sb_data.parse_time(item["ground_truth_time_stamp"], "golden time")
        text = item["ground_truth_output"]
        scores = streamingbench.proactive_score(item["answer_time_s"], due_s, item["content"], text)
        expected = item["expected"]
        tally.same(f"proactive item {number}", scores, (expected["time_correct"], expected["answer_correct"]))
        timed.append(scores)
    aggregate = case.get("aggregate", {})
    for key, name in (("official", "official_first_char"), ("stc", "stc_strip_equal")):
        for subset, stats in aggregate.get(key, {}).items():
            for task, stat in stats.items():
                got_stat = (
                    _timed_stat(timed) if "time_correct" in stat else _stat(counted[name], subset, task)
                )
                for entry, value in stat.items():
                    tally.same(f"{key} {subset} {task} {entry}", got_stat.get(entry), value, 1e-12)


def _stat(counted: Iterable[tuple[str, str, int]], subset: str, task: str) -> dict[str, float]:
    scores = [score for s, t, score in counted if s == subset and task in (t, "total")]
    accuracy = sum(scores) / len(scores) if scores else 0.0
    return {"total": len(scores), "correct": sum(scores), "accuracy": accuracy}


def _timed_stat(scores: Sequence[tuple[int, int]]) -> dict[str, float]:
    total, on_time, right = len(scores), sum(s[0] for s in scores), sum(s[1] for s in scores)
    return {
        "total": total,
        "time_correct": on_time,
        "answer_correct": right,
        "time_accuracy": on_time / total if total else 0.0,
        "answer_accuracy": right / total if total else 0.0,
    }


def _rekv_eval(case: Case, folder: Path, cases: Sequence[Case], tally: _Tally) -> None:
    for item in case.get("mcq_prompt", ()):
        question, choices = item["question"], item["choices"]
        if "formatted_question" in item:
            tally.same(
                "formatted question", offline.rekv_question(question, choices), item["formatted_question"]
            )
        tally.same("mcq prompt", rules.rekv_prompt(question, choices), item["prompt"])
    for item in case.get("choice_extraction", ()):
        text = item["text"]
        if "choice" in item:
            tally.same(f"choice of {short(text)}", _outcome(offline.rekv_choice, text), item["choice"])
        if "stc_choice" in item:  # STC reads an empty answer as A
            letter = offline.rekv_choice(text) if text.strip() else "A"
            tally.same(f"stc_choice of {short(text)}", letter, item["stc_choice"])
    for item in case.get("streamforest_frames", ()):
        got = rules.streamforest_frames(item["n_frames"], item["fps"])
        tally.same(f"StreamForest frames {item['n_frames']}", got, item["indices"])
    if "stream_windows" in case:
        _windows(case["stream_windows"], str(case.get("how", "")), tally)
    if case.get("frame_sampling"):
        _frame_sampling(case["frame_sampling"], tally)


def _windows(item: Case, how: str, tally: _Tally) -> None:
    stated = re.search(r"(\d+)-frame clip", how)  # the length of the recorded clip is stated in the text
    n_frames = item.get("n_frames", int(stated[1]) if stated else 1 << 30)
    ends_s = [end_s for _, end_s in item["conversations_s"]]
    calls: list[Any] = ["init"]
    for window in rules.rekv_windows(ends_s, item["sample_fps"], n_frames):
        calls += ([list(window)] if window else []) + ["answer"]
    tally.same("stream windows", calls, item["calls"])


def _frame_sampling(items: Iterable[Case], tally: _Tally) -> None:
    from stc_lmms.video.sampling import frame_step  # only this check needs the video package

    for item in items:
        name = f"frames {item['n_frames']} at {item['avg_fps']} -> {item['sample_fps']} fps"
        expected = item["indices_or_error"]
        try:
            got: Any = list(range(0, item["n_frames"], frame_step(item["avg_fps"], item["sample_fps"])))
        except (ValueError, StcError) as error:
            got = error
        if isinstance(expected, str):
            # The originals raise here; any defined behaviour is accepted.
            tally.same(name, isinstance(got, Exception | list), True)
        else:
            tally.same(name, got, list(expected))


_CHECKS: dict[Any, Callable[[Case, Path, Sequence[Case], _Tally], None]] = {
    "ovo_annotations": _ovo_annotations,
    "ovo_prompts": _ovo_prompts,
    "ovo_scoring": _ovo_scoring,
    "streamingbench_annotations": _sb_annotations,
    "streamingbench_prompts": _sb_prompts,
    "streamingbench_scoring": _sb_scoring,
    "rekv_eval": _rekv_eval,
}


def _of_kind(cases: Iterable[Case], kind: str) -> list[Case]:
    return [case for case in cases if case.get("golden", {}).get("kind") == kind]


def _sb_pool(cases: Iterable[Case], name: str) -> list[sb_data.Entry]:
    """Entries of one annotation file, pooled over all cases without duplicates, and renumbered."""
    pooled: list[Any] = []
    for case in _of_kind(cases, "streamingbench_annotations"):
        for item in case.get(name, ()):
            for clip in item if isinstance(item, list) else [item]:
                if clip not in pooled:
                    pooled.append(clip)
    return sb_data.parse_json(pooled, f"golden {name}") if pooled else []


def _plain_question(qid: str, kind: str, answer: str, task: str) -> Question:
    return {
        "qid": qid,
        "task": task,
        "kind": kind,
        "start_s": 0.0,
        "end_s": 1.0,
        "prompt": "",
        "answer": answer,
        "follow_up": "",
        "gold_s": -1.0,
    }


def _outcome(function: Callable[..., Any], *args: Any) -> Any:
    """The result, the name of the exception, or "not_counted" for None, in the notation of the cases."""
    try:
        value = function(*args)
    except (IndexError, TypeError, AttributeError) as error:
        return type(error).__name__
    return "not_counted" if value is None else value


def _percent(scores: Mapping[str, float] | None) -> float | None:
    return None if scores is None else 100 * scores["official"]
