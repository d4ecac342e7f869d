"""Estimated cost of a benchmark: seconds and frames read, KV bytes, FLOPs.

Two protocols for the same questions. Chunks, as published: one clip per question, encoded from its start.
Streams, as in the tasks here: every video is played once and questions are asked meanwhile.

All times are those of the annotations. They are not clamped to the lengths of the videos, which are unknown
here, so a time past the end of a video counts in full (some annotations have typos such as 12450 s).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stc_lmms.bench.shapes import ModelShape
from stc_lmms.bench.work import Workload, kv_bytes_per_token, stages
from stc_lmms.benchmarks.base import Row, rounds
from stc_lmms.benchmarks.registry import timed
from stc_lmms.errors import DataError
from stc_lmms.methods.spec import Method
from stc_lmms.suggest import unknown
from stc_lmms.video.sampling import Sampling

ALL = "all"  # all parts in one run: a video of several parts is played once


@dataclass(frozen=True)
class Stream:
    """A video played from `start_s` to `end_s`."""

    video: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Reading:
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
    """Rows of every part that the question files contain.

    Args:
        name: a benchmark whose questions have times.
        files: published question files; some benchmarks have one per part.

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
        for asked in rounds(row):  # plain iteration never answers a poll with yes
            chunks.append(asked.end_s - asked.start_s)
            key = row["video"], asked.start_s
            ends[key] = max(ends.get(key, asked.end_s), asked.end_s)
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
    """All numbers of the tables as JSON values.

    Args:
        parts: rows by part; if there are several, `ALL` is added.
        shape: the model.
        methods: compression methods with their hyper-parameters.
        fps: frames sampled per second.

    Returns:
        `parts`: name -> questions, videos, seconds and frames per protocol, and `methods` with KV bytes and
        FLOPs (None for a method without a cost model).
    """
    found = {name: reading(rows) for name, rows in parts.items()}
    if len(found) > 1:
        found[ALL] = reading(row for rows in parts.values() for row in rows)
    costs = {method.name: _Costs(shape, method) for method in methods}
    return {
        "fps": fps,
        "tokens_per_frame": shape.tokens_per_frame,
        "kv_bytes_per_token": kv_bytes_per_token(shape),
        "parts": {name: _part(part, costs, fps) for name, part in found.items()},
    }


class _Costs:
    """FLOPs and KV bytes of clips with one method; clips of equal length are computed once."""

    def __init__(self, shape: ModelShape, method: Method):
        self.kept = getattr(method.token, "token_budget", shape.tokens_per_frame)
        self.frame_bytes = self.kept * kv_bytes_per_token(shape)

        @cache
        def flops(count: int) -> tuple[int, int] | None:
            # A single group: FLOPs do not depend on the grouping.
            found = stages(shape, method, Workload(count, max(count, 1), 0, 0))
            return None if found is None else (found["vit_ms"].flops, found["prefill_ms"].flops)

        self._flops = flops

    def flops(self, counts: Iterable[int]) -> dict[str, int] | None:
        """Sum over clips with these numbers of frames."""
        found = [self._flops(count) for count in counts]
        if None in found:
            return None
        vit, prefill = (sum(values) for values in zip(*found, strict=True))
        return {"vit": vit, "prefill": prefill}


def _part(part: Reading, costs: Mapping[str, _Costs], fps: float) -> dict[str, Any]:
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
        "longest": {
            "video": longest.video,
            "seconds": lengths[0],
            "next_seconds": (lengths[1:] or [None])[0],
        },
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
