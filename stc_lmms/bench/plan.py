"""Estimated cost of a benchmark: seconds and frames read, KV bytes, FLOPs.

Two protocols for the same questions. Chunks, as published: one clip per question, encoded from its start.
Streams, as in the tasks here: every video is played once and questions are asked meanwhile. The lengths of
the videos are unknown here, so a time past the end of a video (a typo such as 12450 s) counts in full.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stc_lmms.bench.shapes import ModelShape
from stc_lmms.bench.work import Workload, kv_bytes_per_token, stages
from stc_lmms.benchmarks.base import Row, rounds
from stc_lmms.benchmarks.registry import timed
from stc_lmms.errors import DataError
from stc_lmms.methods.spec import Method
from stc_lmms.suggest import unknown
from stc_lmms.video.sampling import Sampling

ALL = "all"  # all parts in one run: a video of several parts is played once


class Stream(NamedTuple):
    """A video played from `start_s` to `end_s`."""

    video: str
    start_s: float
    end_s: float


class Reading(NamedTuple):
    """What a part reads: clip seconds of every round, streams (one per video and start), question count."""

    chunks: tuple[float, ...]
    streams: tuple[Stream, ...]
    questions: int

    @property
    def videos(self) -> int:
        """Number of different videos."""
        return len({stream.video for stream in self.streams})

    @property
    def stream_lengths(self) -> tuple[float, ...]:
        """Length of every stream in seconds."""
        return tuple(stream.end_s - stream.start_s for stream in self.streams)

    @property
    def ratio(self) -> float:
        """Seconds of all chunks divided by seconds of all streams."""
        return sum(self.chunks) / sum(self.stream_lengths)


def load_parts(name: str, files: Sequence[Path]) -> dict[str, list[Row]]:
    """Rows of every part that the published question files (one, or one per part) contain.

    Raises:
        DataError: a file is malformed, or the benchmark is unknown.
    """
    if name not in timed():
        raise DataError(unknown("benchmark", name, timed()))
    benchmark = timed()[name]
    annotations = [annotation for file in files for annotation in benchmark.load_annotations(file)]
    parts = {part: benchmark.build_rows(annotations, part) for part in benchmark.parts}
    return {part: rows for part, rows in parts.items() if rows}


def reading(rows: Iterable[Row]) -> Reading:
    """What the rows read in both protocols.

    All polls of a proactive question count, as if it was never answered; each is a chunk.

    Raises:
        DataError: there are no rounds.
    """
    chunks: list[float] = []
    ends: dict[tuple[str, float], float] = {}
    questions = 0
    for row in rows:
        questions += len(row["questions"])
        for clip in rounds(row):  # plain iteration never answers a poll with yes
            chunks.append(clip.end_s - clip.start_s)
            key = row["video"], clip.start_s
            ends[key] = max(ends.get(key, clip.end_s), clip.end_s)
    if not chunks:
        raise DataError(f"nothing to read: none of the {questions} questions has a time at which it is asked")
    streams = tuple(Stream(video, start_s, end_s) for (video, start_s), end_s in ends.items())
    return Reading(tuple(chunks), streams, questions)


def frames(seconds: float, fps: float) -> int:
    """Number of frames of a clip: those at 0, 1/fps, 2/fps, ... before its end."""
    return Sampling(0.0, 1 / fps).count_before(seconds)


def plan(
    parts: Mapping[str, Sequence[Row]], shape: ModelShape, methods: Sequence[Method], fps: float
) -> dict[str, Any]:
    """All numbers of the tables as JSON values; `ALL` is added if there are several parts.

    Returns:
        `parts`: name -> questions, videos, seconds and frames per protocol, and `methods` with KV bytes and
        FLOPs (None for a method without a cost model).
    """
    found = {name: reading(rows) for name, rows in parts.items()}
    if len(found) > 1:
        found[ALL] = reading(row for rows in parts.values() for row in rows)
    costs = {method.name: ClipCosts(shape, method) for method in methods}
    return {
        "fps": fps,
        "tokens_per_frame": shape.tokens_per_frame,
        "kv_bytes_per_token": kv_bytes_per_token(shape),
        "parts": {name: _part(part, costs, fps) for name, part in found.items()},
    }


class ClipCosts:
    """Tokens kept per frame (`kept`), their KV bytes (`frame_bytes`) and FLOPs of clips with one method."""

    def __init__(self, shape: ModelShape, method: Method):
        self.shape, self.method = shape, method
        self.kept: int = getattr(method.token, "token_budget", shape.tokens_per_frame)
        self.frame_bytes = self.kept * kv_bytes_per_token(shape)

    def flops(self, frame_counts: Iterable[int]) -> dict[str, int] | None:
        """Sum over clips of `vit` and `prefill`; None for a method without a cost model."""
        total = {"vit": 0, "prefill": 0}
        for count, clips in Counter(frame_counts).items():
            # A single group: FLOPs do not depend on the grouping.
            work = stages(self.shape, self.method, Workload(count, max(count, 1), 0, 0))
            if work is None:
                return None
            total = {stage: n + clips * work[f"{stage}_ms"].flops for stage, n in total.items()}
        return total


def _part(part: Reading, costs: Mapping[str, ClipCosts], fps: float) -> dict[str, Any]:
    lengths = sorted(part.stream_lengths, reverse=True)
    chunk_frames = [frames(seconds, fps) for seconds in part.chunks]
    stream_frames = [frames(seconds, fps) for seconds in lengths]
    longest = max(part.streams, key=lambda stream: stream.end_s - stream.start_s)
    return {
        "questions": part.questions,
        "videos": part.videos,
        "chunks": {"clips": len(part.chunks), "seconds": sum(part.chunks), "frames": sum(chunk_frames)},
        "streams": {"clips": len(lengths), "seconds": sum(lengths), "frames": sum(stream_frames)},
        "ratio": part.ratio,
        "longest": {"video": longest.video, "seconds": lengths[0], "next_seconds": [*lengths, None][1]},
        "methods": {
            name: {
                "tokens_per_frame": cost.kept,
                "kv_bytes_largest": max(stream_frames) * cost.frame_bytes,
                "kv_bytes_sum": sum(stream_frames) * cost.frame_bytes,
                "flops_chunks": cost.flops(chunk_frames),
                "flops_streams": cost.flops(stream_frames),
            }
            for name, cost in costs.items()
        },
    }
