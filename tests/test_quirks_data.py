"""The hand-made benchmark of the tests: schemas, videos, times, agreement with the script behind it."""

import importlib
import itertools
import json
import math
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests/quirks_data"
CHOICE = ["EPM", "HLD", "ASI", "STU", "OJR", "ATR", "FPD", "ACR", "OCR"]
NUMBER = (int, float)
OVO_FIELDS = {
    "choice": {"realtime": NUMBER, "question": str, "answer": str, "options": list, "gt": int},
    "CRR": {"question": str, "answer": str, "ask_time": int, "clue_time": int, "test_info": list},
    "SSR": {"tutorial": str, "all_steps": list, "start_time": list, "end_time": list, "test_info": list},
    "REC": {"activity": str, "start_times": list, "end_times": list, "test_info": list},
}
ROUND_FIELDS = {
    "CRR": {"realtime": int, "type": int},
    "SSR": {"realtime": int, "step": str, "type": int},
    "REC": {"realtime": NUMBER, "count": int},
}
ENTRY = {"time": str, "questions": list, "video_categories": str, "video_path": str}
QUESTION = {"task_type": str, "question": str, "time_stamp": str, "required_ability": str}
TRUTH = {
    "choice": {"answer": str, "options": list},
    "proactive": {"ground_truth_time_stamp": str, "ground_truth_output": str},
}
REAL_TYPES = {
    *("Object Recognition", "Action Recognition", "Text-Rich Understanding", "Clips Summarize"),
    *("Attribute Recognition", "Spatial Understanding", "Counting", "Event Understanding"),
    *("Causal Reasoning", "Prospective Reasoning"),
}


@pytest.fixture(scope="module")
def mini():
    """The script that asks, as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DATA))
        yield importlib.import_module("render")
        for name in ("render", "scenes"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def seconds(mini):
    """Video path relative to the data folder -> length in seconds."""
    return {f"videos/{scene.name}.mp4": scene.seconds for scene in mini.SCENES.values()}


@pytest.fixture(scope="module")
def ovo():
    return json.loads((DATA / "ovo_bench_mini.json").read_text())


@pytest.fixture(scope="module")
def streaming():
    """Part -> flat list of (entry, question)."""
    parts = {}
    for part in ("real", "omni", "sqa", "proactive"):
        entries = json.loads((DATA / f"questions_{part}.json").read_text())
        entries = list(itertools.chain(*entries)) if part == "sqa" else entries
        parts[part] = [(entry, question) for entry in entries for question in entry["questions"]]
    return parts


def check_fields(row, fields):
    assert set(row) == set(fields)
    for name, kind in fields.items():
        assert isinstance(row[name], kind), (name, row)
        assert not isinstance(row[name], bool)


def to_seconds(stamp):
    return sum(int(field) * 60**power for power, field in enumerate(reversed(stamp.split(":"))))


def test_ovo_rows_follow_the_schema(ovo):
    head = {"id": int, "task": str, "video": str}
    for row in ovo:
        check_fields(row, head | OVO_FIELDS["choice" if row["task"] in CHOICE else row["task"]])
        for entry in row.get("test_info", []):
            check_fields(entry, ROUND_FIELDS[row["task"]])
            assert entry.get("type", 0) in (0, 1)
    assert [row["id"] for row in ovo] == list(range(len(ovo)))
    tasks = Counter(row["task"] for row in ovo)
    assert set(tasks) == {*CHOICE, *ROUND_FIELDS} and min(tasks.values()) >= 2
    assert len(ovo) - 6 + sum(len(row.get("test_info", [])) for row in ovo) >= 60
    assert Counter(
        len({row["task"] for row in ovo if row["video"] == v}) > 1 for v in {r["video"] for r in ovo}
    )[True]


def test_ovo_options_and_gold(ovo):
    choice = [row for row in ovo if row["task"] in CHOICE]
    for row in choice:
        assert 0 <= row["gt"] < len(row["options"])
        assert len(set(row["options"])) == len(row["options"]) >= 2
        assert row["options"][row["gt"]] in row["answer"]
        if row["task"] == "HLD":
            assert row["answer"] == "Unable to answer"
    share = Counter(row["gt"] for row in choice)
    assert set(share) == {0, 1, 2, 3} and max(share.values()) <= 0.35 * len(choice)
    assert {len(row["options"]) for row in choice} == {2, 3, 4, 5}
    assert {0, 1} == {e["type"] for row in ovo if row["task"] in ("CRR", "SSR") for e in row["test_info"]}
    assert max(e["count"] for row in ovo if row["task"] == "REC" for e in row["test_info"]) >= 3


def test_ovo_forward_rows_are_consistent(ovo):
    unordered = 0
    for row in ovo:
        times = [entry["realtime"] for entry in row.get("test_info", [])]
        unordered += times != sorted(times)
        for entry in row.get("test_info", []):
            t = entry["realtime"]
            if row["task"] == "CRR":
                assert entry["type"] == (t > row["clue_time"]) and t >= row["ask_time"]
            elif row["task"] == "SSR":
                step = row["all_steps"].index(entry["step"])
                assert entry["type"] == (row["start_time"][step] < t <= row["end_time"][step])
            else:
                assert entry["count"] == sum(end <= t for end in row["end_times"])
    assert unordered, "the originals have rounds out of time order"


def test_ovo_times_lie_inside_the_video(ovo, seconds):
    times = [(row["video"], q["realtime"]) for row in ovo for q in row.get("test_info", [row])]
    assert all(0 < t <= seconds[video] and math.ceil(t) <= seconds[video] for video, t in times)
    assert any(isinstance(t, float) for _, t in times)


def test_streaming_entries_follow_the_schema(streaming, seconds):
    for part, items in streaming.items():
        for entry, question in items:
            check_fields(entry, ENTRY)
            check_fields(question, QUESTION | TRUTH["proactive" if part == "proactive" else "choice"])
            length = seconds[entry["video_path"].removeprefix("./")]
            start, end = map(to_seconds, entry["time"].strip("[]").split(" - "))
            assert 0 <= start < end <= length
            assert 0 < to_seconds(question["time_stamp"]) <= length
            if part == "proactive":
                truth = to_seconds(question["ground_truth_time_stamp"])
                assert to_seconds(question["time_stamp"]) < truth <= length
                assert question["ground_truth_output"] in question["question"]
    assert {q["task_type"] for _, q in streaming["real"]} == REAL_TYPES
    assert min(Counter(q["task_type"] for _, q in streaming["real"]).values()) >= 2
    assert any("Context" in q["task_type"] for _, q in streaming["omni"])
    assert len({entry["video_path"] for entry, _ in streaming["sqa"]}) == 1


def test_streaming_options_and_gold(streaming):
    bare = 0
    for part in ("real", "omni", "sqa"):
        for _, question in streaming[part]:
            letters = [option[:3] for option in question["options"]]
            bare += letters != ["A. ", "B. ", "C. ", "D. "]
            assert letters == ["A. ", "B. ", "C. ", "D. "] or part == "sqa"
            texts = [
                option.removeprefix(f"{x}. ") for x, option in zip("ABCD", question["options"], strict=True)
            ]
            assert len(set(texts)) == 4 and question["answer"] in "ABCD"
    assert bare == 1, "one question of the sqa part has options without letters, as in the original"
    share = Counter(question["answer"] for _, question in streaming["real"])
    assert set(share) == set("ABCD") and max(share.values()) <= 0.35 * sum(share.values())


def test_videos_decode_to_the_expected_length(mini, seconds, ovo, streaming):
    decord = pytest.importorskip("decord")
    used = {row["video"] for row in ovo} | {
        e["video_path"][2:] for items in streaming.values() for e, _ in items
    }
    assert used == set(seconds) == {f"videos/{path.name}" for path in (DATA / "videos").iterdir()}
    shapes = Counter()
    for scene in mini.SCENES.values():
        reader = decord.VideoReader(str(DATA / "videos" / f"{scene.name}.mp4"), num_threads=1)
        assert len(reader) == math.ceil(scene.seconds * scene.fps)
        assert math.isclose(reader.get_avg_fps(), scene.fps, rel_tol=1e-4)
        assert 24 <= len(reader) / reader.get_avg_fps() <= 40.1
        grid = reader.get_batch(range(0, len(reader), round(2 * scene.fps))).asnumpy()
        assert grid.shape[2:0:-1] == tuple(scene.size)
        assert (grid[1:] != grid[:-1]).any(axis=(1, 2, 3)).all(), "a still camera must not repeat a frame"
        shapes[scene.size[0] - scene.size[1] > 0, scene.size[1] - scene.size[0] > 0] += 1
    assert len(shapes) == 3 and any(s.fps == Fraction(30000, 1001) for s in mini.SCENES.values())


def test_folder_is_small():
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) <= 1_500_000


def test_annotations_are_what_the_script_writes(mini):
    built = mini.annotations()
    assert built == mini.annotations()
    assert {path.name for path in DATA.glob("*.json")} == {*built, "storyboard.json"}
    for name, text in built.items():
        assert text == (DATA / name).read_text(), f"{name} is stale: run tests/quirks_data/render.py"


def test_frames_are_deterministic_and_are_those_of_the_shipped_video(mini):
    decord = pytest.importorskip("decord")
    scene = mini.SCENES[8]
    draw = sys.modules["scenes"].frames
    first, again = (np.stack(list(draw(scene))) for _ in range(2))
    assert np.array_equal(first, again)
    shipped = decord.VideoReader(str(DATA / "videos" / f"{scene.name}.mp4"), num_threads=1)
    picked = range(0, len(shipped), 4)
    error = shipped.get_batch(picked).asnumpy().astype(int) - first[picked]
    assert np.abs(error).mean(axis=(1, 2, 3)).max() < 4


def test_a_question_that_frames_cannot_answer_is_refused(mini):
    scene = mini.SCENES[1]  # the sign changes at 7 s
    assert mini.ask(0, scene, 6, "number")[1:] and mini.ask(0, scene, 8.5, "number")
    for t in (7.2, 8):
        with pytest.raises(ValueError, match="not decidable"):
            mini.ask(0, scene, t, "number")
    with pytest.raises(ValueError, match="has a circle"):
        mini.ask(0, scene, 20, "no color", "circle")
