"""Decoding real small files that are fine: the right frames, in windows, clips and pieces."""

from fractions import Fraction

import numpy as np
import pytest

from stc_lmms.errors import VideoError
from stc_lmms.video import iter_frames, open_video
from tests import media
from tests.video.reading import expected, numbers

NTSC = Fraction(30000, 1001)
X265 = {"preset": "ultrafast", "x265-params": "log-level=none"}


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


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_reading_in_pieces_equals_reading_at_once(ok, decoder):
    whole = numbers(ok, fps=2, decoder=decoder)
    with open_video(ok, fps=2, decoder=decoder) as stream:
        pieces = []
        for until_s in (0.0, 2.3, 2.3, 1.0, 5.0, 9.5):
            pieces += [(t, media.read_number(image)) for t, image in stream.read(until_s)]
            assert len(pieces) == stream.sampling.count_before(stream.position_s)
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


def test_torchcodec_not_installed_says_how_to_get_it(ok):
    try:
        import torchcodec  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        with pytest.raises(VideoError, match=r"pip install 'stc-lmms\[torchcodec\]'"):
            open_video(ok, decoder="torchcodec")
    else:
        assert numbers(ok, fps=2, decoder="torchcodec") == expected(100, 10, 5)
