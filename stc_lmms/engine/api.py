"""The streaming interface: all that a harness, the live command and the latency card know of a model.

Invariants (tested for every model and method):
  (a) causality: changing frames after t changes no answer at t;
  (b) asking leaves the stream as it was;
  (c) streams of one model are independent;
  (d) `method=none` equals the plain transformers model;
  (e) observing in pieces of any size gives the same tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from stc_lmms.config import Settings
from stc_lmms.demo.pretrained import demo_folder, is_demo
from stc_lmms.engine.timers import Efficiency
from stc_lmms.errors import CheckpointError, SettingsError, StcError


@dataclass(frozen=True)
class Generation:
    """How to answer. Decoding is greedy.

    Attributes:
        max_new_tokens: at most so many tokens.
        stop: the answer ends before any of these, once it holds more than white space.
        opening: words that the model's answer begins with; it goes on from there, and the text of the
            answer is what follows them.
    """

    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    opening: str = ""


@dataclass(frozen=True)
class Answer:
    """An answer and what it cost."""

    text: str
    token_ids: tuple[int, ...]
    efficiency: Efficiency


@dataclass(frozen=True)
class Progress:
    """How far a stream has come.

    Attributes:
        frames: frames observed.
        llm_tokens_mean: LLM tokens kept per frame.
        recomputed: share of the tower tokens that were computed, not reused.
    """

    frames: int
    llm_tokens_mean: float
    recomputed: float


@dataclass(frozen=True)
class FrameSelection:
    """A clip whose frames the model chose by `StreamingModel.select_frames`.

    Attributes:
        frames: how many it chose, a frame that it chose twice included.
        start_s: where the clip starts, in seconds.
        avg_fps: frame rate of the video.
    """

    frames: int
    start_s: float
    avg_fps: float


class Stream(ABC):
    """Everything one video has left in a model.

    Attributes:
        frame_selection: what `begin_clip` was given; None when frames come at a fixed rate.
    """

    frame_selection: FrameSelection | None = None

    @property
    @abstractmethod
    def position_s(self) -> float:
        """Time stamp of the newest frame in seconds, -inf before the first."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all state: KV cache, tower references, method state."""

    @property
    @abstractmethod
    def progress(self) -> Progress:
        """What it has taken in so far."""

    def begin_clip(self, selection: FrameSelection) -> None:
        """Be told, before the first frame of a new stream, that all frames to come are those of a spread.

        Then a frame may come again, with the same time stamp.
        """
        self.frame_selection = selection

    @abstractmethod
    def observe(self, frames: np.ndarray, times_s: Sequence[float]) -> None:
        """Take in the next frames.

        Args:
            frames: uint8 RGB [F,H,W,3], any F including 0.
            times_s: F increasing time stamps in seconds, all after `position_s`; see `begin_clip`.

        Raises:
            ValueError: wrong shape or dtype, or times that go back.
        """

    @abstractmethod
    def ask(
        self, question: str, generation: Generation = Generation(), *, search: str | None = None
    ) -> Answer:
        """Answer from the frames observed so far; leaves the stream as it was.

        Args:
            question: the whole prompt, options and instructions included.
            generation: how to answer.
            search: what a memory that searches is searched by, such as the bare question; None is
                `question`.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget everything; the next frame is the first of a new video."""


@dataclass(frozen=True)
class Decision:
    """What a proactive stream made of the question that it watches for.

    Attributes:
        time_s: time stamp of the newest frame that it had seen.
        logit: it wants to answer if this is above 0.
    """

    time_s: float
    logit: float

    @property
    def speaks(self) -> bool:
        """Whether it wants to answer now."""
        return self.logit > 0


class ProactiveStream(Stream):
    """A stream that decides by itself when to answer a question that was asked before."""

    @abstractmethod
    def watch(self, question: str, on_decision: Callable[[Decision], None] | None = None) -> None:
        """Watch for a question from now on, instead of an earlier one.

        Args:
            question: the instruction, such as "say when the kettle boils".
            on_decision: called within `observe` at every decision, while the stream has seen exactly the
                frames that it was made on; it may call `speak`.
        """

    @abstractmethod
    def should_speak(self) -> bool:
        """Whether the newest decision was to answer, and `speak` has not been called since."""

    @abstractmethod
    def poll(self) -> Answer:
        """`Yes` or `No`: whether a decision since the last poll was to answer; with what it cost to know."""

    @abstractmethod
    def speak(self, generation: Generation = Generation()) -> Answer:
        """Answer the question that is watched for, knowing the moments it was answered at before.

        An empty text means that the model has nothing to say after all.

        Raises:
            StcError: nothing is watched for, or no frame has come.
        """


@dataclass(frozen=True)
class Comment:
    """What a model said about one step of a video.

    Attributes:
        start_s: start of the step in seconds.
        end_s: its end, at which the comment is made.
        text: the comment, without the pause at its end; empty for silence.
        goes_on: whether the speaker has not finished.
        token_ids: all tokens generated, the end token included.
    """

    start_s: float
    end_s: float
    text: str
    goes_on: bool
    token_ids: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, without the token ids."""
        return {name: getattr(self, name) for name in ("start_s", "end_s", "text", "goes_on")}


class CommentaryStream(Stream):
    """A stream that comments on its video step by step.

    Attributes:
        comments: all comments so far; `observe` appends one whenever a step is complete.
    """

    comments: list[Comment]


class StreamingModel(ABC):
    """A loaded model. It holds no stream state; any number of streams may be open.

    Args:
        settings: validated model arguments; loading the weights calls `check` first.

    Raises:
        CheckpointError, SettingsError: see `check`; or the weights cannot be loaded.
    """

    settings: Settings
    proactive: bool = False  # its streams are `ProactiveStream`s
    exact_grid: bool = False  # counts seconds: frames every 1 / fps seconds, not every so many frames
    # Where a model samples every question's clip anew: (number of frames of the video, their rate, start and
    # end in seconds or None for the whole video) to indices of frames, in order; one that repeats is seen
    # again. None: the fixed grid of `fps`.
    select_frames: Callable[[int, float, tuple[float, float] | None], list[int]] | None = None

    @abstractmethod
    def __init__(self, settings: Settings): ...

    @classmethod
    @abstractmethod
    def check(cls, settings: Settings) -> None:
        """Read the checkpoint's config and refuse settings that do not fit it; loads no weights.

        Raises:
            CheckpointError: no such checkpoint, or one of another model.
            SettingsError: method, memory or an option does not fit, for instance a budget above the tokens
                that a frame has.
        """

    @abstractmethod
    def with_settings(self, settings: Settings) -> Self:
        """A model on the same weights, for instance with another method; this one stays as it is.

        Args:
            settings: what concerns loading (`pretrained`, `revision`, `dtype`, `device`,
                `attn_implementation`) is as in the present ones.

        Raises:
            SettingsError: method, memory or an option does not fit.
        """

    @abstractmethod
    def open_stream(self) -> Stream:
        """A new, empty stream."""

    @classmethod
    def check_commentary(cls, settings: Settings) -> None:
        """Refuse settings that the model cannot comment with.

        Raises:
            SettingsError: they do not fit a commentary, or the model cannot comment at all.
        """
        raise SettingsError(f"model {settings.model!r} does not comment; use --model livecc")

    def open_commentary(self, task: str = "", max_new_tokens: int = 16) -> CommentaryStream:
        """A new, empty stream that comments on its video.

        Args:
            task: what the model is asked to do, such as "describe the video"; empty: its own default.
            max_new_tokens: limit of one comment.

        Raises:
            SettingsError: see `check_commentary`.
        """
        self.check_commentary(self.settings)
        raise NotImplementedError

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """How it runs; part of every result.

        Execution, attention, dtype, device and versions, and `launch` (`eager` or `graph`: what happens,
        not what was asked for) with its `launch_reason`.
        """


def check_frames(
    frames: np.ndarray, times_s: Sequence[float], position_s: float, may_repeat: bool = False
) -> None:
    """Raise `ValueError` unless the arguments fit `Stream.observe`.

    Args:
        frames: see `Stream.observe`.
        times_s: likewise.
        position_s: time stamp of the newest frame observed.
        may_repeat: a time stamp may equal the one before.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 [F,H,W,3], got {frames.dtype} {list(frames.shape)}")
    if len(times_s) != len(frames):
        raise ValueError(f"{len(frames)} frames but {len(times_s)} time stamps")
    for time_s in times_s:
        if not (time_s > position_s or (may_repeat and time_s == position_s)):
            raise ValueError(
                f"time {time_s} s does not come after {position_s} s: a stream only goes forward"
            )
        position_s = time_s


def check_length(max_frames: int | None, frames: int) -> None:
    """Raise `StcError` if a stream of so many frames is longer than the settings allow."""
    if max_frames is not None and frames > max_frames:
        raise StcError(
            f"the stream is longer than max_frames={max_frames}; raise it or sample at a lower fps"
        )


def checkpoint(settings: Settings) -> str:
    """Folder or hub id of the weights; the files of `demo` are checked on first use."""
    return str(demo_folder(settings.pretrained)) if is_demo(settings.pretrained) else settings.pretrained


def open_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first CUDA device if there is one, else the CPU.

    Raises:
        SettingsError: torch knows no such device.
        CheckpointError: a CUDA device was asked for and is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingsError(f"device={name!r} is not a device; use auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise CheckpointError(
                f"device={name} was asked for, but torch sees no CUDA device; use device=cpu"
            )
        if (device.index or 0) >= torch.cuda.device_count():
            raise CheckpointError(f"device={name} was asked for, but there are {torch.cuda.device_count()}")
    return device
