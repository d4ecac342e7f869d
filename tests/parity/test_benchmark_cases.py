"""The golden checks themselves, on synthetic cases: each passes as built and fails when one value is off."""

import copy
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.base import CaseResult
from parity.benchmarks import run_case
from stc_lmms.benchmarks import ovobench, streamingbench
from stc_lmms.benchmarks.streamingbench_data import parse_json

OPTIONS = ["A. p", "B. q", "C. r", "D. s"]
OVO_ROWS = [
    {
        "id": 1,
        "task": "EPM",
        "video": "v.mp4",
        "realtime": 2.5,
        "question": "Q?",
        "options": ["p", "q"],
        "gt": 1,
    },
    {
        "id": 2,
        "task": "REC",
        "video": "v.mp4",
        "activity": "jump",
        "test_info": [{"realtime": 4, "count": 2}],
    },
]


def case(kind: str, **fields: Any) -> dict[str, Any]:
    return {"golden": {"area": "benchmarks", "kind": kind}, "unexpected": [1], **fields}


def ovo_annotations() -> dict[str, Any]:
    return case("ovo_annotations", rows=copy.deepcopy(OVO_ROWS))


def ovo_prompts() -> dict[str, Any]:
    prompts = [
        {"id": 1, "round": None, "chunk": "1.mp4", "end_s": 3, "prompt": ovobench.prompt(OVO_ROWS[0])},
        {"id": 2, "round": 0, "chunk": "2_0.mp4", "end_s": 4, "prompt": ovobench.prompt(OVO_ROWS[1], 0)},
    ]
    return case("ovo_prompts", prompts=prompts)


def ovo_scoring() -> dict[str, Any]:
    mc = [
        {"task": "EPM", "ground_truth": "B", "response": r, "expected": {"official": s}}
        for r, s in [("B", 1), (None, 0)]
    ]
    info = [{"count": 2, "response": "2 x"}, {"count": 3, "response": "3 or 4"}]
    forward = [
        {"task": "REC", "test_info": info, "expected": {"official": [1, 0]}},
        {"task": "SSR", "test_info": [{"type": 1, "response": "Yes"}], "expected": {"official": [1]}},
    ]
    aggregate = {
        "per_task": {"EPM": 50.0, "REC": 50.0, "SSR": 100.0},
        "counts": {"EPM": [1, 2]},
        "modes": {"backward": 50.0, "forward": 75.0},
        "total": None,
    }
    return case("ovo_scoring", mc_items=mc, forward_items=forward, aggregate=aggregate)


def clip(video: str, **question: Any) -> dict[str, Any]:
    base = {"task_type": "Counting", "question": "How many?", "time_stamp": "00:10", "answer": "C"}
    return {"video_path": f"./videos/{video}", "questions": [base | {"options": OPTIONS} | question]}


def sb_annotations() -> dict[str, Any]:
    event = {"ground_truth_time_stamp": "00:12", "ground_truth_output": "rain"}
    return case(
        "streamingbench_annotations",
        timestamps=[{"text": "01:00", "seconds": 60}],
        real=[clip("sample_5_real.mp4"), clip("sample_5_real.mp4", time_stamp="00:00:20")],
        omni=[clip("sample_5_Emotion_Recognition.mp4")],
        sqa=[[clip("sample_5_sqa.mp4"), clip("sample_5_sqa.mp4", time_stamp="00:30")]],
        proactive=[clip("sample_5_proactive.mp4", **event)],
    )


def sb_prompts() -> dict[str, Any]:
    source = sb_annotations()
    prompts = []
    for subset in ("real", "omni", "sqa"):
        for row in streamingbench.build_rows(parse_json(source[subset], subset), subset, 15):
            for q in row["questions"]:
                span = {"start_s": int(q["start_s"]), "end_s": int(q["end_s"]), "context_time": 15}
                prompts.append({"subset": subset, "video": row["video"], "prompt": q["prompt"]} | span)
    row = streamingbench.build_rows(parse_json(source["proactive"], "p"), "proactive")[0]
    poll, follow_up = row["questions"][0]["prompt"], row["questions"][0]["follow_up"]
    never = [("never", end_s, poll) for end_s in range(11, 17)]
    second = [("second", 11, poll), ("second", 12, poll), ("second", 12, follow_up)]
    for scenario, end_s, text in [*never, *second]:
        span = {"start_s": 10, "end_s": end_s, "scenario": scenario}
        prompts.append({"subset": "proactive", "video": row["video"], "prompt": text} | span)
    return case("streamingbench_prompts", prompts=prompts)


def sb_scoring() -> dict[str, Any]:
    def mc(response: str, first: Any, stc: Any, subset: str = "real") -> dict[str, Any]:
        item = {"subset": subset, "task_type": "Counting", "answer": "C", "response": response}
        return item | {"expected": {"official_first_char": first, "stc_strip_equal": stc}}

    items = [mc("C", 1, 1), mc("C.", 1, 0), mc(" C", 0, 1), mc("", "IndexError", "not_counted")]
    items.append(mc("", "not_counted", "not_counted", "sqa"))
    timed = {"ground_truth_time_stamp": "00:12", "ground_truth_output": "rain"}
    proactive = [
        timed | {"answer_time_s": 14, "content": "snow", "expected": {"time_correct": 1, "answer_correct": 0}}
    ]
    third = {"total": 3, "correct": 2, "accuracy": 2 / 3}
    counts = {
        "total": 1,
        "time_correct": 1,
        "answer_correct": 0,
        "time_accuracy": 1.0,
        "answer_accuracy": 0.0,
    }
    aggregate = {
        "official": {"real": {"Counting": third, "total": third}, "proactive": {"Proactive Output": counts}},
        "stc": {"real": {"Counting": third}},
    }
    return case("streamingbench_scoring", mc_items=items, proactive_items=proactive, aggregate=aggregate)


def rekv_eval() -> dict[str, Any]:
    prompt = (
        "\nQuestion: Q?\nOptions:\n(A) p\nOnly give the best option."
        "<|im_end|><|im_start|>assistant\nBest option: ("
    )
    windows = {"sample_fps": 0.5, "conversations_s": [[0, 10], [0, 11], [5, 900]]}
    return case(
        "rekv_eval",
        how="over a 200-frame clip",
        mcq_prompt=[{"question": "Q?", "choices": ["p"], "prompt": prompt}],
        choice_extraction=[{"text": "", "choice": "IndexError", "stc_choice": "A"}],
        stream_windows=windows | {"calls": ["init", [0, 5], "answer", "answer", [5, 200], "answer"]},
        streamforest_frames=[{"n_frames": 50, "fps": 25.0, "indices": [5, 18, 30, 43]}],
        frame_sampling=[
            {"n_frames": 7, "avg_fps": 2.0, "sample_fps": 1.0, "indices_or_error": [0, 2, 4, 6]},
            {"n_frames": 7, "avg_fps": 0.3, "sample_fps": 1.0, "indices_or_error": "ValueError"},
        ],
    )


BUILDERS: list[Callable[[], dict[str, Any]]] = [
    ovo_annotations,
    ovo_prompts,
    ovo_scoring,
    sb_annotations,
    sb_prompts,
    sb_scoring,
    rekv_eval,
]


def run(checked: dict[str, Any], folder: Path, siblings: list[dict[str, Any]] | None = None) -> CaseResult:
    siblings = [ovo_annotations(), sb_annotations()] if siblings is None else siblings
    return run_case(checked, folder / "any_name.json", siblings)


@pytest.mark.parametrize("build", BUILDERS)
def test_a_true_case_passes(build: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    result = run(build(), tmp_path)
    assert result.passed, result.detail
    assert (result.max_error, result.tolerance) == (0.0, 0.0) and result.detail.endswith("values")


def change(data: Any, path: str, value: Any) -> Any:
    *parents, last = [int(p) if p.isdecimal() else p for p in path.split("/")]
    target = data
    for key in parents:
        target = target[key]
    assert target[last] != value
    target[last] = value
    return data


@pytest.mark.parametrize(
    ("build", "path", "value"),
    [
        (ovo_annotations, "rows/0/gt", 9),
        (ovo_prompts, "prompts/0/prompt", "\nQuestion"),
        (ovo_prompts, "prompts/1/end_s", 5),
        (ovo_prompts, "prompts/1/chunk", "2.mp4"),
        (ovo_prompts, "prompts/1/round", 1),
        (ovo_scoring, "mc_items/0/expected/official", 0),
        (ovo_scoring, "forward_items/0/expected/official", [1, 1]),
        (ovo_scoring, "aggregate/per_task/EPM", 50.01),
        (ovo_scoring, "aggregate/counts/EPM", [2, 2]),
        (ovo_scoring, "aggregate/modes/forward", 66.67),
        (ovo_scoring, "aggregate/total", 62.5),
        (sb_annotations, "timestamps/0/seconds", 61),
        (sb_annotations, "real/0/questions/0/answer", "E"),
        (sb_prompts, "prompts/0/prompt", "x"),
        (sb_prompts, "prompts/1/start_s", 0),
        (sb_prompts, "prompts/4/prompt", "x"),
        (sb_prompts, "prompts/10/end_s", 17),
        (sb_prompts, "prompts/13/end_s", 13),
        (sb_scoring, "mc_items/0/expected/stc_strip_equal", 0),
        (sb_scoring, "mc_items/3/expected/official_first_char", 0),
        (sb_scoring, "proactive_items/0/expected/time_correct", 0),
        (sb_scoring, "aggregate/official/real/total/accuracy", 0.6666),
        (sb_scoring, "aggregate/stc/real/Counting/total", 4),
        (rekv_eval, "mcq_prompt/0/prompt", "x"),
        (rekv_eval, "choice_extraction/0/stc_choice", "B"),
        (rekv_eval, "stream_windows/calls/1", [0, 6]),
        (rekv_eval, "streamforest_frames/0/indices", [5]),
        (rekv_eval, "frame_sampling/0/indices_or_error", [0]),
    ],
)
def test_one_wrong_value_fails(build: Any, path: str, value: Any, tmp_path: Path) -> None:
    result = run(change(build(), path, value), tmp_path)
    assert not result.passed and result.max_error >= 1
    assert "\n" not in result.detail


def test_a_dropped_poll_fails(tmp_path: Path) -> None:
    prompts = sb_prompts()
    del prompts["prompts"][-4]  # the last poll of the scenario without a yes
    assert "order of rounds" in run(prompts, tmp_path).detail


@pytest.mark.parametrize("build", [ovo_prompts, sb_prompts])
def test_prompts_without_annotations_are_not_checkable(build: Any, tmp_path: Path) -> None:
    result = run(build(), tmp_path, siblings=[])
    assert not result.passed and "not checkable" in result.detail
    assert result.max_error == len(build()["prompts"])


def test_unknown_kinds_and_empty_cases_fail(tmp_path: Path) -> None:
    assert "unknown kind 'new'" in run(case("new"), tmp_path).detail
    assert not run({}, tmp_path).passed
    assert "nothing to compare" in run(case("rekv_eval"), tmp_path).detail
    assert "KeyError" in run(case("ovo_prompts"), tmp_path).detail


def write_csv(folder: Path, name: str, **fields: str) -> None:
    columns = ("question_id", "task_type", "question", "time_stamp", "answer", "options")
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for index, stamp in ((1, "0:10"), (2, "00:20")):
            row = dict(zip(columns, ("", "Counting", "How many?", stamp, "C", repr(OPTIONS)), strict=True))
            row["question_id"] = f"Real-Time Visual Understanding_sample_5_{index}"
            writer.writerow(row | fields)


def test_csv_beside_the_annotations_must_hold_the_same_questions(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    write_csv(tmp_path, "anything.csv")
    alone = run(sb_annotations(), tmp_path / "nowhere").detail
    assert run(sb_annotations(), tmp_path).passed and run(sb_annotations(), tmp_path).detail != alone
    write_csv(tmp_path, "anything.csv", answer="D")
    result = run(sb_annotations(), tmp_path)
    assert not result.passed and "anything.csv" in result.detail
