"""The streaming interface: what the harness, the live command and the latency card know of a model.

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
from stc_lmms.errors import CheckpointError, SettingsError

_NO_COMMENTS = "model {!r} does not comment; use --model livecc"


@dataclass(frozen=True)
class Generation:
    """How to answer. Decoding is greedy.

    Attributes:
        stop: strings that end the answer once it holds more than white space; not part of it.
        opening: words that the answer is made to begin with; its text is what follows them.
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
    """What a stream has observed."""

    frames: int
    llm_tokens_mean: float  # kept per frame
    recomputed: float  # share of the tower tokens that were computed, not reused


@dataclass(frozen=True)
class FrameSelection:
    """A clip whose frames were chosen by `StreamingModel.select_frames`."""

    frames: int  # repetitions included
    start_s: float
    avg_fps: float  # of the video


class Stream(ABC):
    """Everything one video has left in a model."""

    frame_selection: FrameSelection | None = None  # see `begin_clip`; None when frames come at a fixed rate

    @property
    @abstractmethod
    def position_s(self) -> float:
        """Time stamp of the newest frame in seconds, -inf before the first."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all state on the device: KV cache, tower references, method state."""

    @property
    @abstractmethod
    def progress(self) -> Progress:
        """What it has observed so far."""

    def begin_clip(self, selection: FrameSelection) -> None:
        """Announce that the frames to come were selected; a frame may then repeat, with its time stamp.

        Must be called before the first frame of a new stream.
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
            StcError: more frames than `max_frames`, or frames that the model cannot take.
        """

    @abstractmethod
    def ask(
        self, question: str, generation: Generation = Generation(), *, search: str | None = None
    ) -> Answer:
        """Answer from the frames observed so far; leaves the stream as it was.

        Args:
            question: the whole prompt, with options and instructions.
            generation: limit, stop strings and opening.
            search: query of a memory that retrieves, such as the bare question; None: `question`.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget everything; the next frame is the first of a new video."""


@dataclass(frozen=True)
class Decision:
    """A proactive stream's decision about the question it watches for."""

    time_s: float  # time stamp of the newest frame seen
    logit: float  # above 0 to answer now

    @property
    def speaks(self) -> bool:
        """Whether to answer now."""
        return self.logit > 0


class ProactiveStream(Stream):
    """A stream that decides by itself when to answer a question asked earlier."""

    @abstractmethod
    def watch(self, question: str, on_decision: Callable[[Decision], None] | None = None) -> None:
        """Watch for a question from now on; replaces an earlier one.

        Args:
            question: the instruction, such as "say when the kettle boils".
            on_decision: called within `observe` at every decision, when the stream has seen exactly the
                frames that it was made on; it may call `speak`.
        """

    @abstractmethod
    def should_speak(self) -> bool:
        """Whether the newest decision was to answer, and `speak` has not been called since."""

    @abstractmethod
    def poll(self) -> Answer:
        """`Yes` or `No`: whether a decision since the last poll was to answer; with what it cost."""

    @abstractmethod
    def speak(self, generation: Generation = Generation()) -> Answer:
        """Answer the question watched for; the model knows when it was answered before.

        An empty text means that the model has nothing to say after all.

        Raises:
            StcError: no question is watched for, or no frame has come.
        """


@dataclass(frozen=True)
class Comment:
    """What a model said about one step of a video."""

    start_s: float  # of the step
    end_s: float  # when the comment is made
    text: str  # without the pause at its end; empty for silence
    goes_on: bool  # whether the speaker has not finished
    token_ids: tuple[int, ...]  # the end token included

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, without the token ids."""
        return {name: getattr(self, name) for name in ("start_s", "end_s", "text", "goes_on")}


class CommentaryStream(Stream):
    """A stream that comments on its video: `observe` appends to `comments` at the end of every step."""

    comments: list[Comment]


class StreamingModel(ABC):
    """A loaded model. It holds no stream state; any number of streams may be open.

    Args:
        settings: validated model arguments; `check` is called before weights are loaded.

    Attributes:
        proactive: whether its streams are `ProactiveStream`s.
        exact_grid: whether it counts seconds and so needs a frame every 1 / fps seconds, not every n-th.
        select_frames: if the model samples frames separately for every question: (frames of the video, frame
            rate, start and end in seconds or None for the whole video) to frame indices in order, which may
            repeat. None: a fixed rate of `fps`.

    Raises:
        CheckpointError, SettingsError: see `check`; or the weights cannot be loaded.
    """

    settings: Settings
    proactive: bool = False
    exact_grid: bool = False
    select_frames: Callable[[int, float, tuple[float, float] | None], list[int]] | None = None

    @abstractmethod
    def __init__(self, settings: Settings): ...

    @classmethod
    @abstractmethod
    def check(cls, settings: Settings) -> None:
        """Read the checkpoint's config and refuse settings that do not fit it; loads no weights.

        Raises:
            CheckpointError: no such checkpoint, or one of another model.
            SettingsError: method, memory or an option does not fit, such as a budget above a frame's tokens.
        """

    @abstractmethod
    def with_settings(self, settings: Settings) -> Self:
        """A model on the same weights, for instance with another method; this one is unchanged.

        `pretrained`, `revision`, `dtype`, `device` and `attn_implementation` must be the present ones.

        Raises:
            SettingsError: method, memory or an option does not fit.
        """

    @abstractmethod
    def open_stream(self) -> Stream:
        """A new, empty stream."""

    @classmethod
    def check_commentary(cls, settings: Settings) -> None:
        """Raise `SettingsError` if the model cannot comment with these settings, or at all."""
        raise SettingsError(_NO_COMMENTS.format(settings.model))

    def open_commentary(self, task: str = "", max_new_tokens: int = 16) -> CommentaryStream:
        """A new, empty stream that comments on its video.

        Args:
            task: the instruction, such as "describe the video"; empty: the model's default.
            max_new_tokens: limit of one comment.

        Raises:
            SettingsError: see `check_commentary`.
        """
        raise SettingsError(_NO_COMMENTS.format(self.settings.model))

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """How it runs; part of every result.

        Execution, attention, dtype, device and versions, and `launch`: `eager` (with its `launch_reason`)
        or graphs, as it really happens.
        """


def check_frames(
    frames: np.ndarray, times_s: Sequence[float], position_s: float, may_repeat: bool = False
) -> None:
    """Raise `ValueError` unless frames fit `Stream.observe`; with `may_repeat`, time stamps may repeat."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 [F,H,W,3], got {frames.dtype} {list(frames.shape)}")
    if len(times_s) != len(frames):
        raise ValueError(f"{len(frames)} frames but {len(times_s)} time stamps")
    for time_s in times_s:
        if not (time_s > position_s or (may_repeat and time_s == position_s)):
            raise ValueError(f"time {time_s} s is not after {position_s} s: a stream only goes forward")
        position_s = time_s


def checkpoint(settings: Settings) -> str:
    """Folder or hub id of the weights; files of `pretrained=demo` are checked on first use."""
    return str(demo_folder(settings.pretrained)) if is_demo(settings.pretrained) else settings.pretrained


def open_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first CUDA device if there is one, else the CPU.

    Raises:
        SettingsError: torch knows no such device.
        CheckpointError: there is no such CUDA device.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingsError(f"device={name!r} is not a device; use auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise CheckpointError(
                f"device={name} was requested, but torch sees no CUDA device; use device=cpu"
            )
        if (device.index or 0) >= torch.cuda.device_count():
            raise CheckpointError(f"device={name} was requested, but there are {torch.cuda.device_count()}")
    return device
