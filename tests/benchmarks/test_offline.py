"""MLVU, EgoSchema and VideoMME: rows, prompts, gold answers of three kinds, scores."""

from typing import Any

import pytest

from parity.rules import rekv_prompt
from stc_lmms.benchmarks import egoschema, mlvu, videomme
from stc_lmms.benchmarks.base import NO_TIME_S, next_round
from stc_lmms.errors import DataError
from stc_lmms.models.llava_onevision.prompt import REKV_SUFFIX

MLVU, EGOSCHEMA, VIDEOMME = mlvu.ANNOTATIONS, egoschema.ANNOTATIONS, videomme.ANNOTATIONS
TEXTS = ["Red", "Blue", "Green", "White"]
LETTERED = [f"{letter}. {text}" for letter, text in zip("ABCD", TEXTS)]


def conversation(**fields: Any) -> dict[str, Any]:
    return {"question": "What color?", "choices": TEXTS, "answer": "Green"} | fields


def videos(*conversations: dict[str, Any], path: str = "data/mlvu/videos/2_needle/a.mp4") -> list[Any]:
    return [{"video_id": "a", "video_path": path, "duration": 60, "conversations": list(conversations)}]


def mlvu_row(**fields: Any) -> dict[str, Any]:
    row = {"video_name": "a.mp4", "question": "What?", "candidates": TEXTS, "answer": "B", "task_type": "ego"}
    return row | fields


def egoschema_row(**fields: Any) -> dict[str, Any]:
    options = [f"{letter}. choice {letter.lower()}" for letter in "ABCDE"]
    return {"video_idx": "x-1", "question": "Why?", "option": options, "answer": "3"} | fields


def videomme_row(**fields: Any) -> dict[str, Any]:
    row = {"videoID": "y_1", "question": "Who?", "options": LETTERED, "answer": "D", "duration": "medium"}
    return row | fields


def test_one_row_per_video_with_all_its_questions_at_the_end() -> None:
    items = MLVU.read_videos(videos(conversation(), conversation(question="And now?")), "f")
    items += MLVU.read_videos(videos(conversation(), path="data/mlvu/videos/b.mp4"), "f")
    first, second = mlvu.BENCHMARK.build_rows(items, "dev")
    assert [q["qid"].rpartition(":")[2] for q in first["questions"]] == ["1", "2"]
    assert len(second["questions"]) == 1 and first["part"] == "dev"
    assert {q["end_s"] for q in first["questions"]} == {NO_TIME_S}
    asked = next_round(first, [""])
    assert asked.search == "And now?" and asked.opening == "Best option: (" and asked.end_s == NO_TIME_S
    assert next_round(first, ["", ""]) is None


def test_prompt_is_that_of_the_drivers() -> None:
    (row,) = mlvu.BENCHMARK.build_rows(MLVU.read_videos(videos(conversation()), "f"), "dev")
    asked = next_round(row, [])
    whole = REKV_SUFFIX.replace("{question}", asked.prompt) + asked.opening
    assert whole == rekv_prompt("What color?", TEXTS)


def test_egoschema_gold_is_an_index_and_letters_come_off() -> None:
    (item,) = EGOSCHEMA.read_hub([egoschema_row()], "hub")
    assert item.answer == "D" and item.choices[0] == "choice a" and item.task == "subset"
    (item,) = EGOSCHEMA.read_hub([egoschema_row(answer=0)], "hub")
    assert item.answer == "A"
    (item,) = EGOSCHEMA.read_videos(videos(conversation(answer=2), path="q/x.mp4"), "f")
    assert item.answer == "C"


def test_videomme_keeps_its_letters_as_the_driver_does() -> None:
    (item,) = VIDEOMME.read_hub([videomme_row()], "hub")
    assert (item.answer, item.task) == ("D", "medium")
    (row,) = videomme.BENCHMARK.build_rows([item], "test")
    assert "\n(A) A. Red\n" in row["questions"][0]["prompt"]


def test_mlvu_gold_is_a_text_even_when_it_is_a_digit_or_a_letter() -> None:
    counted = conversation(choices=["2", "3", "0", "1"], answer="3")
    assert MLVU.read_videos(videos(counted), "f")[0].answer == "B"
    lettered = conversation(choices=["B", "A"], answer="A")
    assert MLVU.read_videos(videos(lettered), "f")[0].answer == "B"
    assert MLVU.read_hub([mlvu_row()], "hub")[0].answer == "B"


def test_mlvu_of_the_hub_has_its_options_inside_the_question() -> None:
    text = "Question: What (A) is it?\nOptions:\n" + "\n".join(f"({x}) {t}" for x, t in zip("ABCD", TEXTS))
    for row in (
        mlvu_row(question=text),
        {k: v for k, v in mlvu_row(question=text).items() if k != "candidates"},
    ):
        (item,) = MLVU.read_hub([row], "hub")
        assert (item.question, item.choices, item.answer) == ("What (A) is it?", tuple(TEXTS), "B")


@pytest.mark.parametrize(
    ("label", "task"),
    [
        ("findNeedle", "needle"),
        ("2_needle", "needle"),
        ("plotQA", "plotQA"),
        ("1_plotQA", "plotQA"),
        ("new", "new"),
    ],
)
def test_mlvu_tasks_by_any_of_their_names(label: str, task: str) -> None:
    assert MLVU.read_hub([mlvu_row(task_type=label)], "hub")[0].task == task
    assert MLVU.read_videos(videos(conversation(question_type=label)), "f")[0].task == task
    assert MLVU.read_videos(videos(conversation(), path=f"videos/{label}/a.mp4"), "f")[0].task == task


@pytest.mark.parametrize(
    ("response", "official", "strict"),
    [
        ("C", 1, 1),
        (" C) Green", 1, 1),
        ("(C) Green", 1, 1),
        ("c", 0, 1),  # ReKV minds the case
        ("Green, so C", 0, 1),
        ("I think C) because (A) is wrong", 1, None),
        ("B or C", 0, None),
        (")", 0, None),
    ],
)
def test_scores(response: str, official: int, strict: int | None) -> None:
    (row,) = mlvu.BENCHMARK.build_rows(MLVU.read_videos(videos(conversation()), "f"), "dev")
    (record,) = mlvu.BENCHMARK.score_row(row, [response])
    assert record["official"] == official and record["strict"] == (strict or 0)
    assert record["unparsed"] == (strict is None)


def test_missing_answers_stay_in_the_denominator_and_the_headline_is_micro() -> None:
    asked = [
        conversation(question_type="ego"),
        conversation(question_type="ego"),
        conversation(question_type="count"),
    ]
    (row,) = mlvu.BENCHMARK.build_rows(MLVU.read_videos(videos(*asked), "f"), "dev")
    summary = mlvu.BENCHMARK.summarise(mlvu.BENCHMARK.score_row(row, ["C", "", "C"]))
    part = summary["parts"]["dev"]
    assert summary["headline"] == "micro" and summary["n_missing"] == 1
    assert part["micro"]["official"] == pytest.approx(2 / 3) and part["macro"]["official"] == 0.75
    assert "dev/plotQA" in summary["absent"]


@pytest.mark.parametrize(
    ("read", "data", "message"),
    [
        (MLVU.read_videos, {}, "must be a non-empty list"),
        (MLVU.read_videos, [3], "entry 0: must be an object"),
        (MLVU.read_videos, [{"video_path": "a.mp4"}], "field 'conversations' is missing"),
        (MLVU.read_videos, videos(path="../a.mp4"), "'video_path' must be a path below the data root"),
        (MLVU.read_videos, videos(), "holds no questions"),
        (MLVU.read_videos, videos(conversation(choices=["x"])), "'choices' must hold at least 2"),
        (MLVU.read_videos, videos(conversation(answer="Pink")), "'answer' must be one of the choices"),
        (EGOSCHEMA.read_videos, videos(conversation(answer=None)), "without gold answers there is no score"),
        (EGOSCHEMA.read_hub, [egoschema_row(answer="5")], "'answer' must be 0 to 4"),
        (EGOSCHEMA.read_hub, [egoschema_row(answer=True)], "'answer' must be 0 to 4"),
        (VIDEOMME.read_hub, [videomme_row(answer="E")], "'answer' must be a letter up to D"),
        (
            MLVU.read_hub,
            [{"video_name": "a.mp4", "question": "What?", "answer": "A"}],
            "neither 'candidates' nor",
        ),
        (MLVU.read_hub, [], "holds no questions"),
    ],
)
def test_malformed_rows_are_one_line_errors(read: Any, data: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(data, "somewhere")
    assert message in str(caught.value) and str(caught.value).startswith("somewhere")
    assert "\n" not in str(caught.value)
