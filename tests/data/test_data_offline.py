"""The offline sets on disk: roots, question files, the hub's rows, and where videos are found."""

import json
from pathlib import Path
from typing import Any

import pytest

from stc_lmms.benchmarks.registry import BENCHMARKS, find
from stc_lmms.cli.main import main
from stc_lmms.errors import DataError
from tests.media import encode_video, moving_square_frames

ENTRY = {
    "video_id": "a",
    "video_path": "data/mlvu/videos/2_needle/a.mp4",
    "conversations": [{"question": "What?", "choices": ["x", "y"], "answer": "y"}],
}
HUB_ROWS: dict[str, dict[str, Any]] = {
    "mlvu": {
        "video_name": "a.mp4",
        "question": "What?\n(A) x\n(B) y",
        "candidates": ["x", "y"],
        "answer": "B",
        "task_type": "ego",
    },
    "egoschema": {
        "video_idx": "a",
        "question": "Why?",
        "option": [f"{x}. z" for x in "ABCDE"],
        "answer": "1",
    },
    "videomme": {
        "videoID": "a",
        "question": "Who?",
        "options": ["A. x", "B. y"],
        "answer": "B",
        "duration": "short",
    },
}
PLACES = {"mlvu": "a.mp4", "egoschema": "videos/a.MP4", "videomme": "data/a.mkv"}
CONFIGS = {"egoschema": "Subset"}
SOURCES = {name: found.source for name, found in BENCHMARKS.items() if not found.timed}
every_set = pytest.mark.parametrize("benchmark", SOURCES)


def error_of(benchmark: str) -> str:
    with pytest.raises(DataError) as caught:
        find(benchmark).load_rows(*find(benchmark).parts)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of all three sets, empty; the hub cannot be reached, the folder is the current one."""
    for source in SOURCES.values():
        monkeypatch.setenv(source.variable, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def stand_in(root: Path, benchmark: str) -> None:
    """A folder of the dataset's relative path: `load_dataset` takes it before the hub."""
    source = SOURCES[benchmark]
    folder = root / source.hub_id
    folder.mkdir(parents=True)
    name = CONFIGS.get(benchmark, "default")
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {name}\n  data_files:\n  - split: test\n    path: t.jsonl\n---\n"
    )
    (folder / "t.jsonl").write_text(json.dumps(HUB_ROWS[benchmark]) + "\n")


@every_set
def test_no_root_says_what_to_download(benchmark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SOURCES[benchmark]
    message = error_of(benchmark)
    for piece in (f"{source.variable} is not set", source.hub_id, "<video>", f"$HF_HOME/{benchmark}"):
        assert piece in message
    monkeypatch.setenv(source.variable, "/no/such/folder")
    assert f"{source.variable}=/no/such/folder is not a folder" in error_of(benchmark)


@every_set
def test_no_rows_says_which_file_is_wanted(root: Path, benchmark: str) -> None:
    message = error_of(benchmark)
    assert SOURCES[benchmark].hub_id in message
    (portion,) = SOURCES[benchmark].portions.values()
    assert f"put {portion.questions}" in message


@every_set
def test_rows_of_the_hub_and_videos_where_lmms_eval_puts_them(root: Path, benchmark: str) -> None:
    stand_in(root, benchmark)
    message = error_of(benchmark)
    assert "none of the 1 videos" in message and SOURCES[benchmark].hub_id in message
    video = root / PLACES[benchmark]
    video.parent.mkdir(exist_ok=True)
    video.write_bytes(b"")
    (row,) = find(benchmark).load_rows(*find(benchmark).parts)
    assert row["path"] == str(video) and row["benchmark"] == benchmark
    assert row["questions"][0]["answer"] == "B"


def test_the_file_goes_before_the_hub(root: Path) -> None:
    (root / "dev_debug_mc.json").write_text(json.dumps([ENTRY]))
    (root / "videos" / "2_needle").mkdir(parents=True)
    (root / "videos" / "2_needle" / "a.mp4").write_bytes(b"")
    (row,) = find("mlvu").load_rows("dev")
    assert row["path"] == str(root / "videos" / "2_needle" / "a.mp4")
    assert row["questions"][0]["task"] == "needle"


def test_candidates_prefer_the_fuller_path() -> None:
    found = find("mlvu").video_candidates("data/mlvu/videos/2_needle/a.mp4")
    assert found[0] == "data/mlvu/videos/2_needle/a.mp4" and found[-1] == "video/a.mp4"
    assert found.index("videos/2_needle/a.mp4") < found.index("a.mp4")
    assert find("egoschema").video_candidates("a")[0] == "videos/a.mp4"


def test_verify_needs_no_time(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "dev_debug_mc.json").write_text(json.dumps([ENTRY]))
    assert main(["data", "verify", "mlvu", "--json"]) == 1
    capsys.readouterr()
    (root / "videos").mkdir()
    encode_video(root / "videos" / "a.mp4", moving_square_frames(20), fps=10)
    assert main(["data", "verify", "mlvu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["good"] == 1
