"""Accuracy of one run against another on the same questions, with a bootstrap over videos.

Questions about one video share a stream and are not independent, so whole videos are resampled.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

DRAWS, LEVEL = 10_000, 0.95


@dataclass(frozen=True)
class Difference:
    """Difference of two accuracies, pooled over questions, in percentage points.

    Attributes:
        mean: ours minus the base.
        low, high: 95 % percentile interval; None for a single video.
        videos, questions: sample sizes.
    """

    mean: float
    low: float | None
    high: float | None
    videos: int
    questions: int


def paired_difference(
    scores: Iterable[tuple[str, float, float]], draws: int = DRAWS, seed: int = 0
) -> Difference:
    """Compare two runs question by question.

    Args:
        scores: (video, our score, the base's score) of every question, scores from 0 to 1.
        draws: bootstrap samples, each of as many videos as there are, drawn with replacement.
        seed: of the random draws.

    Raises:
        ValueError: there are no questions.
    """
    gains: dict[str, list[float]] = {}
    for video, ours, base in scores:
        gains.setdefault(video, []).append(ours - base)
    if not gains:
        raise ValueError("no question was answered by both")
    # Sorted, so that the order of the questions does not change the draws.
    gain_V = np.array([sum(gains[video]) for video in sorted(gains)], dtype=np.float64)
    count_V = np.array([len(gains[video]) for video in sorted(gains)], dtype=np.float64)
    mean, videos, questions = 100 * gain_V.sum() / count_V.sum(), len(gains), int(count_V.sum())
    if videos == 1:
        return Difference(mean, None, None, videos, questions)
    drawn_BV = np.random.default_rng(seed).multinomial(videos, np.full(videos, 1 / videos), size=draws)
    means_B = 100 * (drawn_BV @ gain_V) / (drawn_BV @ count_V)
    low, high = np.quantile(means_B, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(float(mean), float(low), float(high), videos, questions)
