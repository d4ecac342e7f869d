"""Rows of a part, and what is said when the part is not there: its name, the command, archives and size."""

import json
import shutil
from pathlib import Path

import pytest

from stc_lmms.benchmarks.registry import BENCHMARKS, find
from stc_lmms.cli.main import main
from stc_lmms.errors import DataError
from stc_lmms.resources import tasks_root

MINI = tasks_root() / "mini_data"
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
# (benchmark, part that is evaluated, options of the command, archives, size)
PART_FACTS = [
    *(
        ("ovobench", mode, "", "'src_videos.tar.parta[a-e]'", "about 44 GB")
        for mode in BENCHMARKS["ovobench"].parts
    ),
    ("streamingbench", "real", "", "'Real-Time Visual Understanding_*.zip'", "roughly 90 GB"),
    (
        "streamingbench",
        "omni",
        " --parts omni",
        "'Emotion Recognition.zip', 'Scene Understanding_*.zip'",
        "roughly 55 GB",
    ),
    ("streamingbench", "contextual", " --parts omni", "'Anomaly Context Understanding.zip'", "roughly 55 GB"),
    ("streamingbench", "sqa", " --parts sqa", "'Sequential Question Answering_*.zip'", "about 13 GB"),
    ("streamingbench", "proactive", " --parts proactive", "'Proactive Output_*.zip'", "about 9 GB"),
]
facts = pytest.mark.parametrize(("benchmark", "part", "options", "archives", "size"), PART_FACTS)


def error_of(benchmark: str, part: str) -> str:
    with pytest.raises(DataError) as caught:
        find(benchmark).load_rows(part)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of both benchmarks, with the questions of the mini data and none of its videos."""
    for benchmark in BENCHMARKS.values():
        monkeypatch.setenv(benchmark.source.variable, str(tmp_path))
    for path in MINI.glob("questions_*.json"):
        shutil.copy(path, tmp_path)
    shutil.copy(MINI / "ovo_bench_mini.json", tmp_path / "ovo_bench_new.json")
    return tmp_path


@facts
def test_no_root(benchmark: str, part: str, options: str, archives: str, size: str) -> None:
    message = error_of(benchmark, part)
    assert f"run `stc-lmms data fetch {benchmark}{options} --to DIR` ({size})" in message
    assert archives in message and find(benchmark).source.hub_id in message


@facts
def test_no_questions(root: Path, benchmark: str, part: str, options: str, archives: str, size: str) -> None:
    for path in root.iterdir():
        path.unlink()
    message = error_of(benchmark, part)
    assert f"run `stc-lmms data fetch {benchmark}{options} --to {root}` ({size})" in message
    with pytest.raises(DataError) as caught:
        find(benchmark).needed_videos([part])
    assert str(caught.value) == message


@facts
def test_no_videos(root: Path, benchmark: str, part: str, options: str, archives: str, size: str) -> None:
    message = error_of(benchmark, part)
    assert f"videos of part {part!r} of {benchmark} is in {root}" in message
    assert f"run `stc-lmms data fetch {benchmark}{options} --to {root}` ({size})" in message
    assert archives in message


def test_one_missing_video_is_a_failure_of_its_own_row(root: Path) -> None:
    (root / "videos").mkdir()
    names = {Path(row["path"]).name for row in find("streamingbench").load_rows("real", "mini")}
    assert len(names) > 1
    shutil.copy(MINI / "videos" / sorted(names)[0], root / "videos")
    rows = find("streamingbench").load_rows("real")
    assert sum(Path(row["path"]).is_file() for row in rows) == 1 and len(rows) == len(names)


def test_questions_of_the_hub_stand_in(root: Path) -> None:
    (root / "questions_real.json").unlink()
    (root / "StreamingBench").mkdir()
    options = "['A. a', 'B. b', 'C. c', 'D. d']"
    line = f'Real-Time Visual Understanding_sample_6_1,Counting,What?,00:00:10,A,"{options}"'
    head = "question_id,task_type,question,time_stamp,answer,options"
    (root / "StreamingBench/Real_Time_Visual_Understanding.csv").write_text(f"{head}\n{line}\n")
    (root / "videos").mkdir()
    shutil.copy(MINI / "videos/sample_6_real.mp4", root / "videos")
    (row,) = find("streamingbench").load_rows("real")
    assert row["path"] == str(root / "videos/sample_6_real.mp4")


def test_sizes_in_the_readme_are_those_of_the_sources() -> None:
    for source in (benchmark.source for benchmark in BENCHMARKS.values() if benchmark.source.fetchable):
        (line,) = (line for line in README.splitlines() if f"`{source.variable}`" in line)
        for name, part in source.portions.items():
            assert part.size in line or name == "chunked"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("verify streamingbench_mini --parts omin", "unknown part 'omin'; did you mean 'omni'? (valid: "),
        ("verify streamingbench --parts omin", "unknown part 'omin'; did you mean 'omni'? (valid: "),
        ("verify ovobench --parts src", "unknown part 'src' (valid: backward, forward, realtime)"),
        ("verify ovobench_mini --parts backward,", "unknown part '' (valid: "),
        (
            "fetch ovobench --to {} --parts srcs",
            "unknown part of ovobench 'srcs'; did you mean 'src'? (valid: chunked, src)",
        ),
        (
            "verify ovobench",
            "STC_OVOBENCH_ROOT is not set: for part 'src' of ovobench run `stc-lmms data fetch",
        ),
    ],
)
def test_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], args: str, message: str
) -> None:
    assert main(["data", *args.format(tmp_path / "new").split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"stc-lmms: error: {message}")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("benchmark", "count"), [("ovobench_mini", 72), ("streamingbench_mini --parts sqa", 8)]
)
def test_the_shipped_videos_are_good(benchmark: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", *benchmark.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["videos"], found["good"], found["cut"]) == (count, count, 0)
