"""Feeds video files to a streaming model, forward only, and asks questions on the way."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stc_lmms.engine.api import Answer, FrameSelection, Generation, Stream, StreamingModel
from stc_lmms.errors import VideoError
from stc_lmms.video.decode import AGAIN, open_video

PAST_END_S = 1.0  # annotators round question times up to the next second


@dataclass(frozen=True)
class Clip:
    """What a question sees: frames of `path` with start_s <= t < end_s (None: to the end)."""

    path: str
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True)
class Note:
    """A remark on an answer, in one line, and whether its question was past the end of the video."""

    text: str = ""
    past_end: bool = False


class VideoSession:
    """One open video and its stream; a later question about the same video reads only the rest.

    An earlier question, or another video, opens a new stream. A video that failed is not tried again.
    `restarts` counts how often a clip was read from its start again.

    Args:
        model: answers the questions.
        opener: replaces `open_video`.
    """

    def __init__(self, model: StreamingModel, opener: Callable[..., Any] | None = None):
        self.model, self._opener = model, opener
        self._video: Any = None
        self._stream: Stream | None = None
        self._clip: Clip | None = None
        self._broken: dict[tuple[str, float], tuple[float, Exception]] = {}
        self._decode_ms = 0.0
        self._question = ""  # the question passed to `Stream.watch`
        self._opened: set[tuple[str, float]] = set()
        self.restarts = 0

    def ask(
        self, prompt: str, clip: Clip, generation: Generation, search: str | None = None
    ) -> tuple[Answer, Note]:
        """Observe up to the end of the clip or video, then answer; arguments as for `Stream.ask`.

        Raises:
            VideoError: the video cannot be read, has no frame in the clip, or ends before the clip because
                the file is cut short.
            Exception: whatever the model raised. If it did so while observing, later questions about this
                video raise the same at once, without decoding it again.
        """
        self._observe_clip(clip)
        try:
            answer = self._stream.ask(prompt, generation, search=search)
        except Exception:
            self.close()  # the state of the stream is unknown
            raise
        return self._with_decoding(answer), self._note(clip)

    def poll(self, question: str, clip: Clip) -> tuple[Answer, Note]:
        """Observe up to the end of the clip; then `Yes` or `No`: did the model decide to answer?

        The model must be proactive. Only decisions since the last poll of the same question count.

        Args:
            question: the model watches for its answer from the start of the clip.
            clip: as for `ask`, and so are the errors.
        """
        self._observe_clip(clip, question)
        return self._with_decoding(self._stream.poll()), self._note(clip)

    def _observe_clip(self, clip: Clip, question: str = "") -> None:
        source = (clip.path, clip.start_s)
        since_s, error = self._broken.get(source, (math.inf, None))
        if error is not None and _end(clip) >= since_s:
            raise error
        since_s = -math.inf  # a video that does not open fails for every question
        try:
            if not self._continues(clip) or (question and question != self._question):
                self._open(clip)
            if question and question != self._question:
                self._stream.watch(question)
                self._question = question
            since_s = _end(clip)
            self._advance(clip)
        except Exception as error:
            self._broken[source] = (since_s, error)
            self.close()
            raise
        if self._stream.position_s == -math.inf:  # not a broken video: a later question may have frames
            end = "its end" if clip.end_s is None else f"{clip.end_s:g} s"
            raise VideoError(f"{clip.path}: no frame between {clip.start_s:g} s and {end}")

    def _with_decoding(self, answer: Answer) -> Answer:
        spent, self._decode_ms = self._video.decode_ms - self._decode_ms, self._video.decode_ms
        return replace(answer, efficiency=replace(answer.efficiency, decode_ms=spent))

    def close(self) -> None:
        """Close the video and drop the stream."""
        if self._video is not None:
            self._video.close()
        self._video = self._stream = self._clip = None

    def _continues(self, clip: Clip) -> bool:
        if self.model.select_frames is not None:  # its frames depend on the clip's end
            return clip == self._clip
        if self._clip is None or (self._clip.path, self._clip.start_s) != (clip.path, clip.start_s):
            return False
        return _end(clip) >= _end(self._clip)

    def _open(self, clip: Clip) -> None:
        self.close()
        self.restarts += (clip.path, clip.start_s) in self._opened
        self._opened.add((clip.path, clip.start_s))
        settings, selection = self.model.settings, None
        options: dict[str, Any] = {
            "fps": settings.fps,
            "start_s": clip.start_s,
            "decoder": settings.decoder,
            "timeout_s": settings.decode_timeout_s,
            "exact": self.model.exact_grid,
        }
        if self.model.select_frames is not None:
            options["times_s"], selection = self._selection(clip, options)
        self._video = (self._opener or open_video)(clip.path, **options)
        self._stream = self.model.open_stream()
        if selection is not None:
            self._stream.begin_clip(selection)
        self._decode_ms, self._question = 0.0, ""

    def _selection(self, clip: Clip, options: dict[str, Any]) -> tuple[tuple[float, ...], FrameSelection]:
        """Times of the frames that the model selects for a clip, and the selection for its stream."""
        with open_video(clip.path, **options) as video:
            count, rate = video.n_frames, video.avg_fps
        if count is None or rate is None:
            why = "the file does not state its number of frames, so they cannot be spread over a clip"
            raise VideoError(f"{clip.path}: {why}; use grid=fixed")
        whole = clip.start_s == 0 and clip.end_s is None
        span = None if whole else (clip.start_s, clip.end_s or count / rate)
        times_s = tuple(round(index / rate, 6) for index in self.model.select_frames(count, rate, span))
        return times_s, FrameSelection(len(times_s), clip.start_s, rate)

    def _advance(self, clip: Clip) -> None:
        """Observe in groups, so that only one group of frames is held at a time."""
        self._clip = clip
        frames: list[np.ndarray] = []
        times_s: list[float] = []
        for time_s, frame in self._video.read(clip.end_s):
            frames.append(frame)
            times_s.append(time_s)
            if len(frames) == self.model.settings.prefill_frames:
                self._stream.observe(np.stack(frames), times_s)
                frames, times_s = [], []
        if frames:
            self._stream.observe(np.stack(frames), times_s)
        if self._video.ended and self._video.cut_short:  # before the end of the clip
            raise VideoError(f"{clip.path}: {self._video.cut_short}; {AGAIN}")

    def _note(self, clip: Clip) -> Note:
        video = self._video
        lines = [line.removeprefix(f"{video.path}: ") for line in video.warnings]
        past_end = clip.end_s is not None and video.ended and clip.end_s > video.duration_s + PAST_END_S
        if past_end:
            lines.append(f"question past the video's end at {video.duration_s:.1f} s: asked at its end")
        return Note("; ".join(lines), past_end)


def _end(clip: Clip) -> float:
    return math.inf if clip.end_s is None else clip.end_s
