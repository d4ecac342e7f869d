"""Decoding real small files, whole and broken: the right frames, or exactly one clear error."""

import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stc_lmms.errors import SettingsError, VideoError
from stc_lmms.video import iter_frames, open_video, probe, process
from tests import media

NTSC = Fraction(30000, 1001)
X265 = {"preset": "ultrafast", "x265-params": "log-level=none"}
REASONS = "damaged, incomplete or not a video|no frame could be decoded"


def numbers(path, **options):
    """[(time_s, painted frame number), ...] of a whole read."""
    return [(time_s, media.read_number(image)) for time_s, image in iter_frames(path, **options)]


def expected(n_frames, rate, step):
    return [(pytest.approx(i / rate, abs=1e-5), i) for i in range(0, n_frames, step)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A folder with one 10 s, 10 fps H.264 MP4, index first, as most tests need it."""
    folder = tmp_path_factory.mktemp("clips")
    media.encode_video(
        folder / "ok.mp4", media.numbered_frames(100), 10, container_options={"movflags": "faststart"}
    )
    return folder


@pytest.fixture
def ok(clips) -> Path:
    return clips / "ok.mp4"


# --- files that are fine -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rate", "n_frames", "options", "backend"),
    [
        ("a.mp4", 10, 60, {"audio": True}, "decord"),
        ("ntsc.mp4", NTSC, 200, {}, "decord"),
        ("one.mp4", 30, 1, {}, "decord"),
        ("a.mkv", NTSC, 200, {"audio": True}, "decord"),
        ("start.mkv", 10, 60, {"start_s": 2.5}, "decord"),
        ("start.mp4", 10, 60, {"start_s": 2.5}, "decord"),
        ("vp9.webm", 10, 30, {"codec": "libvpx-vp9", "codec_options": {"deadline": "realtime"}}, "decord"),
        ("hevc.mp4", 10, 60, {"codec": "libx265", "codec_options": X265}, "decord"),
        ("hevc.mkv", NTSC, 90, {"codec": "libx265", "codec_options": X265, "gop": 17}, "decord"),
        ("av1.mp4", 10, 30, {"codec": "libsvtav1", "codec_options": {"preset": "12"}}, "pyav"),
        ("start.ts", 10, 60, {"start_s": 6.4}, "pyav"),
        ("plain.ts", NTSC, 150, {}, "pyav"),
        ("a.avi", 10, 60, {"codec": "mpeg4"}, "pyav"),
    ],
)
def test_every_frame_of_a_good_file(tmp_path, name, rate, n_frames, options, backend):
    codec = options.get("codec", "libx264")
    if not media.has_encoder(codec):
        pytest.skip(f"this PyAV wheel has no {codec} encoder")
    path = media.encode_video(tmp_path / name, media.numbered_frames(n_frames), rate, **options)
    with open_video(path, fps=2) as stream:
        step = max(1, round(rate) // 2)
        got = [(time_s, media.read_number(image)) for time_s, image in stream.read()]
        assert got == expected(n_frames, rate, step)
        assert (stream.backend, stream.ended, stream.n_damaged) == (backend, True, 0)
        assert stream.duration_s == pytest.approx(n_frames / rate, abs=0.002)
        assert (stream.fallback_reason is not None) == (name == "av1.mp4")
        assert bool(stream.warnings) == (name == "av1.mp4")
    assert numbers(path, fps=2, decoder="pyav") == got


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_variable_rate_gives_the_frame_on_screen(tmp_path, decoder):
    pts_s = np.cumsum([0] + [0.1, 0.5, 1 / 30, 1.2] * 15).round(3)
    path = media.encode_video(
        tmp_path / "vfr.mp4", media.numbered_frames(len(pts_s)), 10, pts_s=pts_s.tolist()
    )
    got = numbers(path, fps=1, decoder=decoder)
    assert len(got) > 20
    assert [n for _, n in got] == [np.searchsorted(pts_s, t + 1e-3, side="right") - 1 for t, _ in got]
    counted = [round(k * len(pts_s) / len(got)) for k in range(len(got))]
    assert [n for _, n in got] != counted


@pytest.mark.parametrize("clockwise", [0, 90, 180, 270])
@pytest.mark.parametrize("colour", [{}, {"bt709": True}, {"bt709": True, "full_range": True}])
def test_decord_and_pyav_give_identical_frames(tmp_path, clockwise, colour):
    path = media.encode_video(tmp_path / "v.mp4", media.moving_square_frames(30), 10, audio=True, **colour)
    if clockwise:
        path = media.rotate_mp4(path, tmp_path / "turned.mp4", clockwise)
    a = list(iter_frames(path, fps=5, decoder="decord"))
    b = list(iter_frames(path, fps=5, decoder="pyav"))
    assert [t for t, _ in a] == [t for t, _ in b] and len(a) == 15
    assert all(np.array_equal(x, y) for (_, x), (_, y) in zip(a, b, strict=True))
    assert a[0][1].shape == ((96, 64, 3) if clockwise in (90, 270) else (64, 96, 3))


def test_rotation_turns_the_picture_the_right_way(ok, tmp_path):
    upright = next(iter_frames(ok, decoder="pyav"))[1]
    turned = next(iter_frames(media.rotate_mp4(ok, tmp_path / "r.mp4", 90), decoder="pyav"))[1]
    assert np.array_equal(turned, np.rot90(upright, -1))


def test_frames_cut_off_by_an_edit_list_are_not_counted(ok, tmp_path):
    # decord gives such files wrong times, so auto must not use it.
    path = media.cut_mp4(ok, tmp_path / "cut.mp4", start_s=2.05)
    with open_video(path, fps=1) as stream:
        got = [media.read_number(image) for _, image in stream.read()]
        assert stream.backend == "pyav"
    assert got[:3] == [20, 30, 40] or got[:3] == [21, 31, 41]


# --- windows, continuation, clips ----------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_reading_in_pieces_equals_reading_at_once(ok, decoder):
    whole = numbers(ok, fps=2, decoder=decoder)
    with open_video(ok, fps=2, decoder=decoder) as stream:
        pieces = []
        for until_s in (0.0, 2.3, 2.3, 1.0, 5.0, 9.5):
            pieces += [(t, media.read_number(image)) for t, image in stream.read(until_s)]
            assert len(pieces) == stream.grid.count_before(stream.position_s)
            assert not stream.ended
        assert stream.position_s == 9.5
        pieces += [(t, media.read_number(image)) for t, image in stream.read(60.0)]
        assert stream.ended and stream.position_s == pytest.approx(10.0)
        assert list(stream.read(99.0)) == []
        assert stream.decode_ms > 0
    assert pieces == whole == expected(100, 10, 5)


def test_a_read_left_half_way_goes_on_with_the_next_frame(ok):
    with open_video(ok, fps=1) as stream:
        for time_s, _ in stream.read(8.0):
            if time_s == 2.0:
                break
        assert stream.position_s == 2.0
        assert [t for t, _ in stream.read(5.0)] == [3.0, 4.0]


@pytest.mark.parametrize("decoder", ["auto", "decord", "pyav"])
@pytest.mark.parametrize("start_s", [0.0, 0.35, 3.4, 7.0])
def test_a_clip_has_its_grid_at_its_start(ok, decoder, start_s):
    got = numbers(ok, fps=1, start_s=start_s, decoder=decoder, end_s=9.0)
    times = [start_s + k for k in range(10) if start_s + k < 9.0]
    assert got == [(pytest.approx(t), int(t * 10 + 1e-6)) for t in times]


def test_a_clip_past_the_end_is_empty_not_an_error(ok):
    with open_video(ok, start_s=50.0) as stream:
        assert list(stream.read()) == [] and stream.ended


@pytest.mark.parametrize("name", ["seek.ts", "seek.mkv", "seek.mp4"])
def test_seeking_lands_on_the_right_frame_with_open_groups(tmp_path, name):
    options = {"x264-params": "open-gop=1:bframes=4"}
    path = media.encode_video(
        tmp_path / name, media.numbered_frames(200), 10, start_s=3.0, gop=25, codec_options=options
    )
    for start_s in (1.7, 9.9, 14.2):
        first = next(iter_frames(path, fps=1, start_s=start_s))
        assert first[0] == start_s and media.read_number(first[1]) == round(start_s * 10)


def test_slow_sampling_and_faster_than_the_video(ok):
    assert numbers(ok, fps=0.1) == [(0.0, 0)]
    assert [n for _, n in numbers(ok, fps=100)] == list(range(100))


# --- files that are broken -----------------------------------------------------------------------------


def test_truncated_with_the_index_in_front_gives_its_first_part(ok, tmp_path):
    path = media.truncate(ok, tmp_path / "cut.mp4", 0.6)
    with open_video(path, fps=5) as stream:
        got = [(t, media.read_number(image)) for t, image in stream.read()]
        assert stream.backend == "pyav" and stream.n_damaged >= 1
        assert any("truncated" in warning for warning in stream.warnings)
        assert stream.duration_s < 9
    assert 5 < len(got) < 50 and got[:5] == expected(10, 10, 2)
    assert probe(path).warnings


@pytest.mark.parametrize("fraction", [0.55, 0.6, 0.7])
def test_a_truncated_file_does_not_end_earlier_on_more_cores(ok, tmp_path, fraction):
    path = media.truncate(ok, tmp_path / "cut.mp4", fraction)
    shown_s = []
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "SLICE"  # frame threads drop frames when the end is missing
        for packet in container.demux(video=0):
            with contextlib.suppress(av.error.FFmpegError):
                shown_s += [frame.time for frame in packet.decode()]
    with open_video(path, fps=10) as stream:
        got = list(stream.read())
        assert stream.duration_s == pytest.approx(max(shown_s) + 0.1)
        assert got[-1][0] == pytest.approx(max(shown_s)) and stream.n_damaged == 1


def test_a_cut_matroska_file_is_noticed_though_decord_does_not(tmp_path):
    whole = media.encode_video(tmp_path / "whole.mkv", media.moving_square_frames(100), 10)
    with open_video(media.truncate(whole, tmp_path / "cut.mkv")) as stream:
        assert len(list(stream.read())) >= 2
        assert any("claims 10.0 s" in warning for warning in stream.warnings)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_damage_in_the_middle_loses_a_few_frames(ok, tmp_path, seed):
    path = media.damage(ok, tmp_path / "damaged.mp4", seed=seed)
    with open_video(path, fps=10) as stream:
        got = [(t, media.read_number(image)) for t, image in stream.read()]
        assert stream.backend == "pyav" and "decord failed near" in stream.fallback_reason
        assert stream.n_damaged > 0 and any("damaged pieces" in w for w in stream.warnings)
    assert [t for t, _ in got] == [pytest.approx(i / 10) for i in range(100)]  # each time exactly once
    assert all(number <= i for i, (_, number) in enumerate(got))  # nothing from the future
    assert sum(number == i for i, (_, number) in enumerate(got)) > 50


def broken_file(kind: str, ok: Path, folder: Path) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "moov_lost":
        media.truncate(media.encode_video(folder / "w.mp4", media.numbered_frames(50), 10), path)
    elif kind == "empty":
        path.touch()
    elif kind == "random":
        path.write_bytes(np.random.default_rng(0).bytes(50_000))
    elif kind == "audio":
        media.encode_audio_only(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "codec":
        media.unknown_codec_mp4(ok, path)
    elif kind == "no_frames":
        data = ok.read_bytes()
        start = data.index(b"mdat") + 4
        path.write_bytes(data[:start] + bytes(len(data) - start))
    elif kind == "playlist":
        path.write_text("#EXTM3U\nhttp://localhost:9/x.ts\n")
    return path


@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("moov_lost", REASONS),
        ("empty", r"is empty \(0 bytes\)"),
        ("random", REASONS),
        ("audio", "no video stream"),
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("codec", "codec is not supported"),
        ("no_frames", REASONS),
        ("playlist", "is a playlist"),
    ],
)
def test_hopeless_files_give_one_clear_line(ok, tmp_path, kind, reason, decoder):
    path = broken_file(kind, ok, tmp_path)
    if decoder == "decord":
        reason = f"{reason}|no stream it can decode|try decoder=auto"
    with pytest.raises(VideoError, match=reason) as caught:
        list(iter_frames(path, decoder=decoder))
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 300 + len(str(path))
    assert ".cc:" not in message and "Check failed" not in message
    if decoder == "auto":
        with pytest.raises(VideoError, match=reason):
            probe(path)


@pytest.mark.parametrize("address", ["http://localhost:9/a.mp4", "rtsp://localhost/a", "file:///etc/hosts"])
def test_addresses_are_refused(address):
    with pytest.raises(VideoError, match="is an address, not a local file"):
        open_video(address)


def test_protocols_without_slashes_are_just_missing_files(ok):
    with pytest.raises(VideoError, match="does not exist"):
        open_video(f"concat:{ok}|{ok}")


@pytest.mark.parametrize(
    "options",
    [{"decoder": "ffmpeg"}, {"fps": 0}, {"start_s": -1.0}, {"start_s": float("nan")}, {"timeout_s": 0}],
)
def test_bad_arguments_are_named(ok, options):
    (name, value), *_ = options.items()
    with pytest.raises(SettingsError, match=f"{name}={value!r}"):
        open_video(ok, **options)


def test_torchcodec_not_installed_says_how_to_get_it(ok):
    try:
        import torchcodec  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        with pytest.raises(VideoError, match=r"pip install 'stc-lmms\[torchcodec\]'"):
            open_video(ok, decoder="torchcodec")
    else:
        assert numbers(ok, fps=2, decoder="torchcodec") == expected(100, 10, 5)


def test_probe_describes_a_video(ok):
    info = probe(ok)
    assert (info.path, info.n_frames, info.width, info.height, info.backend) == (ok, 100, 96, 64, "decord")
    assert info.duration_s == pytest.approx(10) and info.avg_fps == 10 and info.warnings == ()


# --- the worker process --------------------------------------------------------------------------------


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")


def replace_decord(monkeypatch, script: str) -> None:
    """Run `script` instead of the decord worker; PyAV stays real."""
    real = process.worker_command

    def command(backend):
        return [sys.executable, "-c", script] if backend == "decord" else real(backend)

    monkeypatch.setattr(process, "worker_command", command)


# A worker that decodes properly and then, before frame 3, does something else.
AFTER_THREE_FRAMES = """
import json, os, sys, time
from stc_lmms.video import worker
send = worker.Messages.send
def broken(self, kind, pixels=None, **fields):
    if fields.get("k") == 3:
        {then}
    send(self, kind, pixels, **fields)
worker.Messages.send = broken
worker.main()
"""


@linux
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import time; time.sleep(60)", "no progress for 0.5 s"),
        ("raise SystemExit('the disk is on fire')", "status 1: the disk is on fire"),
        ("import os; os.abort()", r"crashed \(SIGABRT\)"),
        (AFTER_THREE_FRAMES.format(then="time.sleep(60)"), "no progress for 0.5 s"),
        (AFTER_THREE_FRAMES.format(then="os.abort()"), r"crashed \(SIGABRT\)"),
    ],
)
def test_pyav_takes_over_from_a_decoder_that_hangs_or_dies(ok, monkeypatch, script, reason):
    replace_decord(monkeypatch, script)
    before = children()
    timeout_s = 0.5 if "0.5" in reason else 30
    with open_video(ok, fps=1, timeout_s=timeout_s) as stream:
        got = [(t, media.read_number(image)) for t, image in stream.read()]
        assert stream.backend == "pyav" and stream.fallback_reason.startswith("decord: ")
        assert len(stream.warnings) == 1
        with pytest.raises(VideoError, match=reason):
            raise VideoError(stream.fallback_reason)
    assert got == expected(100, 10, 10)  # nothing twice, nothing missing
    with pytest.raises(VideoError, match=reason):
        list(iter_frames(ok, decoder="decord", fps=1, timeout_s=timeout_s))
    assert children() == before


def test_slow_is_not_hung_as_long_as_it_advances(ok, monkeypatch):
    slow = """
import time
from stc_lmms.video import backends, worker
worker._BUSY_EVERY_S = 0.1
on_screen = backends.on_screen
def slow(frames, *rest):
    def delayed():
        for frame in frames:
            time.sleep(0.03)
            messages.tick()
            yield frame
    return on_screen(delayed(), *rest)
backends.on_screen = slow
init = worker.Messages.__init__
def remember(self, descriptor):
    global messages
    messages = self
    init(self, descriptor)
worker.Messages.__init__ = remember
worker.main()
"""
    replace_decord(monkeypatch, slow)
    with open_video(ok, fps=0.25, timeout_s=0.8) as stream:  # 1.2 s of decoding between two frames
        assert len(list(stream.read())) == 3
        assert stream.backend == "decord" and stream.decode_ms > 1500


@linux
def test_nothing_is_left_behind(ok, tmp_path):
    broken = media.damage(ok, tmp_path / "d.mp4")
    list(iter_frames(ok))
    gc.collect()
    before = children(), len(os.listdir("/proc/self/fd"))
    stream = open_video(ok, fps=10)
    next(stream.read())
    stream.close()  # half way
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        list(stream.read())
    list(iter_frames(broken, fps=10))  # with a fallback
    abandoned = open_video(ok, fps=10)
    next(abandoned.read())
    assert len(children()) == len(before[0]) + 1
    del abandoned  # no close at all
    with pytest.raises(VideoError):
        open_video(media.encode_audio_only(tmp_path / "a.mp4"))
    gc.collect()
    assert (children(), len(os.listdir("/proc/self/fd"))) == before


@linux
@pytest.mark.parametrize("hangs", [False, True])
def test_the_worker_dies_with_its_parent(ok, hangs):
    script = f"""
import os, sys, time
from stc_lmms.video import open_video, process
if {hangs}:
    hung = "import threading, time\\nfrom stc_lmms.video import worker\\n"
    hung += "worker.decode = lambda *_: time.sleep(60)\\nworker.main()"
    process.worker_command = lambda backend: [sys.executable, "-c", hung]
    stream = process.DecoderProcess({{"backend": "decord"}}, 60)
    worker = stream._process
    time.sleep(0.5)
else:
    stream = open_video({str(ok)!r}, fps=10)
    worker = stream._worker._process
print(worker.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    status = Path(f"/proc/{int(done.stdout)}/status")
    for _ in range(100):
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.05)
    pytest.fail("the worker outlives its parent")


def test_streams_in_several_threads_do_not_mix(clips, ok):
    other = media.encode_video(clips / "other.mp4", media.numbered_frames(100, first=2000), 10)
    results = {}

    def work(name, path):
        results[name] = [n for _, n in numbers(path, fps=5)]

    jobs = [("a", ok), ("b", other), ("c", ok), ("d", other)]
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = list(range(0, 100, 2))
    assert results == {"a": first, "c": first, "b": [2000 + n for n in first], "d": [2000 + n for n in first]}


@linux
def test_the_worker_waits_instead_of_running_ahead(tmp_path):
    path = media.encode_video(
        tmp_path / "large.mp4",
        media.numbered_frames(60, 720, 1280),
        10,
        codec_options={"preset": "ultrafast"},
    )
    with open_video(path, fps=10) as stream:
        next(stream.read())
        time.sleep(1.0)
        statistics = Path(f"/proc/{stream._worker._process.pid}/io").read_text().splitlines()
        written = next(int(line.split()[1]) for line in statistics if line.startswith("wchar"))
        assert written < 3 * 720 * 1280 * 3


def test_the_worker_imports_nothing_heavy():
    code = (
        "import sys, stc_lmms.video.worker; "
        "print(sorted({'torch', 'transformers', 'decord', 'av', 'torchcodec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
