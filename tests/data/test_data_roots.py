import subprocess
import sys
from pathlib import Path

import pytest

from stc_lmms.benchmarks.registry import BENCHMARKS, find
from stc_lmms.data import roots
from stc_lmms.data.roots import data_root, mini_root, question_file, safe_join, video_path
from stc_lmms.errors import DataError

OVO, SB = find("ovobench").source, find("streamingbench").source


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_root_from_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ovo").mkdir()
    (tmp_path / "sb").mkdir()
    monkeypatch.setenv("STC_OVOBENCH_ROOT", "~/ovo")
    monkeypatch.setenv("STC_STREAMINGBENCH_ROOT", str(tmp_path / "sb"))
    assert data_root(OVO) == tmp_path / "ovo"
    assert data_root(SB) == tmp_path / "sb"


def test_missing_root_says_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as error:
        data_root(OVO)
    for piece in (
        "STC_OVOBENCH_ROOT is not set",
        "JoeLeelyf/OVO-Bench",
        "src_videos.tar.parta[a-e]",
        "44 GB",
        "ovo_bench_new.json",
        "CC BY-NC-SA 4.0",
        "src_videos/<video>",
        "stc-lmms data fetch ovobench --to DIR",
    ):
        assert piece in one_line(error)

    with pytest.raises(DataError) as error:
        data_root(SB)
    for piece in (
        "STC_STREAMINGBENCH_ROOT is not set: for part 'real' of streamingbench run",
        "`stc-lmms data fetch streamingbench --to DIR` (roughly 90 GB)",
        "'Real-Time Visual Understanding_*.zip' from the hub dataset mjuicem/StreamingBench",
        "DIR/questions_real.json and DIR/videos/sample_<n>_real.mp4 exist",
    ):
        assert piece in one_line(error)

    monkeypatch.setenv("STC_OVOBENCH_ROOT", "/no/such/folder")
    with pytest.raises(DataError, match="STC_OVOBENCH_ROOT=/no/such/folder is not a folder"):
        data_root(OVO)
    with pytest.raises(DataError, match="unknown benchmark 'ovo'; did you mean 'ovobench'"):
        find("ovo")


def test_mini_is_the_shipped_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "tasks_root", lambda: tmp_path)
    with pytest.raises(DataError, match="mini_data is not a folder"):
        mini_root()
    videos = tmp_path / "mini_data" / "videos"
    videos.mkdir(parents=True)
    (videos / "pool.mp4").touch()
    (tmp_path / "mini_data" / "ovo_bench_mini.json").write_text("[]")
    root = mini_root()
    assert question_file(root, "ovo_bench_mini.json", OVO).is_file()
    for benchmark, written in (("ovobench", "pool.mp4"), ("streamingbench", "./videos/pool.mp4")):
        assert video_path(root, find(benchmark).video_candidates(written)) == videos / "pool.mp4"

    (tmp_path / "own").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STC_MINI", "~/own")
    assert mini_root() == tmp_path / "own"


@pytest.mark.parametrize("folder", ["", "data", "src/data", "StreamingBench"])
def test_annotation_file_places(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "questions_real.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[]")
    assert question_file(tmp_path, "questions_real.json", SB) == path


def test_annotation_file_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        question_file(tmp_path, "ovo_bench_new.json", OVO)
    assert str(tmp_path) in one_line(error)
    assert "JoeLeelyf/OVO-Bench/main/data/ovo_bench_new.json" in one_line(error)
    with pytest.raises(DataError) as error:
        question_file(tmp_path, "Proactive_Output.csv", SB)
    command = f"`stc-lmms data fetch streamingbench --parts proactive --to {tmp_path}` (about 9 GB)"
    assert f"for part 'proactive' of streamingbench run {command}" in one_line(error)
    assert "StreamingBench/Proactive_Output.csv from the hub dataset mjuicem/StreamingBench" in one_line(
        error
    )
    with pytest.raises(DataError, match=r"StreamingBench/\)$"):
        question_file(tmp_path, "own_questions.json", SB)
    with pytest.raises(DataError, match="not a bare file name"):
        question_file(tmp_path / "x", "../secret.json", SB)


@pytest.mark.parametrize("place", ["src_videos/COIN/x.mp4", "COIN/x.mp4", "data/src_videos/COIN/x.mp4"])
def test_ovobench_video(tmp_path: Path, place: str) -> None:
    candidates = find("ovobench").video_candidates("COIN/x.mp4")
    assert video_path(tmp_path, candidates) is None
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).touch()
    assert video_path(tmp_path, candidates) == tmp_path / place


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("./videos/sample_3_real.mp4", "videos/sample_3_real.mp4"),
        ("./videos/sample_3_real.mp4", "sample_3_real.mp4"),
        ("sample_3_real.mp4", "videos/sample_3_real.mp4"),
        ("./videos/sample_51_real.mp4", "Real-Time Visual Understanding_51-100/sample_51/video.mp4"),
        ("./videos/sample_500_real.mp4", "data/real/sample_500/video.mp4"),
        ("./videos/sample_26_sqa.mp4", "Sequential Question Answering_26-50/sample_26/video.mp4"),
        ("./videos/sample_1_proactive.mp4", "proactive/sample_1/video.mp4"),
        (
            "./videos/sample_41_Scene_Understanding_26-50.mp4",
            "data/omni/Scene Understanding_26-50/sample_41/video.mp4",
        ),
        ("./videos/sample_4_Emotion_Recognition.mp4", "Emotion Recognition/sample_4/video.mp4"),
    ],
)
def test_streamingbench_video(tmp_path: Path, written: str, place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).touch()
    assert video_path(tmp_path, find("streamingbench").video_candidates(written)) == tmp_path / place


def test_streamingbench_parts_are_never_mixed_up(tmp_path: Path) -> None:
    (tmp_path / "sample_1").mkdir()
    (tmp_path / "sample_1" / "video.mp4").touch()  # of which part?
    (tmp_path / "real" / "sample_1").mkdir(parents=True)
    (tmp_path / "real" / "sample_1" / "video.mp4").touch()
    assert video_path(tmp_path, find("streamingbench").video_candidates("./videos/sample_1_sqa.mp4")) is None


UNSAFE = ["/etc/passwd", "../x.mp4", "a/../../x.mp4", "", ".", "a\\..\\x.mp4", "C:/x.mp4", "C:x.mp4", "a\0b"]


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_paths_are_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "x.mp4").touch()
    with pytest.raises(DataError, match="unsafe path"):
        safe_join(root, name)
    with pytest.raises(DataError, match="unsafe path"):
        video_path(root, ["good.mp4", name])


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize("video", ["/etc/passwd", "../../etc/passwd", "a/../../../x_real.mp4"])
def test_unsafe_annotations_are_refused(tmp_path: Path, benchmark: str, video: str) -> None:
    with pytest.raises(DataError, match="unsafe path"):
        video_path(tmp_path, find(benchmark).video_candidates(video))


def test_symlinks_may_lead_to_another_disk_but_nothing_is_written_through_them(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "x.mp4").touch()
    (root / "videos").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    assert video_path(root, ["videos/x.mp4"]) == root / "videos" / "x.mp4"
    assert video_path(root, ["loop/x.mp4"]) is None
    for name in ("videos/x.mp4", "loop/x.mp4"):
        with pytest.raises(DataError, match="unsafe path"):
            safe_join(root, name)


def test_import_is_light() -> None:
    code = (
        "import sys, stc_lmms.benchmarks.registry, stc_lmms.data.download, stc_lmms.data.check; "
        "print([m for m in ('torch', 'datasets', 'huggingface_hub', 'numpy', 'tqdm') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
