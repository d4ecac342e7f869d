"""Splits a task's videos into shards of nearly equal cost. A video stays whole, with all its questions."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stc_lmms.benchmarks.base import NO_TIME_S, rounds

_ORDERS = 64  # orders tried to keep every video on one rank; the tests compare them with the optimum
Video = tuple[str, str]
"""(benchmark, name)."""


class Load(NamedTuple):
    """What a video costs: frames of each clip that is played, and number of questions and polls at most."""

    streams: tuple[int, ...]
    rounds: int

    @property
    def cost(self) -> int:
        """Frames plus rounds: either is a prefill of about as many tokens. At least 1."""
        return max(1, sum(self.streams) + self.rounds)


def video_loads(rows: Iterable[Mapping[str, Any]], fps: float) -> dict[Video, Load]:
    """The load of every video, in order of appearance; it is played once for the rows of all tasks.

    A question about the whole video needs its duration, which is read from the file's header.
    """
    ends: dict[Video, dict[float, float]] = {}  # end of each stream by its start
    n_rounds: Counter[Video] = Counter()
    for row in rows:
        video = (row["benchmark"], row["video"])
        streams = ends.setdefault(video, {})
        for clip in rounds(row):  # plain iteration answers no poll with yes: an upper bound
            end_s = duration_s(row["path"]) if clip.end_s == NO_TIME_S else clip.end_s
            streams[clip.start_s] = max(streams.get(clip.start_s, clip.start_s), end_s)
            n_rounds[video] += 1
    return {
        video: Load(tuple(math.ceil((end - start) * fps) for start, end in streams.items()), n_rounds[video])
        for video, streams in ends.items()
    }


def shard_videos(loads: Mapping[Video, Load], count: int) -> list[list[Video]]:
    """Assign videos to shards, most expensive first (LPT), each to the shard with the least load so far.

    The most expensive shard costs at most 4/3 of the optimum. With fewer videos, each is a shard.

    Returns:
        The videos of every shard in the order of `loads`; the most expensive shard comes first.
    """
    costs = [0] * min(count, len(loads))
    shard_of: dict[Video, int] = {}
    for video in sorted(loads, key=lambda video: -loads[video].cost):
        shard_of[video] = min(range(len(costs)), key=costs.__getitem__)
        costs[shard_of[video]] += loads[video].cost
    by_cost = sorted(range(len(costs)), key=lambda shard: -costs[shard])
    return [[video for video in loads if shard_of[video] == shard] for shard in by_cost]


def assign_to_ranks(
    tasks: Mapping[str, Sequence[Video]], loads: Mapping[Video, Load], ranks: int
) -> dict[str, list[Video]]:
    """Order the videos of every task so that the ranks of a job finish at about the same time.

    lmms-eval gives row i of every task to rank i mod `ranks`, so the order decides which rank plays a video.
    The most expensive video goes first, to the least busy rank with a free row in all of the video's tasks,
    which then plays it for all of them. If this leaves a video without such a rank, other orders are tried;
    a video that is still split, see `count_split`, is played by two ranks, with the same answers.
    """
    if ranks == 1:
        return {task: list(videos) for task, videos in tasks.items()}
    tasks_of: dict[Video, list[str]] = defaultdict(list)
    for task, videos in tasks.items():
        for video in videos:
            tasks_of[video].append(task)
    by_cost = sorted(tasks_of, key=lambda video: (-len(tasks_of[video]), -loads[video].cost))
    shared = [video for video in by_cost if len(tasks_of[video]) > 1]
    best = _assign(tasks, loads, ranks, tasks_of, by_cost)
    shuffle = random.Random(0).shuffle  # noqa: S311 - no secret
    for _ in range(_ORDERS):
        if not count_split(best, ranks):
            break
        shuffle(shared)
        other = _assign(tasks, loads, ranks, tasks_of, shared + by_cost[len(shared) :])
        best = min(best, other, key=lambda order: count_split(order, ranks))
    return best


def count_split(order: Mapping[str, Sequence[Any]], ranks: int) -> int:
    """How many videos are played by more than one rank when the rows are in this order."""
    played = {(video, row % ranks) for videos in order.values() for row, video in enumerate(videos)}
    return sum(count > 1 for count in Counter(video for video, _ in played).values())


def _assign(
    tasks: Mapping[str, Sequence[Video]],
    loads: Mapping[Video, Load],
    ranks: int,
    tasks_of: Mapping[Video, Sequence[str]],
    videos: Sequence[Video],
) -> dict[str, list[Video]]:
    """The order of every task's rows if the videos choose their rows one after the other."""
    free_rows = {
        (task, rank): list(range(rank, len(listed), ranks))[::-1]
        for task, listed in tasks.items()
        for rank in range(ranks)
    }
    order: dict[str, list[Video]] = {task: list(listed) for task, listed in tasks.items()}
    busy = [0] * ranks
    for video in videos:
        free = [rank for rank in range(ranks) if all(free_rows[task, rank] for task in tasks_of[video])]
        common_rank = min(free, key=busy.__getitem__, default=None)
        for task in tasks_of[video]:
            rank = common_rank
            if rank is None:  # no rank has a free row in all of them
                rank = min((r for r in range(ranks) if free_rows[task, r]), key=busy.__getitem__)
            order[task][free_rows[task, rank].pop()] = video
            busy[rank] += loads[video].cost // len(tasks_of[video])
    return order


def duration_s(path: str) -> float:
    """Seconds that a video's header claims; 0 if unknown or unreadable: playing it will report why."""
    import av

    try:
        with av.open(path) as container:
            return (container.duration or 0) / av.time_base
    except (av.error.FFmpegError, OSError):
        return 0.0
