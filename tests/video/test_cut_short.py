"""Files that end before they say so: told apart from complete ones, by reading and by `probe`."""

import contextlib
import sys

import av
import pytest

from stc_lmms.errors import VideoError
from stc_lmms.video import backends, open_video, probe, process
from stc_lmms.video.sampling import Sampling
from tests import media
from tests.video.clock import Clock, hang
from tests.video.reading import expected

FASTSTART = {"container_options": {"movflags": "faststart"}}


def encode(folder, name, frames=100, **options):
    return media.encode_video(folder / name, media.numbered_frames(frames), 10, **options)


# --- reading -------------------------------------------------------------------------------------------


def test_truncated_with_the_index_in_front_gives_its_first_part(ok, tmp_path):
    path = media.truncate(ok, tmp_path / "part.mp4", 0.6)
    with open_video(path, fps=5) as stream:
        got = [(t, media.read_number(image)) for t, image in stream.read()]
        assert stream.backend == "pyav" and stream.n_damaged >= 1
        assert stream.cut_short == f"cut short: claims 10.0 s, delivers {stream.duration_s:.1f} s"
        assert stream.warnings[-1] == f"{path}: {stream.cut_short}"
        assert stream.duration_s < 9
    assert 5 < len(got) < 50 and got[:5] == expected(10, 10, 2)


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


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_file_cut_between_two_packets_is_noticed_though_nothing_in_it_is_damaged(ok, tmp_path, decoder):
    path = media.cut_after(ok, tmp_path / "part.mp4", 61)
    with open_video(path, decoder=decoder) as stream:
        assert len(list(stream.read())) == 4 and stream.n_damaged == 0
        assert stream.cut_short == "cut short: claims 10.0 s, delivers 6.1 s"


def test_a_cut_matroska_file_is_noticed_though_decord_does_not(tmp_path):
    whole = media.encode_video(tmp_path / "whole.mkv", media.moving_square_frames(100), 10)
    with open_video(media.truncate(whole, tmp_path / "part.mkv")) as stream:
        assert len(list(stream.read())) >= 2
        assert stream.cut_short.startswith("cut short: claims 10.0 s, delivers ")


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("name", ["long.mkv", "long.mp4"])
def test_sound_that_is_longer_than_the_picture_is_no_cut(tmp_path, name, decoder):
    path = encode(tmp_path, name, 50, audio=9.0)
    with open_video(path, decoder=decoder) as stream:
        list(stream.read())
        assert (stream.cut_short, stream.warnings) == ("", [])
        assert stream.duration_s == pytest.approx(5.0)
    info = probe(path)
    assert (info.duration_s, info.cut_short) == (5.0, "")


def test_a_few_frames_of_a_slow_video_may_be_missing(tmp_path):
    path = media.encode_video(tmp_path / "slow.mp4", media.numbered_frames(20), 0.5, **FASTSTART)
    for packets, message in ((19, ""), (16, "cut short: claims 40.0 s, delivers 32.0 s")):
        part = media.cut_after(path, tmp_path / f"{packets}.mp4", packets)
        assert probe(part).cut_short == message


@pytest.mark.parametrize("first", [0.9, 0.985])
def test_damage_at_the_end(ok, tmp_path, first):
    path = media.damage(ok, tmp_path / "damaged.mp4", first=first, last=1.0)
    with open_video(path, fps=10) as stream:
        list(stream.read())
        assert stream.duration_s < 10 and stream.n_damaged
        start = "cut short" if stream.duration_s < 9 else "damaged at its end"
        assert stream.cut_short == f"{start}: claims 10.0 s, delivers {stream.duration_s:.1f} s"


def test_damage_in_the_middle_is_no_cut(ok, tmp_path):
    path = media.damage(ok, tmp_path / "damaged.mp4")
    with open_video(path, fps=10) as stream:
        list(stream.read())
        assert stream.n_damaged and stream.cut_short == ""
    assert probe(path).cut_short == ""


# --- probe ---------------------------------------------------------------------------------------------


def test_probe_says_how_long_a_video_is(ok):
    info = probe(ok)
    assert (info.duration_s, info.claimed_s, info.cut_short) == (10.0, 10.0, "")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("late.mp4", {}),  # the index is behind the frames
        ("sound.mp4", {"audio": True} | FASTSTART),
        ("start.mp4", {"start_s": 2.5}),
        ("fragments.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("a.mkv", {"audio": True}),
        ("start.mkv", {"start_s": 2.5}),
        ("live.mkv", {"container_options": {"live": "1"}}),
        ("start.ts", {"start_s": 6.4}),
        ("a.avi", {"codec": "mpeg4"}),
    ],
)
def test_probe_finds_the_length_of_whole_files(tmp_path, name, options):
    info = probe(encode(tmp_path, name, 60, **options))
    assert info.duration_s == pytest.approx(6.0) and info.cut_short == ""
    claimed_s = None if name == "live.mkv" else pytest.approx(6.0, abs=0.03)
    assert info.claimed_s == claimed_s


@pytest.mark.parametrize(("sound", "fraction"), [(False, 0.6), (True, 0.6), (True, 0.8)])
def test_probe_tells_what_a_cut_file_claims_and_what_it_delivers(tmp_path, sound, fraction):
    path = media.truncate(encode(tmp_path, "w.mp4", audio=sound, **FASTSTART), tmp_path / "p.mp4", fraction)
    info = probe(path)
    assert info.claimed_s == 10.0 and 0 < info.duration_s < 9
    assert info.cut_short == f"cut short: claims 10.0 s, delivers {info.duration_s:.1f} s"
    with open_video(path, decoder="pyav") as stream:
        list(stream.read())
        # a picture that is half there is not readable, though a decoder may make something of it
        assert stream.duration_s == pytest.approx(info.duration_s, abs=0.11)


def test_probe_sees_a_cut_between_two_packets_and_a_torn_last_one(ok, tmp_path):
    info = probe(media.cut_after(ok, tmp_path / "part.mp4", 61))
    assert (info.claimed_s, info.duration_s) == (10.0, 6.1)
    info = probe(media.truncate(ok, tmp_path / "torn.mp4", 0.99))
    assert info.cut_short == "damaged at its end: claims 10.0 s, delivers 9.8 s"


def test_a_scan_decodes_nothing(ok, tmp_path):
    damaged = str(media.damage(ok, tmp_path / "damaged.mp4"))  # packets that are there but cannot be decoded
    source, decoding = (backends.PyAVSource(damaged, lambda: None) for _ in range(2))
    delivery = source.scan()
    assert (delivery.claimed_s, delivery.delivered_s, delivery.damaged_at_end) == (10.0, 10.0, False)
    list(decoding.frames(Sampling(0.0, 1.0), 0))
    assert source.n_damaged == 0 < decoding.n_damaged


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("{hang}", "no progress for 2 s"),
        ("import os; os.abort()", r"crashed \(SIGABRT\)"),
        ("raise SystemExit('the disk is on fire')", "the disk is on fire"),
    ],
)
def test_a_scan_that_hangs_or_dies_is_one_line(ok, tmp_path, monkeypatch, script, reason):
    real, clock = process.worker_command, Clock(hung=tmp_path / "hung")
    script = script.replace("{hang}", hang(clock.hung))
    monkeypatch.setattr(process, "time", clock)
    monkeypatch.setattr(process, "select", clock)

    def command(backend):
        return [sys.executable, "-c", script] if backend == "scan" else real(backend)

    monkeypatch.setattr(process, "worker_command", command)
    with pytest.raises(VideoError, match=reason) as caught:
        probe(ok, timeout_s=2)
    assert str(ok) in str(caught.value) and "\n" not in str(caught.value)
