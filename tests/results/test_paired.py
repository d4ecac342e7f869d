"""The paired bootstrap over videos, against numbers known by hand."""

import numpy as np
import pytest

from stc_lmms.results.paired import paired_difference


def scores(videos=40, questions=5, gain=0.3, seed=1):
    """Independent questions; ours is right where the base is, and in a share `gain` of the others."""
    rng = np.random.default_rng(seed)
    base = rng.random((videos, questions)) < 0.5
    ours = base | (rng.random((videos, questions)) < gain)
    return [(f"v{v}", float(ours[v, q]), float(base[v, q])) for v in range(videos) for q in range(questions)]


def test_the_mean_is_the_difference_of_pooled_accuracies():
    found = paired_difference([("a", 1, 0), ("a", 1, 1), ("b", 0, 1), ("b", 1, 0), ("b", 1, 0)])
    assert found.mean == pytest.approx(100 * 2 / 5) and (found.videos, found.questions) == (2, 5)


def test_two_videos_have_three_possible_draws():
    """Both a: +100, both b: -100, one of each: 0. Each end has a quarter of the draws."""
    found = paired_difference([("a", 1, 0), ("b", 0, 1)])
    assert (found.mean, found.low, found.high) == (0, -100, 100)


def test_interval_is_that_of_the_normal_approximation():
    rows = scores(videos=400, questions=1)
    gains = np.array([ours - base for _, ours, base in rows])
    error = 100 * gains.std() / np.sqrt(len(gains))
    found = paired_difference(rows)
    assert found.mean == pytest.approx(100 * gains.mean())
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.4)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.4)


def test_questions_of_a_video_count_as_one_draw():
    """The same question ten times tells no more than once: the interval must not get narrower."""
    once = scores(questions=1)
    many = [row for row in once for _ in range(10)]
    few, lots = paired_difference(once), paired_difference(many)
    assert (few.low, few.high) == pytest.approx((lots.low, lots.high)) and lots.questions == 400


def test_seeded_and_independent_of_the_order():
    rows = scores()
    found = paired_difference(rows)
    assert paired_difference(rows[::-1]) == found
    assert paired_difference(rows, seed=1) != found
    assert found.low < found.mean < found.high


def test_equal_runs_have_no_difference_and_one_video_no_interval():
    same = paired_difference([(video, ours, ours) for video, ours, _ in scores()])
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    one = paired_difference([("a", 1, 0), ("a", 0, 0)])
    assert (one.mean, one.low, one.high) == (50, None, None)
    with pytest.raises(ValueError, match="no question"):
        paired_difference([])
