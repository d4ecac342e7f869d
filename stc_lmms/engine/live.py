"""Anytime answering: frames go in as they arrive, questions are answered at their times, nothing waits.

A question at t sees the frames before t, as everywhere in this package.
"""

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from stc_lmms.engine.api import Answer, Decision, Generation, Progress, StreamingModel
from stc_lmms.errors import SettingsError
from stc_lmms.video.live import LiveSource


@dataclass(frozen=True)
class Schedule:
    """What to ask when: each question at each time.

    Attributes:
        questions: their texts.
        every_s: period in seconds, or None.
        at_s: single times in seconds. Without these and a period, all is asked at the end.

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
        """(time in s, question) in order of time; infinity is the end of the source."""
        if self.every_s is not None:
            times: Iterable[float] = (self.every_s * n for n in itertools.count(1))
        else:
            times = sorted(self.at_s) or [math.inf]
        return ((time_s, question) for time_s in times for question in self.questions)


@dataclass(frozen=True)
class Told:
    """One question along a live stream.

    Attributes:
        time_s: stream time of the question, or at which the model spoke by itself.
        question: its text.
        answer: the model's answer, None if it could not be asked.
        failed: why not, else empty.
    """

    time_s: float
    question: str
    answer: Answer | None = None
    failed: str = ""


@dataclass(frozen=True)
class Status:
    """The state of a live stream after a group of frames.

    Attributes:
        time_s: time stamp of the newest frame.
        ms_per_frame: mean time from a frame's turn to its end in the model, of the last group.
        progress: what the stream has taken in.
        nbytes: bytes of its state.
        dropped, backlog: frames left out so far, and the most that ever waited.
    """

    time_s: float
    ms_per_frame: float
    progress: Progress
    nbytes: int
    dropped: int
    backlog: int


def play(
    model: StreamingModel,
    source: LiveSource,
    schedule: Schedule,
    generation: Generation,
    watch: str | None = None,
) -> Iterator[Told | Status]:
    """Observe the source until it ends, and answer on the way.

    Args:
        model: must be proactive if something is watched for.
        source: gives the frames.
        schedule: what to ask when.
        generation: how to answer.
        watch: a question that the model answers whenever it decides to.

    Yields:
        A `Status` after every group of frames, and a `Told` for every question, when its time has come or
        the source has ended before.
    """
    if model.select_frames is not None:
        raise SettingsError(
            "frames cannot be spread over a live stream, whose end is not known; use grid=fixed"
        )
    stream = model.open_stream()
    spoken: list[Told] = []
    speaking_s = 0.0

    def decided(decision: Decision) -> None:
        nonlocal speaking_s
        if decision.speaks:
            start = time.perf_counter()
            answer = stream.speak(generation)
            speaking_s += time.perf_counter() - start
            if answer.text.strip():
                spoken.append(Told(decision.time_s, watch, answer))

    if watch is not None:
        stream.watch(watch, decided)
    asks, never = iter(schedule), (math.nan, "")
    upcoming = next(asks, never)

    def due(until_s: float) -> Iterator[Told]:
        nonlocal upcoming
        while upcoming[0] <= until_s:
            ask, upcoming = upcoming, next(asks, never)
            if stream.position_s > -math.inf:
                yield Told(*ask, stream.ask(ask[1], generation))
            else:
                yield Told(*ask, failed="no frame had come")

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
            yield Status(
                stream.position_s,
                spent_ms,
                stream.progress,
                stream.nbytes,
                source.n_dropped,
                source.longest_backlog,
            )
    # The last frame stays on screen for one step of the grid: a question within it has seen all it can.
    yield from due(math.inf if upcoming[0] == math.inf else stream.position_s + source.grid.step_s)
    if schedule.every_s is None and upcoming is not never:
        yield from (Told(*ask, failed="the source had ended") for ask in (upcoming, *asks))
