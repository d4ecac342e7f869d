"""Files that end before they say so: told apart from whole ones, by reading and by `probe`."""

import contextlib

import av
import pytest

from stc_lmms.video import open_video, probe
from tests import media
from tests.video.reading import expected


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


def test_probe_describes_a_video(ok):
    info = probe(ok)
    assert (info.path, info.n_frames, info.width, info.height, info.backend) == (ok, 100, 96, 64, "decord")
    assert info.duration_s == pytest.approx(10) and info.avg_fps == 10 and info.warnings == ()
