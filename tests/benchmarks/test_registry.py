"""The registry is the only list of benchmarks: a new one appears in every command that takes a name."""

import dataclasses
import json
from pathlib import Path

import pytest

from stc_lmms.benchmarks import ovobench, streamingbench
from stc_lmms.benchmarks.benchmark import Benchmark, PublishedRun
from stc_lmms.benchmarks.fields import read_json
from stc_lmms.benchmarks.registry import BENCHMARKS, find_label
from stc_lmms.cli.main import main
from stc_lmms.data.source import DataSource, Portion
from stc_lmms.errors import DataError
from stc_lmms.eval import lmms_tasks
from stc_lmms.results import published, scores
from tests.media import encode_video, moving_square_frames

PACKAGE = Path(scores.__file__).parents[1]
ALLOWED = {"registry.py": 1, "egoschema.py": None}


def toy_benchmark() -> Benchmark:
    return Benchmark(
        name="toy",
        parts={"only": ("OCR",)},
        headline="micro",
        judge=streamingbench.judge,
        source=DataSource(
            "toy", "STC_TOY_ROOT", "someone/toy", {"only": Portion("toy.json")}, manual="ask me"
        ),
        load_annotations=read_json,
        build_rows=lambda rows, part: [
            {"video": row["video"], "part": part, "questions": ovobench.questions_of(row)} for row in rows
        ],
        video_candidates=lambda video: [video],
        published=PublishedRun("Toy", 1),
    )


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root of the toy benchmark, which is registered."""
    monkeypatch.setitem(BENCHMARKS, "toy", toy_benchmark())
    monkeypatch.setenv("STC_TOY_ROOT", str(tmp_path))
    row = {"id": 1, "task": "OCR", "video": "a.mp4", "realtime": 1, "question": "?", "options": ["x", "y"]}
    (tmp_path / "toy.json").write_text(json.dumps([row | {"gt": 0}]))
    encode_video(tmp_path / "a.mp4", moving_square_frames(20), fps=10)
    return tmp_path


def test_a_new_benchmark_can_be_verified_planned_and_loaded(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "verify", "toy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["good"] == 1
    assert main(["plan", "toy", "--annotations", str(root / "toy.json"), "--model-size", "0.5b"]) == 0
    assert "toy at 0.5 fps" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "toy" in capsys.readouterr().out
    with pytest.raises(SystemExit):  # it has no archives
        main(["data", "fetch", "toy", "--to", str(root)])

    (row,) = lmms_tasks.rows([{"benchmark": "toy", "part": "only"}])
    assert row["path"] == str(root / "a.mp4") and row["benchmark"] == "toy"


def test_names_in_results() -> None:
    assert scores.task_name("ovobench_mini") == "ovobench_stream_mini"
    assert scores.task_name("streamingbench", ["real"]) == "streamingbench (real)"
    assert scores.task_name("gone_tiny", ["a", "b"]) == "gone_tiny (a, b)"
    with pytest.raises(DataError, match="unknown benchmark 'ovobench_minor'; did you mean 'ovobench_mini'"):
        find_label("ovobench_minor")


def test_published_numbers_belong_to_a_benchmark() -> None:
    titles = [found.published.title for found in BENCHMARKS.values() if found.published]
    assert len(set(titles)) == len(titles)
    assert {row.benchmark for row in published.PUBLISHED} <= set(titles)


def test_every_benchmark_is_consistent() -> None:
    for name, found in BENCHMARKS.items():
        assert found.name == found.source.name == name
        assert {found.portions.get(part, part) for part in found.parts} <= set(found.source.portions)
        assert all(set(parts) <= set(found.parts) for parts in found.sizes.values())
        with pytest.raises(DataError, match=f"unknown size of {name} 'huge'"):
            found.load_rows(next(iter(found.parts)), "huge")
    assert dataclasses.replace(BENCHMARKS["mlvu"], headline="macro").other_average == "micro"


def test_no_other_file_lists_benchmarks() -> None:
    for path in PACKAGE.rglob("*.py"):
        count = path.read_text(encoding="utf-8").count("egoschema")
        expected = ALLOWED.get(path.name, 0) if path.parent.name == "benchmarks" else 0
        assert expected is None or count == expected, path
