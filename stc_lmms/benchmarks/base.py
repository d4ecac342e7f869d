"""The vocabulary of all benchmarks: questions, one row per video, rounds, and scored records.

A row is a plain dict with the same keys and types everywhere, so Arrow can type it and JSON can hold it.
A harness asks the rounds of a row in order; `rounds` tells what comes next, `score_row` what it was worth.
"""

from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
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
        qid: unique in the benchmark, fields joined by colons (`66`, `1558:3`, `real:389:2`).
        task: sub-task in the benchmark's own naming.
        kind: `choice`, `count`, `yesno` or `proactive`.
        start_s: start of the clip the question sees; 0 is the whole past.
        end_s: the question sees frames with start_s <= t < end_s; for `proactive` the last poll; -1 is the
            end of the video.
        prompt: text for the model; for `proactive` the text of each poll.
        answer: gold letter, number, `Yes`/`No`, or the text to output.
        follow_up: `proactive`: what is asked after a yes; else empty.
        gold_s: `proactive`: when to answer; else -1.
        search: what a memory that searches is searched by; without it, the prompt.
        opening: the first words of the answer, put into the model's mouth.
        watch: `proactive`: what a model that decides by itself when to answer is told to watch for.
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
    """All questions of one part about one source video, in the order of their times."""

    video: str
    part: str
    questions: list[Question]


class Ask(NamedTuple):
    """One round: show the frames with start_s <= t < end_s (-1: to the end), then give the prompt.

    `search`, `opening` and (in polls) `watch` are those of the question; empty if it has none.
    """

    start_s: float
    end_s: float
    prompt: str
    qid: str
    search: str = ""
    opening: str = ""
    watch: str = ""


class Verdict(NamedTuple):
    """Score of one response: official 0/1, strict 0/1 or None if the strict reading found no answer."""

    official: int
    strict: int | None


class Record(TypedDict):
    """The result of one question.

    Attributes:
        end_s: time of the last round that was asked about it (`proactive`: when it answered).
        response: the text that was scored; empty when missing.
        official: 0 or 1 by the benchmark's own rule.
        strict: 0 or 1 by the strict reading.
        missing: no response, or only white space; scored as wrong.
        unparsed: a response without one readable answer; wrong for the strict scorer.
        failed: reason why a round raised, else empty.
        rounds: how many rounds were asked.
        efficiency: what the model reported for the last round, untouched.
        note: what the model has to say about the last round (a damaged video, ...), else empty.
        past_end: the last round was asked past the end of the video, so at its end.
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
    """Return the row of one video, its questions sorted by (end_s, qid), numbers in a qid as numbers."""
    return {"video": video, "part": part, "questions": sorted(questions, key=_question_order)}


def order_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the rows by descending last end_s, so that row i on rank i mod world_size balances."""
    return sorted(rows, key=lambda row: (-row["questions"][-1]["end_s"], row["video"]))


def rounds(row: Row) -> Generator[Ask, str, None]:
    """Yield what to ask next; send the model's response back.

    A proactive question is polled every second from start_s + 1 to end_s until a response contains
    "yes" in any case (the official rule: also "yesterday"), then its follow-up is asked on the same clip.
    """
    for question in row["questions"]:
        if question["kind"] == "proactive":
            yield from _poll(question)
        else:
            told = question.get("search", ""), question.get("opening", "")
            yield Ask(question["start_s"], question["end_s"], question["prompt"], question["qid"], *told)


def ask_at(row: Row, previous_responses: Sequence[str | None]) -> Ask | None:
    """Return the round that follows the given responses, or None when the row is finished."""
    return replay(row, previous_responses)[1]


def replay(row: Row, responses: Iterable[str | None]) -> tuple[list[tuple[Ask, str | None]], Ask | None]:
    """Pair responses with the rounds they answer.

    Returns:
        The answered rounds, and the next round or None when the row is finished. Surplus responses
        are ignored.
    """
    generator = rounds(row)
    pending = next(generator, None)
    answered: list[tuple[Ask, str | None]] = []
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
    """Return 1 if the one answer read from the text is the gold one, 0 if not, None if there is none."""
    parsed = _PARSERS[question["kind"]](response)
    return None if parsed is None else int(parsed == question["answer"])


def score_row(
    row: Row,
    responses: Sequence[str | None],
    judge: Judge,
    failures: Mapping[int, str] | None = None,
    efficiency: Mapping[int, Mapping[str, Any]] | None = None,
    notes: Mapping[int, str] | None = None,
    past_end: Collection[int] = (),
) -> list[Record]:
    """Score all questions of a row.

    Args:
        row: the row.
        responses: one per round; fewer than needed, None and "" are missing answers.
        judge: the benchmark's scorer.
        failures: round index -> reason. A failed round without a response ended the video: all
            questions that were not reached carry its reason.
        efficiency: round index -> what the model reported.
        notes: round index -> one line for the record.
        past_end: indices of the rounds that were asked past the end of the video.

    Returns:
        One record per question, in the row's order. Odd text never raises.
    """
    failures, efficiency, notes = failures or {}, efficiency or {}, notes or {}
    answered, pending = replay(row, responses)
    indices: dict[str, list[int]] = {}
    for index, (ask, _) in enumerate(answered):
        indices.setdefault(ask.qid, []).append(index)
    unfinished = pending.qid if pending else None

    def record(question: Question) -> Record:
        asked = indices.get(question["qid"], [])
        complete = bool(asked) and question["qid"] != unfinished
        response = answered[asked[-1]][1] if complete else None
        end_s = answered[asked[-1]][0].end_s if asked else question["end_s"]
        candidates = asked if complete else [*asked, len(answered)]
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
            "failed": next((failures[index] for index in candidates if failures.get(index)), ""),
            "rounds": len(asked),
            "efficiency": dict(efficiency.get(asked[-1], {})) if asked else {},
            "note": notes.get(asked[-1], "") if asked else "",
            "past_end": bool(asked) and asked[-1] in past_end,
        }

    return [record(question) for question in row["questions"]]


def _poll(question: Question) -> Generator[Ask, str, None]:
    end_s = question["start_s"] + POLL_STEP_S
    while end_s <= question["end_s"]:
        watch = question.get("watch", "")
        response = yield Ask(question["start_s"], end_s, question["prompt"], question["qid"], watch=watch)
        if "yes" in (response or "").lower():  # plain iteration sends None
            yield Ask(question["start_s"], end_s, question["follow_up"], question["qid"])
            return
        end_s += POLL_STEP_S


def _question_order(question: Question) -> tuple[float, list[tuple[int, str]]]:
    parts = question["qid"].split(":")
    # digits compare by length first: 9 before 10, without turning text into numbers
    return question["end_s"], [(len(p), p) if p.isdecimal() else (0, p) for p in parts]
