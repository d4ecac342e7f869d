"""StreamingBench on synthetic entries in the schema of the repository JSON and of the Hugging Face CSV."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from stc_lmms.benchmarks import streamingbench as sb
from stc_lmms.benchmarks.base import next_round, rounds
from stc_lmms.benchmarks.streamingbench_data import parse_csv, parse_json, parse_time
from stc_lmms.errors import DataError

OPTIONS = ["A. It's {red}.", "B. Blue.", "C. Green.", "D. None."]


def item(stamp: str = "00:01:30", text: str = "What?", answer: str = "A", **fields: Any) -> dict[str, Any]:
    base = {"task_type": "Counting", "question": text, "time_stamp": stamp, "answer": answer}
    return base | {"options": OPTIONS} | fields


def clip(*questions: dict[str, Any], video: str = "sample_7_real.mp4") -> dict[str, Any]:
    return {"time": "[0:00:00 - 0:00:05]", "questions": list(questions), "video_path": f"./videos/{video}"}


def proactive_item() -> dict[str, Any]:
    return {
        "task_type": "Proactive Output",
        "question": 'When it rains, output "rain".',
        "time_stamp": "00:00:06",
        "ground_truth_time_stamp": "00:00:13",
        "ground_truth_output": "rain",
    }


def csv_text(rows: list[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def csv_row(name: str = "Real-Time Visual Understanding_sample_7_1", **fields: Any) -> dict[str, Any]:
    base = {"question_id": name} | item(options=repr(OPTIONS))
    return base | {"frames_required": "", "temporal_clue_type": "Prior"} | fields


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:03:10", 190),
        ("0:07:40", 460),
        ("00:24", 24),
        ("00:00:8", 8),
        ("1:00:00", 3600),
        ("00:12450", 12450),
        ("05:11:00", 18660),
        ("17", 17),
        ("00:00:12.9", 12),
    ],
)
def test_parse_time(text: str, seconds: int) -> None:
    assert parse_time(text, "here") == seconds


@pytest.mark.parametrize("text", ["", "1:x", "1::2", "-1:00", "nan", "9" * 400])
def test_parse_time_rejects(text: str) -> None:
    with pytest.raises(DataError, match="here: time stamp"):
        parse_time(text, "here")


def test_choice_prompt_is_byte_exact() -> None:
    assert sb.prompt(parse_json([clip(item())], "x")[0]) == (
        "You are an advanced video question-answering AI assistant. You have been provided with some frames"
        " from the video and a multiple-choice question related to the video. Your task is to carefully"
        " analyze the video and provide the best answer to question, choosing from the four options provided."
        " Respond with only the letter (A, B, C, or D) of the correct option.\n\nQuestion: What?\n\n"
        "Options:\nA. It's {red}.\nB. Blue.\nC. Green.\nD. None.\n\nThe best option is:"
    )


def test_options_get_letters_and_surplus_ones_are_dropped() -> None:
    plain = parse_json([clip(item(options=["w", "x", "y", "z", "extra"]))], "x")[0]
    assert "Options:\nA. w\nB. x\nC. y\nD. z\n\nThe" in sb.prompt(plain)
    five = parse_json([clip(item(options=[*OPTIONS, "E. more"]))], "x")[0]
    assert "D. None.\n\nThe" in sb.prompt(five)


def test_sqa_prompt_quotes_the_history_with_gold_answers() -> None:
    video = "sample_3_sqa.mp4"
    data = [
        [
            clip(item("00:00:16", "Who?", "B", options=["p", "q", "r", "s"]), video=video),
            clip(item("0:01:00", "Why?", "C"), video=video),
        ],
        [clip(item("00:00:09", "Else?"), video="sample_4_sqa.mp4")],
    ]
    rows = {row["video"]: row["questions"] for row in sb.build_rows(parse_json(data, "x"), "sqa")}
    head = (
        "You are an advanced video question-answering AI assistant. You have been provided with a video and a"
        " multiple-choice question related to the video. Your task is to carefully analyze the video and the"
        " provided context to answer the question, choosing from the four options provided. Respond with only"
        " the letter (A, B, C, or D) of the correct option.\n\n"
    )
    middle = "\n\nHere is the question. Answer it and don't confuse it with the previous conversation.\n"
    assert rows[video][0]["prompt"] == (
        head + middle + "Question: Who?\n\nOptions:\nA. p\nB. q\nC. r\nD. s\n\nThe best option is:"
    )
    assert rows[video][1]["prompt"] == (
        head
        + "Here are the contextual information related to the video. Please answer the questions based on"
        " the contextual information: At timestamp 00:00:16, the following question and answer occurred:"
        " Question: Who?; Options: A. p, B. q, C. r, D. s; Answer: B; " + middle + "Question: Why?\n\n"
        "Options:\nA. It's {red}.\nB. Blue.\nC. Green.\nD. None.\n\nThe best option is:"
    )
    assert "timestamp" not in rows["sample_4_sqa.mp4"][0]["prompt"]


def test_sqa_history_keeps_the_file_order_when_times_do_not() -> None:
    video = "sample_3_sqa.mp4"
    data = [[clip(item("00:02:00", "late"), video=video), clip(item("00:01:00", "early"), video=video)]]
    questions = sb.build_rows(parse_json(data, "x"), "sqa")[0]["questions"]
    assert [q["qid"] for q in questions] == ["sqa:3:1", "sqa:3:2"]
    assert "Question: late; " in questions[0]["prompt"] and "timestamp" not in questions[1]["prompt"]


def test_proactive_prompts_are_byte_exact_and_polling_starts_at_the_question() -> None:
    data = [clip(proactive_item(), video="sample_25_proactive.mp4")]
    row = sb.build_rows(parse_json(data, "x"), "proactive", context_s=60)[0]
    head = (
        "You are an advanced image question-answering AI assistant. You have been provided with images and a"
        " question related to the images. Your task is to carefully analyze the images and provide the answer"
        " to the question. You need to carefully confirm whether the images content meet the conditions of"
        ' the question, and then output the correct content.\n\nQuestion: When it rains, output "rain".'
    )
    question = row["questions"][0]
    poll = ' Is it the right time to output "rain"? You can only answer yes or no.\n\nThe answer is:\n'
    assert question["prompt"] == head + poll
    assert question["follow_up"] == head + "\n\nThe answer is:\n"
    asked = list(rounds(row))
    assert [(a.start_s, a.end_s) for a in asked] == [(6.0, float(t)) for t in range(7, 18)]


@pytest.mark.parametrize(("context_s", "starts"), [(-1, [0.0, 0.0]), (0, [0.0, 0.0]), (60, [0.0, 30.0])])
def test_context_moves_the_start_of_the_clip(context_s: int, starts: list[float]) -> None:
    entries = parse_json([clip(item("00:01:30"), item("00:00:16"))], "x")
    questions = sb.build_rows(entries, "real", context_s)[0]["questions"]
    assert [q["end_s"] for q in questions] == [16.0, 90.0]
    assert [q["start_s"] for q in questions] == starts


def test_parts_tasks_and_qids() -> None:
    names = {
        "sample_12_Emotion_Recognition.mp4": "omni",
        "sample_12_Scene_Understanding_1-25.mp4": "omni",
        "sample_12_Misleading_Context_Understanding.mp4": "contextual",
        "sample_12_Anomaly_Context_Understanding.mp4": "contextual",
    }
    entries = parse_json([clip(item(), item("00:00:01"), video=name) for name in names], "x")
    assert {entry.video: entry.part for entry in entries} == names
    rows = sb.build_rows(entries, "omni")
    assert sorted(q["qid"] for row in rows for q in row["questions"]) == [
        "omni:12_Emotion_Recognition:1",
        "omni:12_Emotion_Recognition:2",
        "omni:12_Scene_Understanding_1-25:1",
        "omni:12_Scene_Understanding_1-25:2",
    ]
    assert {q["task"] for row in rows for q in row["questions"]} == {
        "Emotion Recognition",
        "Scene Understanding",
    }


def test_questions_of_a_video_are_pooled_sorted_and_numbered_by_time() -> None:
    data = [clip(item("00:00:50")), clip(item("00:00:10"), video="sample_8_real.mp4"), clip(item("00:00:20"))]
    rows = sb.build_rows(parse_json(data, "x"), "real")
    assert [(row["video"], [(q["qid"], q["end_s"]) for q in row["questions"]]) for row in rows] == [
        ("sample_7_real.mp4", [("real:7:1", 20.0), ("real:7:2", 50.0)]),
        ("sample_8_real.mp4", [("real:8:1", 10.0)]),
    ]


def test_csv_and_json_give_the_same_rows() -> None:
    data = [clip(item("00:00:50", 'one, "two"\'s?', "C")), clip(item("0:00:20", "three"))]
    text = csv_text(
        [
            csv_row("Real-Time Visual Understanding_sample_7_2", time_stamp="00:00:50", answer="C")
            | {"question": 'one, "two"\'s?'},
            csv_row("Real-Time Visual Understanding_sample_7_1", time_stamp="0:00:20", question="three"),
        ]
    )
    assert sb.build_rows(parse_csv(text, "x"), "real") == sb.build_rows(parse_json(data, "x"), "real")


@pytest.mark.parametrize(
    ("label", "task"),
    [
        ("Object Perception", "Object Recognition"),
        ("Attribute Perception", "Attribute Recognition"),
        ("Action Perception", "Action Recognition"),
        ("Action Recognition", "Action Recognition"),
        ("text-rich understanding", "Text-Rich Understanding"),
        ("Something New", "Something New"),
    ],
)
def test_task_names_are_normalised(label: str, task: str) -> None:
    assert parse_csv(csv_text([csv_row(task_type=label)]), "x")[0].task == task


@pytest.mark.parametrize(
    ("name", "label", "video", "part"),
    [
        (
            "Misleading Context Recognition_sample_4_2",
            "",
            "sample_4_Misleading_Context_Understanding.mp4",
            "contextual",
        ),
        ("Scene Understanding_sample_25_2", "", "sample_25_Scene_Understanding_1-25.mp4", "omni"),
        ("Scene Understanding_sample_26_2", "", "sample_26_Scene_Understanding_26-50.mp4", "omni"),
        ("Omni_sample_3_2", "Source Discrimination", "sample_3_Source_Discrimination.mp4", "omni"),
        ("Sequential_Question_Answering_sample_3_2", "", "sample_3_sqa.mp4", "sqa"),
    ],
)
def test_csv_question_ids_name_the_video(name: str, label: str, video: str, part: str) -> None:
    entry = parse_csv(csv_text([csv_row(name, task_type=label)]), "x")[0]
    assert (entry.video, entry.part, entry.index) == (video, part, 2)


def test_proactive_csv() -> None:
    row = {"question_id": "Proactive Output_42_3"} | proactive_item()
    entry = parse_csv(csv_text([row]), "x")[0]
    assert (entry.video, entry.qid, entry.answer, entry.time_s, entry.gold_s) == (
        "sample_42_proactive.mp4",
        "proactive:42:3",
        "rain",
        6,
        13.0,
    )


def test_csv_history_follows_the_question_numbers() -> None:
    lines = [csv_row(f"Sequential Question Answering_sample_3_{k}", question=f"q{k}") for k in (2, 1)]
    questions = sb.build_rows(parse_csv(csv_text(lines), "x"), "sqa")[0]["questions"]
    assert ["Question: q1; " in q["prompt"] for q in questions] == [False, True]


@pytest.mark.parametrize(
    ("response", "score"),
    [("A", 1), ("A.", 1), ("A\n", 1), (" A", 1), ("Answer: B", 1), ("(A)", 0), ("a", 0), ("B", 0), ("  ", 0)],
)
def test_official_score(response: str, score: int) -> None:
    assert sb.official_score(response, "A") == score  # "Answer: B" by the A of "Answer"


def test_no_response_is_wrong() -> None:
    assert (sb.official_score("", "A"), sb.official_score(None, "A")) == (0, 0)


@pytest.mark.parametrize(
    ("answered_s", "content", "scores"),
    [
        (13, "rain", (1, 1)),
        (15, "It is rain.", (1, 1)),
        (11, "rain", (1, 1)),
        (16, "rain", (0, 0)),
        (10, "rain", (0, 0)),
        (13, "Rain", (1, 0)),
        (13, "", (1, 0)),
    ],
)
def test_proactive_score(answered_s: float, content: str, scores: tuple[int, int]) -> None:
    assert sb.proactive_score(answered_s, 13, content, "rain") == scores


@pytest.mark.parametrize(
    ("yes_at", "content", "official", "strict"),
    [(13, "rain", 1, 1), (14, "snow", 1, 0), (9, "rain", 0, 0), (17, "rain", 0, 0), (None, "", 0, 0)],
)
def test_proactive_records(yes_at: int | None, content: str, official: int, strict: int) -> None:
    row = sb.build_rows(
        parse_json([clip(proactive_item(), video="sample_2_proactive.mp4")], "x"), "proactive"
    )[0]
    responses: list[str] = []
    while (ask := next_round(row, responses)) is not None:
        poll = ask.prompt == row["questions"][0]["prompt"]
        responses.append(("Yes" if ask.end_s == yes_at else "no") if poll else content)
    record = sb.BENCHMARK.score_row(row, responses)[0]
    assert (record["official"], record["strict"], record["missing"]) == (official, strict, False)
    assert record["end_s"] == (yes_at or 17)


def test_missing_is_wrong_and_the_headline_is_micro() -> None:
    entries = parse_json([clip(*(item(f"00:00:0{i}") for i in range(1, 5)))], "x")
    summary = sb.BENCHMARK.summarise(
        sb.BENCHMARK.score_row(sb.build_rows(entries, "real")[0], [" A", "(A)", ""])
    )
    assert summary["micro"] == {"official": 0.25, "strict": 0.5}
    assert (summary["n"], summary["n_missing"], summary["headline"]) == (4, 2, "micro")


BROKEN_JSON: list[tuple[Any, str]] = [
    ("", "is empty"),
    ("nope", "is not JSON"),
    ([], "must be a non-empty list"),
    ([[3]], "entry 0: must be an object, got 3"),
    ([{"questions": []}], "entry 0: field 'video_path' is missing"),
    ([clip(video="movie.mp4")], "entry 0: field 'video_path' must end in sample_N_part.mp4"),
    ([clip(video="../../sample_1_real.mp4")], "must be a path below the data root"),
    ([clip() | {"questions": {}}], "entry 0: field 'questions' must be list"),
    ([clip("what")], "question 0: must be an object"),  # type: ignore[arg-type]
    ([clip(item(), item(stamp="soon"))], "time stamp must be like 00:03:10, got 'soon'"),
    ([clip(item(answer="E"))], "field 'answer' must be A, B, C or D, got 'E'"),
    ([clip(item(options=["A. x"]))], "field 'options' must hold at least 4 strings"),
    ([clip(item(options="A. x"))], "field 'options' must be list, got 'A. x'"),
    ([clip(item(task_type=None))], "field 'task_type' must be str, got None"),
    ([clip(item(), video="sample_1_proactive.mp4")], "field 'ground_truth_output' is missing"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN_JSON, ids=[m[:40] for _, m in BROKEN_JSON])
def test_malformed_json_names_entry_and_field(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "questions_real.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        sb.load_annotations(path)
    text = str(caught.value)
    assert message in text and str(path) in text and "\n" not in text


BROKEN_CSV: list[tuple[str, str]] = [
    ("", "must have a header"),
    ("a,b\n1,2\n", "must have a header"),
    ("question_id,task_type\n", "holds no questions"),
    (csv_text([csv_row(options="['A. x', ")]), "line 2 (Real-Time"),
    (csv_text([csv_row(options="__import__('os')")]), "field 'options' must be a list literal"),
    (csv_text([csv_row(options="{'a': 1}")]), "field 'options' must be a list literal"),
    (csv_text([csv_row(options="['a', 'b', 'c', 4]")]), "field 'options' must hold at least 4 strings"),
    (csv_text([csv_row("sample seven")]), "field 'question_id' must be like Name_sample_N_K"),
    (csv_text([csv_row("Nothing_sample_1_1", task_type="Unknown")]), "field 'question_id' must be like"),
    (csv_text([csv_row(), csv_row()]), "occurs twice"),
    (csv_text([csv_row(time_stamp="")]), "time stamp must be like"),
    ("question_id,task_type\nReal-Time Visual Understanding_sample_1_1,Counting\n", "'options' is missing"),
    ("question_id,task_type\n" + '"' + "x" * 200_000, "is not CSV"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN_CSV, ids=[m[:40] for _, m in BROKEN_CSV])
def test_malformed_csv_names_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "Real_Time_Visual_Understanding.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        sb.load_annotations(path)
    error = str(caught.value)
    assert message in error and str(path) in error and "\n" not in error
