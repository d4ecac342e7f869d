"""Live streams: frames go in as they arrive, and questions are answered at their times.

A question at t sees the frames before t, as everywhere in this package.
"""

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from stc_lmms.engine import api
from stc_lmms.errors import SettingsError
from stc_lmms.video.live import LiveSource


@dataclass(frozen=True)
class Schedule:
    """When to ask what: every question at every time; without times and a period, at the end.

    Attributes:
        every_s: period in seconds, or None.
        at_s: times in seconds.

    Raises:
        SettingsError: a time or the period is not a positive number, both are given, or there is no question.
    """

    questions: tuple[str, ...]
    every_s: float | None = None
    at_s: tuple[float, ...] = ()

    def __post_init__(self):
        """Check the times."""
        if not self.questions and (self.every_s is not None or self.at_s):
            raise SettingsError("--every and --at say when to ask; give --ask, too")
        if self.every_s is not None and self.at_s:
            raise SettingsError("give either --every or --at, not both")
        if self.every_s is not None and not (math.isfinite(self.every_s) and self.every_s > 0):
            raise SettingsError(f"--every {self.every_s:g} must be a positive number of seconds")
        for time_s in self.at_s:
            if not (math.isfinite(time_s) and time_s > 0):
                raise SettingsError(f"--at {time_s:g} must be above 0: the first frame comes at 0 s")

    def __iter__(self) -> Iterator[tuple[float, str]]:
        """(time in seconds, question) in order of time; infinity is the end of the source."""
        if self.every_s is not None:
            times: Iterable[float] = (self.every_s * n for n in itertools.count(1))
        else:
            times = sorted(self.at_s) or [math.inf]
        return ((time_s, question) for time_s in times for question in self.questions)


@dataclass(frozen=True)
class Reply:
    """One question of a live stream and its answer."""

    time_s: float  # stream time of the question, or at which the model spoke by itself
    question: str
    answer: api.Answer | None = None  # None if the question could not be asked
    failed: str = ""  # why it could not be asked


@dataclass(frozen=True)
class Status:
    """The state of a live stream after a group of frames."""

    time_s: float  # time stamp of the newest frame
    ms_per_frame: float  # mean over the group
    progress: api.Progress
    nbytes: int
    dropped: int  # frames left out so far
    backlog: int  # the most frames that ever waited


def play(
    model: api.StreamingModel,
    source: LiveSource,
    schedule: Schedule,
    generation: api.Generation,
    watch: str | None = None,
) -> Iterator[Reply | Status]:
    """Observe a source until it ends, and answer questions at their times.

    A proactive model also answers the question `watch` whenever it decides to.

    Yields:
        A `Status` after every group of frames, and a `Reply` for every question: at its time, or once the
        source has ended before it.
    """
    if model.select_frames is not None:
        raise SettingsError("frames cannot be spread over a stream whose end is unknown; use grid=fixed")
    stream = model.open_stream()
    spoken: list[Reply] = []
    speaking_s = 0.0

    def decided(decision: api.Decision) -> None:
        nonlocal speaking_s
        if decision.speaks:
            start = time.perf_counter()
            answer = stream.speak(generation)
            speaking_s += time.perf_counter() - start
            if answer.text.strip():
                spoken.append(Reply(decision.time_s, watch, answer))

    if watch is not None:
        stream.watch(watch, decided)
    asks, never = iter(schedule), (math.nan, "")
    upcoming = next(asks, never)

    def due(until_s: float) -> Iterator[Reply]:
        nonlocal upcoming
        while upcoming[0] <= until_s:
            ask, upcoming = upcoming, next(asks, never)
            if stream.position_s > -math.inf:
                yield Reply(*ask, stream.ask(ask[1], generation))
            else:
                yield Reply(*ask, failed="no frame had come")

    for frames in source.waiting(model.settings.prefill_frames):
        while frames:
            yield from due(frames[0][0])
            group = [frame for frame in frames if not frame[0] >= upcoming[0]]
            frames = frames[len(group) :]
            start, speaking_s = time.perf_counter(), 0.0
            stream.observe(np.stack([image for _, image in group]), [time_s for time_s, _ in group])
            spent_ms = (time.perf_counter() - start - speaking_s) * 1e3 / len(group)
            yield from spoken
            spoken.clear()
            at_s, waits = stream.position_s, source.longest_backlog
            yield Status(at_s, spent_ms, stream.progress, stream.nbytes, source.n_dropped, waits)
    # The last frame lasts until the next would come: a question within that time has seen all it can.
    yield from due(math.inf if upcoming[0] == math.inf else stream.position_s + source.sampling.step_s)
    if schedule.every_s is None and upcoming is not never:
        yield from (Reply(*ask, failed="the source had ended") for ask in (upcoming, *asks))


def comments(stream: api.CommentaryStream, source: LiveSource, at_most: int) -> Iterator[api.Comment]:
    """Observe a source until it ends, taking at most `at_most` frames at once; yields complete comments."""
    for frames in source.waiting(at_most):
        for time_s, image in frames:
            before = len(stream.comments)
            stream.observe(image[None], [time_s])
            yield from stream.comments[before:]
