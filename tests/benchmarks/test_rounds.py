"""Rows, rounds, replay and records, independent of a benchmark."""

import json
from typing import Any

import pytest

from stc_lmms.benchmarks.base import (
    Question,
    Round,
    Verdict,
    make_row,
    next_round,
    order_rows,
    rounds,
    score_row,
)


def question(qid: str, end_s: float = 10.0, **fields: Any) -> Question:
    return {
        "qid": qid,
        "task": "T",
        "kind": "choice",
        "start_s": 0.0,
        "end_s": end_s,
        "prompt": f"ask {qid}",
        "answer": "A",
        "follow_up": "",
        "gold_s": -1.0,
        **fields,
    }


def proactive(qid: str = "p", start_s: float = 6.0, gold_s: float = 8.0) -> Question:
    fields = {"kind": "proactive", "start_s": start_s, "gold_s": gold_s, "follow_up": f"say {qid}"}
    return question(qid, gold_s + 4, **fields)


def judge(item: Question, response: str, asked_s: float) -> Verdict:
    """Official: substring; strict: equality, unparsed when there is no letter; times count for nothing."""
    return Verdict(
        int(item["answer"] in response), int(response == item["answer"]) if response != "?" else None
    )


def drive(row: Any, answer: Any) -> list[Round]:
    asked, machine = [], rounds(row)
    ask = next(machine, None)
    while ask is not None:
        asked.append(ask)
        try:
            ask = machine.send(answer(ask))
        except StopIteration:
            ask = None
    return asked


def test_questions_sort_by_time_then_number() -> None:
    row = make_row("v", "p", [question("7:10"), question("12"), question("7:9"), question("3", 4.0)])
    assert [q["qid"] for q in row["questions"]] == ["3", "7:9", "7:10", "12"]


def test_rows_sort_by_falling_end() -> None:
    rows = [
        make_row(v, "p", [question("1", e), question("2", 1.0)]) for v, e in [("b", 5), ("a", 5), ("c", 9)]
    ]
    assert [row["video"] for row in order_rows(rows)] == ["c", "a", "b"]


def test_static_questions_come_in_order() -> None:
    row = make_row("v", "p", [question("2", 20.0, start_s=5.0), question("1", 10.0)])
    assert drive(row, lambda ask: "yes") == [Round(0.0, 10.0, "ask 1", "1"), Round(5.0, 20.0, "ask 2", "2")]


def test_poll_until_four_seconds_after_gold() -> None:
    asked = drive(make_row("v", "p", [proactive()]), lambda ask: "No.")
    assert [(a.start_s, a.end_s, a.prompt) for a in asked] == [(6.0, float(t), "ask p") for t in range(7, 13)]


@pytest.mark.parametrize("yes", ["yes", "Yes.", " YES, now", "I say yes"])
def test_poll_stops_at_yes_and_follows_up_on_the_same_clip(yes: str) -> None:
    row = make_row("v", "p", [proactive("p"), proactive("r", 20.0, 22.0)])
    asked = drive(row, lambda ask: yes if ask.end_s in (8.0, 21.0) else "no")
    assert [(a.qid, a.end_s, a.prompt) for a in asked] == [
        ("p", 7.0, "ask p"),
        ("p", 8.0, "ask p"),
        ("p", 8.0, "say p"),
        ("r", 21.0, "ask r"),
        ("r", 21.0, "say r"),
    ]


def test_a_yes_in_the_follow_up_does_not_trigger_again() -> None:
    assert len(drive(make_row("v", "p", [proactive()]), lambda ask: "yes")) == 2


def test_next_round_replays_the_machine() -> None:
    row = make_row("v", "p", [question("a", 5.0), proactive("p"), question("z", 99.0)])
    answers = ["B", "no", "yes", "text", "C"]
    wanted = []
    machine = rounds(row)
    ask: Round | None = next(machine)
    for answer in answers:
        wanted.append(ask)
        try:
            ask = machine.send(answer)
        except StopIteration:
            ask = None
    assert [next_round(row, answers[:k]) for k in range(len(answers))] == wanted
    assert next_round(row, answers) is None
    assert next_round(row, [*answers, "surplus"]) is None
    assert next_round(row, ["B", None, "", 3]) == Round(6.0, 10.0, "ask p", "p")  # type: ignore[list-item]


def test_records_hold_scores_and_flags() -> None:
    row = make_row("v", "p", [question(str(i), float(i)) for i in range(1, 7)])
    records = score_row(row, ["A", "not A", "?", None, " \n"], judge, {3: {"failed": "decode"}})
    assert [(r["official"], r["strict"]) for r in records] == [(1, 1), (1, 0), (0, 0), (0, 0), (0, 0), (0, 0)]
    assert [r["missing"] for r in records] == [False, False, False, True, True, True]
    assert [r["unparsed"] for r in records] == [False, False, True, False, False, False]
    assert [r["failed"] for r in records] == ["", "", "", "decode", "", ""]
    assert [r["rounds"] for r in records] == [1, 1, 1, 1, 1, 0]
    assert [r["response"] for r in records] == ["A", "not A", "?", "", "", ""]
    assert records[5]["end_s"] == 6.0


def test_a_failure_without_response_marks_everything_after_it() -> None:
    row = make_row("v", "p", [question("1", 1.0), question("2", 2.0), question("3", 3.0)])
    records = score_row(row, ["A"], judge, {1: {"failed": "no such video"}})
    assert [r["failed"] for r in records] == ["", "no such video", "no such video"]
    assert [r["missing"] for r in records] == [False, True, True]


def test_proactive_record_holds_the_time_and_text_of_the_answer() -> None:
    row = make_row("v", "p", [proactive()])
    seen: list[float] = []

    def timed(item: Question, response: str, asked_s: float) -> Verdict:
        seen.append(asked_s)
        return Verdict(1, 1)

    record = score_row(
        row, ["no", "yes", "A"], timed, {0: {"efficiency": {"ms": 1}}, 2: {"efficiency": {"ms": 3}}}
    )[0]
    assert (record["end_s"], record["response"], record["rounds"]) == (8.0, "A", 3)
    assert record["efficiency"] == {"ms": 3}
    assert seen == [8.0]


def test_notes_are_those_of_the_last_round() -> None:
    row = make_row("v", "p", [question("1", 1.0), proactive(), question("3", 20.0), question("4", 30.0)])
    said = ["A", "no", "yes", "A", "A"]
    reports = {1: {"note": "early", "past_end": True}, 3: {"note": "late", "past_end": True}}
    records = score_row(row, said, judge, reports | {4: {"note": "damaged"}})
    assert [record["note"] for record in records] == ["", "late", "damaged", ""]
    assert [record["past_end"] for record in records] == [False, True, False, False]


@pytest.mark.parametrize("responses", [[], ["no"], ["no", "yes"], ["no", "no", "no"]])
def test_unfinished_polling_is_missing(responses: list[str]) -> None:
    record = score_row(make_row("v", "p", [proactive()]), responses, judge)[0]
    assert record["missing"] and not record["official"] and record["rounds"] == len(responses)


def test_a_failed_poll_is_recorded_and_polling_goes_on() -> None:
    record = score_row(make_row("v", "p", [proactive()]), ["", "yes", "A"], judge, {0: {"failed": "oom"}})[0]
    assert (record["failed"], record["official"], record["missing"]) == ("oom", 1, False)


def test_odd_responses_never_raise_and_records_are_json() -> None:
    row = make_row("v", "p", [question(str(i), float(i)) for i in range(6)])
    odd: list[Any] = ["\x00", "9" * 5000, 7, ["A"], "\ud800", "{}{0}"]
    assert len(json.loads(json.dumps(score_row(row, odd, judge)))) == 6
