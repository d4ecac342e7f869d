import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from stc_lmms.data import verify
from stc_lmms.errors import VideoError


@dataclass(frozen=True)
class Info:
    duration_s: float


def probe(path: Path) -> Info:
    """Reads what the test wrote: a duration, or nothing a number can be made of."""
    text = path.read_text()
    time.sleep(0.01 if "slow" in path.name else 0)
    try:
        return Info(float(text))
    except ValueError:
        raise VideoError(f"{path.name}: moov atom\nnot found") from None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {
        "good.mp4": "100.0",
        "slow_good.mp4": "100.0",
        "edge.mp4": "9.0",
        "short.mp4": "8.9",
        "broken.mp4": "?",
        "zero.mp4": "0",
        "nan.mp4": "nan",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_report(root: Path) -> None:
    rows = [
        (["src_videos/slow_good.mp4", "slow_good.mp4"], 50.0),
        (["gone.mp4", "src_videos/gone.mp4"], 1.0),
        (["short.mp4"], 3.0),
        (["broken.mp4"], 10.0),
        (["edge.mp4"], 10.0),
        (["../outside.mp4"], 1.0),
        (["short.mp4"], 10.0),  # the same video again, asked later
        (["short.mp4"], 2.0),
        (["zero.mp4"], 0.5),
        (["nan.mp4"], 1.0),
        (["good.mp4"], 100.5),
    ]
    report = verify("ovobench", root, rows, probe, progress=False)
    assert not report.ok
    assert report.videos == 9
    found = [(problem.video, problem.kind) for problem in report.problems]
    assert found == [
        ("gone.mp4", "missing"),
        ("short.mp4", "short"),
        ("broken.mp4", "undecodable"),
        ("../outside.mp4", "missing"),
        ("zero.mp4", "undecodable"),
        ("nan.mp4", "undecodable"),
    ]
    reasons = {problem.video: problem.reason for problem in report.problems}
    assert "src_videos/gone.mp4" in reasons["gone.mp4"]
    assert reasons["broken.mp4"] == "broken.mp4: moov atom not found"
    assert "8.9 s" in reasons["short.mp4"] and "10.0 s" in reasons["short.mp4"]
    assert "unsafe path" in reasons["../outside.mp4"]

    data = json.loads(json.dumps(report.to_dict()))
    assert (data["ok"], data["videos"], data["good"]) == (False, 9, 3)
    assert (data["missing"], data["undecodable"], data["short"]) == (2, 3, 1)
    assert data["problems"][0] == {"video": "gone.mp4", "kind": "missing", "reason": reasons["gone.mp4"]}

    text = report.text()
    assert text.splitlines()[0] == f"ovobench: 3 of 9 videos are good ({root})"
    assert "2 missing:" in text and "broken.mp4: moov atom not found" in text
    assert "... and 2 more" in report.text(listed=1)


def test_all_good(root: Path) -> None:
    report = verify("x", root, [(["good.mp4"], 101.0), (["edge.mp4"], 10.0)], probe, progress=False)
    assert report.ok
    assert report.text() == f"x: 2 of 2 videos are good ({root})"


def test_nothing_to_check_is_not_ok(root: Path) -> None:
    assert not verify("x", root, [], probe, progress=False).ok


def test_file_errors_are_reported_and_bugs_are_not_hidden(root: Path) -> None:
    def unreadable(path: Path) -> Info:
        raise PermissionError(13, "Permission denied")

    report = verify("x", root, [(["good.mp4"], 1.0)], unreadable, progress=False)
    assert report.problems[0].kind == "undecodable"

    def bug(path: Path) -> Info:
        raise TypeError("bug")

    with pytest.raises(TypeError, match="bug"):
        verify("x", root, [(["good.mp4"], 1.0)], bug, progress=False)


def test_probes_run_in_parallel(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    both = threading.Barrier(2, timeout=5)

    def waits_for_the_other(path: Path) -> Info:
        both.wait()
        return Info(100.0)

    rows = [(["good.mp4"], 1.0), (["edge.mp4"], 1.0)]
    assert verify("x", root, rows, waits_for_the_other, progress=False).ok
