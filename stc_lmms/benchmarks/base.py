"""Questions, rows, rounds and scored records, shared by all benchmarks.

A row is a plain dict with the same keys and types in every benchmark, so that Arrow and JSON can hold it.
Its rounds are asked in order: `rounds` yields what to ask next, `score_row` scores the responses.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

from stc_lmms.benchmarks.parsing import parse_choice, parse_count, parse_yes_no

POLL_STEP_S = 1.0
NO_TIME_S = -1.0

_PARSERS: dict[str, Callable[[str], str | None]] = {
    "choice": parse_choice,
    "count": parse_count,
    "yesno": parse_yes_no,
}


class Question(TypedDict):
    """One question about one video.

    Attributes:
        qid: unique in the benchmark, fields separated by colons (`66`, `1558:3`, `real:389:2`).
        kind: `choice`, `count`, `yesno` or `proactive`.
        start_s, end_s: the question sees frames with start_s <= t < end_s. An end of -1 is the end of the
            video; `proactive`: time of the last poll.
        prompt: text for the model, `proactive`: at each poll.
        answer: gold letter, number, `Yes`/`No`, or the text to output.
        follow_up: `proactive`: prompt after a yes; else empty.
        gold_s: `proactive`: when to answer; else -1.
        search: retrieval query for memories that search; the prompt if absent.
        opening: prefilled beginning of the answer.
        watch: `proactive`: instruction for models that decide by themselves when to answer.
    """

    qid: str
    task: str
    kind: str
    start_s: float
    end_s: float
    prompt: str
    answer: str
    follow_up: str
    gold_s: float
    search: NotRequired[str]
    opening: NotRequired[str]
    watch: NotRequired[str]


class Row(TypedDict):
    """All questions of one part about one video, in time order."""

    video: str
    part: str
    questions: list[Question]


class Round(NamedTuple):
    """A prompt about the frames with start_s <= t < end_s (-1: to the end); fields as in `Question`."""

    start_s: float
    end_s: float
    prompt: str
    qid: str
    search: str = ""
    opening: str = ""
    watch: str = ""


class Verdict(NamedTuple):
    """Scores of one response: official 0 or 1; strict 0, 1 or None if no answer could be parsed."""

    official: int
    strict: int | None


class Record(TypedDict):
    """Result of one question.

    Attributes:
        end_s: time of its last round (`proactive`: when the model answered).
        official, strict: 0 or 1 by the benchmark's own rule and by the strict parser.
        missing: no response or only white space; scored as wrong.
        unparsed: no single answer could be parsed; wrong for the strict scorer.
        failed: why a round raised, else empty.
        efficiency: the model's costs of the last round.
        note: the model's remark on the last round (such as a damaged video), else empty.
        past_end: the last round was past the end of the video, so it was asked at the end.
    """

    qid: str
    video: str
    part: str
    task: str
    kind: str
    end_s: float
    response: str
    answer: str
    official: int
    strict: int
    missing: bool
    unparsed: bool
    failed: str
    rounds: int
    efficiency: dict[str, Any]
    note: str
    past_end: bool


Judge = Callable[[Question, str, float], Verdict]
"""Scores (question, non-empty response, second at which it was asked)."""


def make_row(video: str, part: str, questions: Iterable[Question]) -> Row:
    """The row of one video, with questions sorted by (end_s, qid); numbers in a qid compare as numbers."""
    return {"video": video, "part": part, "questions": sorted(questions, key=_question_order)}


def order_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows by descending last end_s, so that dealing them to ranks in turn balances the load."""
    return sorted(rows, key=lambda row: (-row["questions"][-1]["end_s"], row["video"]))


def rounds(row: Row) -> Generator[Round, str, None]:
    """Yield the rounds of a row; send the model's response back after each.

    A proactive question is polled every second from start_s + 1 to end_s until a response contains "yes" in
    any case (the official rule, so "yesterday" counts), then its follow-up is asked about the same clip.
    """
    for question in row["questions"]:
        if question["kind"] == "proactive":
            yield from _poll(question)
        else:
            search, opening = question.get("search", ""), question.get("opening", "")
            span = question["start_s"], question["end_s"]
            yield Round(*span, question["prompt"], question["qid"], search, opening)


def next_round(row: Row, responses: Sequence[str | None]) -> Round | None:
    """The round that follows the responses, or None if the row is finished."""
    return replay(row, responses)[1]


def replay(row: Row, responses: Iterable[str | None]) -> tuple[list[tuple[Round, str | None]], Round | None]:
    """The answered rounds, and the next one (None: the row is finished); surplus responses are ignored."""
    generator = rounds(row)
    pending = next(generator, None)
    answered: list[tuple[Round, str | None]] = []
    for response in responses:
        if pending is None:
            break
        answered.append((pending, response))
        try:
            pending = generator.send(response if isinstance(response, str) else "")
        except StopIteration:
            pending = None
    return answered, pending


def strict_score(question: Question, response: str) -> int | None:
    """1 if the single answer parsed from the response is the gold answer, 0 if not, None if there is none."""
    parsed = _PARSERS[question["kind"]](response)
    return None if parsed is None else int(parsed == question["answer"])


def score_row(
    row: Row,
    responses: Sequence[str | None],
    judge: Judge,
    reports: Mapping[int, Mapping[str, Any]] | None = None,
) -> list[Record]:
    """One record per question, in the row's order. No text of a response raises.

    Args:
        row: the row.
        responses: one per round; None, "" and absent ones are missing answers.
        judge: the benchmark's scorer.
        reports: round index -> what the model reported: any of `failed`, `efficiency`, `note` and `past_end`
            of `Record`. The reason of a failed round without response applies to all later questions.
    """
    reports = reports or {}
    answered, pending = replay(row, responses)
    indices: dict[str, list[int]] = {}
    for index, (asked, _) in enumerate(answered):
        indices.setdefault(asked.qid, []).append(index)
    unfinished = pending.qid if pending else None

    def record(question: Question) -> Record:
        own = indices.get(question["qid"], [])
        complete = bool(own) and question["qid"] != unfinished
        response = answered[own[-1]][1] if complete else None
        end_s = answered[own[-1]][0].end_s if own else question["end_s"]
        last = reports.get(own[-1], {}) if own else {}
        failed = [
            reports.get(index, {}).get("failed") for index in (own if complete else [*own, len(answered)])
        ]
        text = response if isinstance(response, str) and response.strip() else ""
        verdict = judge(question, text, end_s) if text else Verdict(0, 0)
        return {
            "qid": question["qid"],
            "video": row["video"],
            "part": row["part"],
            "task": question["task"],
            "kind": question["kind"],
            "end_s": end_s,
            "response": text,
            "answer": question["answer"],
            "official": verdict.official,
            "strict": verdict.strict or 0,
            "missing": not text,
            "unparsed": verdict.strict is None,
            "failed": next(filter(None, failed), ""),
            "rounds": len(own),
            "efficiency": dict(last.get("efficiency") or {}),
            "note": last.get("note") or "",
            "past_end": bool(last.get("past_end")),
        }

    return [record(question) for question in row["questions"]]


def _poll(question: Question) -> Generator[Round, str, None]:
    start_s, watch = question["start_s"], question.get("watch", "")
    end_s = start_s + POLL_STEP_S
    while end_s <= question["end_s"]:
        response = yield Round(start_s, end_s, question["prompt"], question["qid"], watch=watch)
        if "yes" in (response or "").lower():  # plain iteration sends None
            yield Round(start_s, end_s, question["follow_up"], question["qid"])
            return
        end_s += POLL_STEP_S


def _question_order(question: Question) -> tuple[float, list[tuple[int, str]]]:
    parts = question["qid"].split(":")
    # Digits compare by length first (9 before 10), without converting text to numbers.
    return question["end_s"], [(len(p), p) if p.isdecimal() else (0, p) for p in parts]
