import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stc_lmms.data.check import verify
from stc_lmms.errors import VideoError
from stc_lmms.video import probe as real_probe
from tests import media


@dataclass(frozen=True)
class Info:
    duration_s: float | None
    cut_short: str = ""


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
    report = verify("ovobench", root, rows, probe)
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
    report = verify("x", root, [(["good.mp4"], 101.0), (["edge.mp4"], 10.0)], probe)
    assert report.ok
    assert report.text() == f"x: 2 of 2 videos are good ({root})"


def test_nothing_to_check_is_not_ok(root: Path) -> None:
    assert not verify("x", root, [], probe).ok


def test_file_errors_are_reported_and_bugs_are_not_hidden(root: Path) -> None:
    def unreadable(path: Path) -> Info:
        raise PermissionError(13, "Permission denied")

    report = verify("x", root, [(["good.mp4"], 1.0)], unreadable)
    assert report.problems[0].kind == "undecodable"

    def bug(path: Path) -> Info:
        raise TypeError("bug")

    with pytest.raises(TypeError, match="bug"):
        verify("x", root, [(["good.mp4"], 1.0)], bug)


def test_probes_run_in_parallel(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    both = threading.Barrier(2, timeout=300)

    def waits_for_the_other(path: Path) -> Info:
        both.wait()
        return Info(100.0)

    rows = [(["good.mp4"], 1.0), (["edge.mp4"], 1.0)]
    assert verify("x", root, rows, waits_for_the_other).ok


def test_an_unknown_length_is_a_problem_not_a_traceback(root: Path) -> None:
    report = verify("x", root, [(["good.mp4"], 1.0)], lambda _: Info(None))
    assert [(problem.kind, problem.reason) for problem in report.problems] == [
        ("undecodable", "its duration is unknown; convert it again")
    ]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real videos of 10 s and what can become of them."""
    root = tmp_path_factory.mktemp("encoded")
    in_front = {"movflags": "faststart"}

    def encode(name: str, **options: Any) -> Path:
        return media.encode_video(root / name, media.numbered_frames(100), 10, **options)

    good = encode("good.mp4", container_options=in_front)
    encode("live.mkv", container_options={"live": "1"})  # says nothing of its length
    encode("raw.h264")
    encode("long_sound.mkv", audio=14.0)
    media.truncate(good, root / "torn.mp4", 0.6)
    media.cut_after(good, root / "cut.mp4", 61)
    media.truncate(encode("whole.mkv"), root / "cut.mkv", 0.6)
    media.truncate(encode("index_behind.mp4"), root / "no_index.mp4", 0.6)
    media.encode_audio_only(root / "sound.mp4")
    return root


@pytest.mark.parametrize("name", ["good.mp4", "live.mkv", "long_sound.mkv"])
def test_whole_videos_are_good_whatever_their_header_says(encoded: Path, name: str) -> None:
    assert verify("x", encoded, [([name], 10.0)], real_probe).ok
    (problem,) = verify("x", encoded, [([name], 12.0)], real_probe).problems
    assert (problem.kind, problem.reason) == ("short", "lasts 10.0 s but is needed until 12.0 s")


@pytest.mark.parametrize("needed_s", [2.0, 9.5])
@pytest.mark.parametrize("name", ["torn.mp4", "cut.mp4", "cut.mkv"])
def test_a_video_that_was_cut_is_reported_however_little_of_it_is_needed(
    encoded: Path, name: str, needed_s: float
) -> None:
    report = verify("x", encoded, [(["good.mp4"], 1.0), ([name], needed_s)], real_probe)
    delivered_s = real_probe(encoded / name).duration_s
    (problem,) = report.problems
    reason = f"cut short: claims 10.0 s, delivers {delivered_s:.1f} s; needed until {needed_s:.1f} s"
    assert (problem.video, problem.kind, problem.reason) == (name, "cut", reason)
    assert delivered_s < 8 and report.to_dict()["cut"] == 1 and "1 truncated:" in report.text()


def test_files_that_are_no_videos_are_reported_in_one_line_each(encoded: Path) -> None:
    rows = [(["no_index.mp4"], 1.0), (["sound.mp4"], 1.0), (["raw.h264"], 20.0)]
    report = verify("x", encoded, rows, real_probe)
    assert [problem.kind for problem in report.problems] == ["undecodable", "undecodable", "short"]
    assert not any("\n" in problem.reason for problem in report.problems)
