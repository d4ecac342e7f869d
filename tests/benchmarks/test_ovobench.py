"""OVO-Bench on synthetic rows in the schema of the annotation file."""

import json
from pathlib import Path
from typing import Any

import pytest

from stc_lmms.benchmarks import ovobench
from stc_lmms.benchmarks.base import next_round
from stc_lmms.errors import DataError


def choice(row_id: int, task: str = "EPM", realtime: float = 10, video: str = "a/x.mp4") -> dict[str, Any]:
    return {
        "id": row_id,
        "task": task,
        "video": video,
        "realtime": realtime,
        "question": "Where is the {cup}?",
        "answer": "not among the options",
        "options": ["sink", "table", "shelf"],
        "gt": 1,
    }


def rec(row_id: int = 20, times: tuple[float, ...] = (4, 7.5), video: str = "b.mp4") -> dict[str, Any]:
    info = [{"realtime": t, "count": i} for i, t in enumerate(times)]
    return {"id": row_id, "task": "REC", "video": video, "activity": "jump", "test_info": info}


def ssr(row_id: int = 30, times: tuple[float, ...] = (9, 3, 6)) -> dict[str, Any]:
    info = [{"realtime": t, "type": i % 2, "step": f"step {i}"} for i, t in enumerate(times)]
    return {"id": row_id, "task": "SSR", "video": "b.mp4", "tutorial": "t", "test_info": info}


def crr(row_id: int = 40) -> dict[str, Any]:
    info = [{"realtime": 5, "type": 0}, {"realtime": 8, "type": 1}]
    return {"id": row_id, "task": "CRR", "video": "c.mp4", "question": "Who won?", "test_info": info}


def load(tmp_path: Path, content: Any) -> list[dict[str, Any]]:
    path = tmp_path / "ovo.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return ovobench.load_annotations(path)


def test_choice_prompt_is_byte_exact() -> None:
    assert ovobench.prompt(choice(1)) == (
        "\nQuestion: Where is the {cup}?\nOptions:\nA. sink; B. table; C. shelf;\n\n"
        "Respond only with the letter corresponding to your chosen option (e.g., A, B, C). \n"
        "Do not include any additional text or explanation in your response.\n"
    )


def test_forward_prompts_are_byte_exact() -> None:
    assert ovobench.prompt(rec(), 0) == (
        "\nYou're watching a video in which people may perform a certain type of action repetively. \nThe"
        " person performing this kind of action are referred to as 'they' in the following statement.\nYou're"
        " task is to count how many times have different people in the video perform this kind of action in"
        " total.\nOne complete motion counts as one. \nNow, answer the following question: How many times"
        " did they jump?\nProvide your answer as a single number (e.g., 0, 1, 2, 3\u2026) indicating the"
        " total count.\nDo not include any additional text or explanation in your response.\n"
    )
    assert ovobench.prompt(ssr(), 2) == (
        "\nYou're watching a tutorial video which contain a sequential of steps. \nThe following is one step"
        " from the whole procedures: \nstep 2\nYour task is to determine if the man or woman in the video is"
        " currently performing this step.\nAnswer only with \u201cYes\u201d or \u201cNo\u201d.\nDo not"
        " include any additional text or explanation in your response.\n"
    )
    assert ovobench.prompt(crr(), 1) == (
        "\nYou're responsible of answering questions based on the video content. \nThe following question"
        " are relevant to the latest frames, i.e. the end of the video.\nWho won?\nDecide whether existing"
        " visual content, especially latest frames, i.e. frames that near the end of the video, provide"
        " enough information for answering the question.\nAnswer only with \u201cYes\u201d or"
        " \u201cNo\u201d.\nDo not include any additional text or explanation in your response.\n"
    )


def test_gold_comes_from_gt_and_never_from_answer() -> None:
    row = choice(1) | {"answer": "sink"}
    assert ovobench.gold(row) == "B"
    assert [q["answer"] for q in ovobench.questions_of(rec())] == ["0", "1"]
    assert [q["answer"] for q in ovobench.questions_of(ssr())] == ["No", "Yes", "No"]


@pytest.mark.parametrize(("realtime", "end_s"), [(10, 10), (10.0, 10), (10.01, 11), (0.03, 1), (268.73, 269)])
def test_end_is_the_next_whole_second(realtime: float, end_s: int) -> None:
    question = ovobench.questions_of(choice(1, realtime=realtime))[0]
    assert (question["start_s"], question["end_s"]) == (0.0, float(end_s))


def test_chunk_names() -> None:
    assert ovobench.chunk_name(66) == "66.mp4"
    assert ovobench.chunk_name(1558, 0) == "1558_0.mp4"


def test_one_row_per_video_and_mode() -> None:
    rows = [choice(1), choice(2, "HLD", 3), choice(3, "OCR", 2), choice(4, "ASI", 50, "z.mp4"), rec(5)]
    backward = ovobench.build_rows(rows, "backward")
    assert [(row["video"], [q["qid"] for q in row["questions"]]) for row in backward] == [
        ("z.mp4", ["4"]),
        ("a/x.mp4", ["2", "1"]),
    ]
    assert [row["video"] for row in ovobench.build_rows(rows, "realtime")] == ["a/x.mp4"]
    assert [q["qid"] for q in ovobench.build_rows(rows, "forward")[0]["questions"]] == ["5:0", "5:1"]


def test_forward_rounds_are_sorted_by_time_and_keep_their_index() -> None:
    row = ovobench.build_rows([rec(), ssr()], "forward")[0]
    assert [(q["qid"], q["end_s"]) for q in row["questions"]] == [
        ("30:1", 3.0),
        ("20:0", 4.0),
        ("30:2", 6.0),
        ("20:1", 8.0),
        ("30:0", 9.0),
    ]
    assert [q["kind"] for q in row["questions"]] == ["yesno", "count", "yesno", "count", "yesno"]
    ask = next_round(row, [""] * 4)
    assert ask is not None and "step 0" in ask.prompt


def test_questions_all_have_the_same_keys_and_types() -> None:
    rows = [choice(1), rec(), ssr(), crr()]
    shapes = {tuple((k, type(v)) for k, v in q.items()) for row in rows for q in ovobench.questions_of(row)}
    assert len(shapes) == 1


@pytest.mark.parametrize(
    ("kind", "answer", "response", "score"),
    [
        ("choice", "B", "B", 1),
        ("choice", "B", " B", 1),
        ("choice", "A", "The Answer is B", 1),  # the capital A of "Answer"
        ("choice", "B", "A, B, C, D", 1),
        ("choice", "A", "a", 0),
        ("choice", "B", "A", 0),
        ("choice", "B", "", 0),
        ("choice", "B", None, 0),
        ("count", "3", "3", 1),
        ("count", "3", "3 times.", 1),
        ("count", "32", "3 times in 2 scenes", 1),  # all digits are joined
        ("count", "3", "3 times in 2 scenes", 0),
        ("count", "3", "03", 0),
        ("count", "3", "3.0", 0),
        ("count", "3", "three", 0),
        ("count", "0", "", 0),
        ("count", "0", None, 0),
        ("yesno", "Yes", "Yes", 1),
        ("yesno", "Yes", "Yes, he does", 1),
        ("yesno", "Yes", "Y", 1),
        ("yesno", "No", "N", 1),
        ("yesno", "Yes", " Y", 0),
        ("yesno", "Yes", "y", 0),
        ("yesno", "Yes", "yes", 0),
        ("yesno", "No", "NO", 0),
        ("yesno", "No", "Not sure", 1),
        ("yesno", "No", "Yes and No", 1),
        ("yesno", "No", "Y", 0),
        ("yesno", "Yes", "True", 0),
        ("yesno", "No", "", 0),
        ("yesno", "No", None, 0),
    ],
)
def test_official_score(kind: str, answer: str, response: str | None, score: int) -> None:
    assert ovobench.official_score(kind, answer, response) == score


def test_official_and_strict_disagree_where_they_should() -> None:
    row = ovobench.build_rows([choice(i, realtime=i) for i in range(1, 6)], "backward")[0]
    records = ovobench.BENCHMARK.score_row(
        row, ["b", "A, B", "I do not know", None, "B."], {3: {"failed": "oom"}}
    )
    assert [r["official"] for r in records] == [0, 1, 0, 0, 1]
    assert [r["strict"] for r in records] == [1, 0, 0, 0, 1]
    assert [r["unparsed"] for r in records] == [False, True, True, False, False]
    assert [r["missing"] for r in records] == [False, False, False, True, False]
    assert [r["failed"] for r in records] == ["", "", "", "oom", ""]


def records_of(rows: list[dict[str, Any]], part: str, right: set[str]) -> list[Any]:
    built = ovobench.build_rows(rows, part)
    return [
        record
        for row in built
        for record in ovobench.BENCHMARK.score_row(
            row, [q["answer"] if q["qid"] in right else "-" for q in row["questions"]]
        )
    ]


def test_total_is_the_mean_of_modes_and_micro_is_pooled() -> None:
    backward = records_of([choice(1), choice(2), choice(3, "HLD")], "backward", {"1"})
    realtime = records_of([choice(4, "OCR")], "realtime", {"4"})
    forward = records_of([rec(20, (1, 2, 3, 4)), ssr(), crr()], "forward", {"20:0", "30:1"})
    summary = ovobench.BENCHMARK.summarise([*backward, *realtime, *forward])
    macro = {mode: part["macro"]["official"] for mode, part in summary["parts"].items()}
    # backward: EPM 1/2, HLD 0; forward pools rounds: REC 1/4, SSR 1/3, CRR 0/2
    assert macro == pytest.approx({"backward": 0.25, "realtime": 1.0, "forward": (1 / 4 + 1 / 3) / 3})
    assert summary["total"] == pytest.approx(
        {"official": (0.25 + 1 + 7 / 36) / 3, "strict": (0.25 + 1 + 7 / 36) / 3}
    )
    assert summary["micro"] == pytest.approx({"official": 4 / 13, "strict": 4 / 13})
    assert summary["headline"] == "macro"
    assert "backward/ASI" in summary["absent"] and "realtime/STU" in summary["absent"]


def test_a_missing_mode_leaves_the_total_open() -> None:
    summary = ovobench.BENCHMARK.summarise(records_of([choice(1)], "backward", {"1"}))
    assert summary["total"] is None and summary["micro"] == {"official": 1.0, "strict": 1.0}
    assert summary["absent"][:2] == ["realtime", "forward"]


def test_load_returns_the_rows(tmp_path: Path) -> None:
    rows = [choice(1), rec(), ssr(), crr()]
    assert load(tmp_path, rows) == rows


BROKEN: list[tuple[Any, str]] = [
    ("", "is empty"),
    ("[{", "is not JSON"),
    ("{}", "must be a non-empty list"),
    ("[]", "must be a non-empty list"),
    ([7], "row number 0: must be an object, got 7"),
    ([{}], "row number 0: field 'id' is missing"),
    ([choice(1), choice(1)], "row id 1: this id occurs twice"),
    ([choice(1) | {"id": "1"}], "field 'id' must be int, got '1'"),
    ([choice(1) | {"id": True}], "field 'id' must be int, got True"),
    ([choice(1) | {"task": "XYZ"}], "row id 1: field 'task' must be one of"),
    ([choice(1) | {"video": "../x.mp4"}], "row id 1: field 'video' must be a path below the data root"),
    ([choice(1) | {"video": "/etc/x.mp4"}], "row id 1: field 'video' must be a path below the data root"),
    ([choice(1) | {"realtime": "10"}], "row id 1: field 'realtime' must be int or float, got '10'"),
    ([choice(1) | {"realtime": -1}], "row id 1: field 'realtime' must be a positive number"),
    ([choice(1) | {"realtime": float("nan")}], "row id 1: field 'realtime' must be a positive number"),
    ([choice(1) | {"options": ["a"]}], "row id 1: field 'options' must hold at least 2 strings"),
    ([choice(1) | {"options": ["a", 2]}], "row id 1: field 'options' must hold at least 2 strings"),
    ([choice(1) | {"gt": 3}], "row id 1: field 'gt' must be 0 to 2, got 3"),
    ([choice(1) | {"question": None}], "row id 1: field 'question' must be str, got None"),
    ([rec() | {"test_info": []}], "row id 20: field 'test_info' is empty"),
    ([rec() | {"test_info": [3]}], "row id 20: test_info[0]: must be an object"),
    ([rec() | {"test_info": [{"realtime": 1}]}], "row id 20: test_info[0]: field 'count' is missing"),
    ([rec() | {"test_info": [{"realtime": 1, "count": -1}]}], "field 'count' must be 0 or more, got -1"),
    ([crr() | {"test_info": [{"realtime": 1, "type": 2}]}], "field 'type' must be 0 or 1, got 2"),
    ([ssr() | {"test_info": [{"realtime": 1, "type": 1}]}], "test_info[0]: field 'step' is missing"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN, ids=[message[:40] for _, message in BROKEN])
def test_malformed_annotations_name_row_and_field(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, content)
    text = str(caught.value)
    assert message in text and str(tmp_path / "ovo.json") in text and "\n" not in text


@pytest.mark.parametrize("field", ["task", "video", "realtime", "question", "options", "gt"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    row = {key: value for key, value in choice(9).items() if key != field}
    with pytest.raises(DataError, match=f"row id 9: field '{field}' is missing"):
        load(tmp_path, [row])


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        ovobench.load_annotations(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00[")
    with pytest.raises(DataError, match="not UTF-8"):
        ovobench.load_annotations(tmp_path / "bytes.json")
