"""Cuts a task's videos into shards of nearly equal cost. A video, with all its questions, is never cut."""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stc_lmms.benchmarks.base import NO_TIME_S, rounds

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


def by_benchmark(videos: Sequence[Video]) -> dict[str, list[str]]:
    """The videos as a shard file lists them."""
    listed: dict[str, list[str]] = {}
    for benchmark, name in videos:
        listed.setdefault(benchmark, []).append(name)
    return listed


def length_s(path: str) -> float:
    """Seconds that a video's header claims; 0 if it has none, or cannot be read: playing it will tell why."""
    import av

    try:
        with av.open(path) as container:
            return (container.duration or 0) / av.time_base
    except (av.error.FFmpegError, OSError):
        return 0.0
