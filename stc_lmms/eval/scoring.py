"""Answers with what is known about them, and the scores of the answers to one row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stc_lmms.benchmarks.base import Record
from stc_lmms.benchmarks.registry import find


@dataclass(frozen=True)
class AnsweredRound:
    """The answer to one round of a dialogue.

    Attributes:
        text: the answer; "" if it failed.
        failed: why there is no answer, in one line.
        efficiency: what it cost, see `Efficiency.to_dict`; None if it failed or the cost is not known.
        note: a remark of the model, such as a damaged video.
        past_end: the question was asked past the end of the video, so it was answered at its end.
    """

    text: str
    failed: str = ""
    efficiency: dict[str, Any] | None = None
    note: str = ""
    past_end: bool = False

    def record(self) -> dict[str, Any]:
        """Everything but the text, as plain JSON values; fields that are not set are left out."""
        return {name: value for name, value in vars(self).items() if name != "text" and value}


def score(row: Mapping[str, Any], rounds: Sequence[AnsweredRound]) -> list[Record]:
    """One record per question of a row of `load_rows`."""
    reports = {index: answer.record() for index, answer in enumerate(rounds)}
    return find(row["benchmark"]).score_row(row, [answer.text for answer in rounds], reports)


def summary_name(row: Mapping[str, Any]) -> str:
    """The name of a row's benchmark in summaries, such as `ovobench_mini`."""
    return find(row["benchmark"]).label(row["size"])
