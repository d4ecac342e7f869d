"""Cuts a task's videos into shards of nearly equal cost. A video, with all its questions, is never cut."""

import heapq
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stc_lmms.benchmarks.base import NO_TIME_S, rounds

_ORDERS = 64  # tried to keep every video on one rank; nearly as good as the best possible, see the tests
Video = tuple[str, str]
"""(benchmark, name)."""


class Load(NamedTuple):
    """What a video asks of a model.

    Attributes:
        streams: frames of each clip that is played, decoded, encoded and prefilled.
        rounds: questions and polls, at most.
    """

    streams: tuple[int, ...]
    rounds: int

    @property
    def cost(self) -> int:
        """Frames and rounds together: both are a prefill of about as many tokens. At least 1."""
        return max(1, sum(self.streams) + self.rounds)


def video_loads(rows: Iterable[Mapping[str, Any]], fps: float) -> dict[Video, Load]:
    """The load of every video, in order of appearance.

    A question about the whole video needs its length, which is read from the file's header.

    Args:
        rows: of all tasks that one run evaluates; a video that several ask about is played once.
        fps: frames sampled per second.
    """
    ends: dict[Video, dict[float, float]] = {}  # of every stream: start -> end
    asked: dict[Video, int] = {}
    for row in rows:
        video = (row["benchmark"], row["video"])
        streams = ends.setdefault(video, {})
        asked.setdefault(video, 0)
        for ask in rounds(row):  # plain iteration never says yes to a poll: the most there can be
            end_s = length_s(row["path"]) if ask.end_s == NO_TIME_S else ask.end_s
            streams[ask.start_s] = max(streams.get(ask.start_s, ask.start_s), end_s)
            asked[video] += 1
    return {
        video: Load(tuple(math.ceil((end - start) * fps) for start, end in streams.items()), asked[video])
        for video, streams in ends.items()
    }


def cut(loads: Mapping[Video, Load], count: int) -> list[list[Video]]:
    """Deal the videos to shards, the dearest first, each to the shard that has least so far.

    The dearest shard is then at most 4/3 of the best possible. The same loads give the same shards.

    Args:
        loads: by video.
        count: shards; not more than videos are made.

    Returns:
        Videos of every shard in the order of `loads`, the dearest shard first.
    """
    costs = {video: load.cost for video, load in loads.items()}
    count = min(count, len(costs))
    place = {video: index for index, video in enumerate(costs)}
    heap: list[tuple[int, int]] = [(0, shard) for shard in range(count)]
    shards: list[list[Video]] = [[] for _ in range(count)]
    for video in sorted(costs, key=lambda video: (-costs[video], place[video])):
        load, shard = heapq.heappop(heap)
        shards[shard].append(video)
        heapq.heappush(heap, (load + costs[video], shard))
    shards.sort(key=lambda videos: -sum(costs[video] for video in videos))
    return [sorted(videos, key=place.__getitem__) for videos in shards]


def deal(
    tasks: Mapping[str, Sequence[Video]], loads: Mapping[Video, Load], ranks: int
) -> dict[str, list[Video]]:
    """The videos of every task in an order in which the ranks of a job end together.

    lmms-eval gives row i of every task to rank i mod `ranks`, so all ranks get equally many rows of each. The
    dearest video goes first, to the rank that has least to do among those with a free row in all its tasks: a
    stream that several tasks ask about is played once. Where no rank has one, other orders are tried, always
    the same; what then remains, see `parted`, is played by two ranks, with the same answers.

    Args:
        tasks: videos of each, every one once.
        loads: of all of them.
        ranks: processes of the job.
    """
    if ranks == 1:
        return {task: list(videos) for task, videos in tasks.items()}
    asking: dict[Video, list[str]] = {}
    for task, videos in tasks.items():
        for video in videos:
            asking.setdefault(video, []).append(task)
    turn = sorted(asking, key=lambda video: (-len(asking[video]), -loads[video].cost))
    several = [video for video in turn if len(asking[video]) > 1]
    best = _dealt(tasks, loads, ranks, asking, turn)
    shuffle = random.Random(0).shuffle  # noqa: S311 - no secret
    for _ in range(_ORDERS):
        if not parted(best, ranks):
            break
        shuffle(several)
        other = _dealt(tasks, loads, ranks, asking, several + turn[len(several) :])
        best = min(best, other, key=lambda order: parted(order, ranks))
    return best


def parted(order: Mapping[str, Sequence[Any]], ranks: int) -> int:
    """How many videos are played by more than one rank, with these rows."""
    played: dict[Any, set[int]] = {}
    for videos in order.values():
        for row, video in enumerate(videos):
            played.setdefault(video, set()).add(row % ranks)
    return sum(len(by) > 1 for by in played.values())


def _dealt(
    tasks: Mapping[str, Sequence[Video]],
    loads: Mapping[Video, Load],
    ranks: int,
    asking: Mapping[Video, Sequence[str]],
    turn: Sequence[Video],
) -> dict[str, list[Video]]:
    """The rows when the videos choose in this order."""
    rows = {
        (task, rank): list(range(rank, len(videos), ranks))[::-1]
        for task, videos in tasks.items()
        for rank in range(ranks)
    }
    order: dict[str, list[Video]] = {task: list(videos) for task, videos in tasks.items()}
    busy = [0] * ranks
    for video in turn:
        free = [rank for rank in range(ranks) if all(rows[task, rank] for task in asking[video])]
        together = min(free, key=busy.__getitem__, default=None)
        for task in asking[video]:
            rank = together
            if rank is None:  # no rank has a row left in all of them
                rank = min((r for r in range(ranks) if rows[task, r]), key=busy.__getitem__)
            order[task][rows[task, rank].pop()] = video
            busy[rank] += loads[video].cost // len(asking[video])
    return order


def length_s(path: str) -> float:
    """Seconds that a video's header claims; 0 if it has none, or cannot be read: playing it will tell why."""
    import av

    try:
        with av.open(path) as container:
            return (container.duration or 0) / av.time_base
    except (av.error.FFmpegError, OSError):
        return 0.0
