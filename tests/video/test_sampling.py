"""Sampling times: golden indices of the peers, times, windows, and the frame on screen."""

import json
import math
from pathlib import Path

import pytest

from stc_lmms.errors import SettingsError
from stc_lmms.video.sampling import Sampling, frame_step, on_screen

GOLDEN = json.loads(Path(__file__).with_name("frame_sampling.json").read_text())["frame_sampling"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c['n_frames']}@{c['avg_fps']}-{c['sample_fps']}")
def test_indices_equal_the_peers(case):
    step = frame_step(case["avg_fps"], case["sample_fps"])
    assert step == case["step"] and list(range(0, case["n_frames"], step)) == case["indices_or_error"]


@pytest.mark.parametrize(
    ("avg_fps", "fps", "step"),
    [(29.97, 0.5, 60), (2.5, 1, 2), (3.5, 1, 4), (0.5, 0.5, 1), (10, 30, 1), (7, 3, 2)],
)
def test_frame_step_rounds_half_to_even_and_never_below_one(avg_fps, fps, step):
    assert frame_step(avg_fps, fps) == step


@pytest.mark.parametrize("fps", [0, -1, math.inf, math.nan, "1", True, None])
def test_bad_fps_is_named(fps):
    with pytest.raises(SettingsError, match=f"fps={fps!r}"):
        frame_step(30.0, fps)


@pytest.mark.parametrize("avg_fps", [0.0, -30.0, math.inf, math.nan])
def test_bad_source_rate_is_named(avg_fps):
    with pytest.raises(SettingsError, match="avg_fps="):
        Sampling.of(avg_fps, 0.5)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c['n_frames']}@{c['avg_fps']}-{c['sample_fps']}")
def test_time_rule_is_the_index_rule_on_constant_rate(case):
    rate = case["avg_fps"]
    # Times as a millisecond container would store them.
    frames = [(round(i / rate, 3), 1 / rate, i) for i in range(case["n_frames"])]
    picked = list(on_screen(frames, Sampling.of(rate, case["sample_fps"]), interval_s=1 / rate))
    assert [index for _, index in picked] == case["indices_or_error"]
    assert [k for k, _ in picked] == list(range(len(picked)))


def test_variable_rate_takes_the_frame_on_screen():
    frames = [(0.0, 0.1, "a"), (0.1, 2.4, "b"), (2.5, 0.1, "c"), (2.6, 3.0, "d")]
    picked = list(on_screen(frames, Sampling(0.0, 1.0)))
    assert picked == [(0, "a"), (1, "b"), (2, "b"), (3, "d"), (4, "d"), (5, "d")]


def test_on_screen_is_lazy_and_reads_one_frame_ahead():
    taken = []

    def frames():
        for i in range(100):
            taken.append(i)
            yield i * 0.1, 0.1, i

    picks = on_screen(frames(), Sampling(0.0, 0.5))
    assert next(picks) == (0, 0)
    assert next(picks) == (1, 5)
    assert taken[-1] == 6


def test_on_screen_edges():
    assert list(on_screen([], Sampling(0.0, 1.0))) == []
    assert list(on_screen([(0.0, 0.0, "only")], Sampling(0.0, 1.0), interval_s=0.1)) == [(0, "only")]
    # Nothing on screen at 0 and 1; but a first frame late by less than a frame counts from the start.
    assert list(on_screen([(1.5, 1.0, "a")], Sampling(0.0, 1.0), interval_s=0.1)) == [(2, "a")]
    assert list(on_screen([(0.05, 0.1, "a")], Sampling(0.0, 1.0), interval_s=0.1)) == [(0, "a")]
    frames = [(i * 0.1, 0.1, i) for i in range(30)]
    assert list(on_screen(frames, Sampling(0.0, 1.0), first_k=2)) == [(2, 20)]
    assert list(on_screen(frames, Sampling(5.0, 1.0))) == []


def test_windows_are_half_open_and_tile_the_video():
    sampling = Sampling.of(30.0, 0.5)
    assert [sampling.time_s(k) for k in range(3)] == [0.0, 2.0, 4.0]
    assert [sampling.count_before(t) for t in (0.0, 1e-3, 2.0, 25.5, 26.0)] == [0, 1, 1, 13, 13]
    ntsc = Sampling.of(30000 / 1001, 0.5, start_s=7.3)
    borders = [7.3, 9.302, 9.303, 20.0, 31.0]
    counts = [ntsc.count_before(t) for t in borders]
    assert counts[0] == 0 and counts == sorted(counts)
    for border, count in zip(borders, counts, strict=True):
        assert all(ntsc.time_s(k) < border for k in range(count)) and ntsc.time_s(count) >= border


def test_sampling_starts_at_the_clip_start():
    sampling = Sampling.of(25.0, 1.0, start_s=3.4)
    assert [sampling.time_s(k) for k in range(3)] == [3.4, 4.4, 5.4]
    assert Sampling.of(None, 0.5).step_s == 2.0


def test_exact_sampling_counts_seconds_not_frames():
    assert Sampling.of(25, 2, 1.0).time_s(3) == 2.44
    assert Sampling.of(25, 2, 1.0, exact=True) == Sampling(1.0, 0.5)


def test_float_noise_does_not_cross_a_border():
    sampling = Sampling.of(10.0, 10.0)
    assert all(sampling.count_before(n / 10) == n for n in range(2000))
