"""LiveCC: a Qwen2-VL that comments on a video while it goes on, one second at a time.

Source: LiveCC (CVPR 2025, arXiv 2504.16030) and its demo. The first step reads three seconds, each further
one a second, by the video's time; a step is a turn of a chat: "Time=3.0-4.0s", the video of that time, and
the model's comment, which stays in the context. Comments end with " ..." while the speaker has not finished;
" ..." alone is silence. As in the demo, the last token of a comment is never fed: if it was the end of the
cos_sin, the next step brings it again; if the limit cut the comment off, that word is lost to the model.

Positions: with `mrope` every step's video has three axes, as in training; the demo (`livecc`) does so in the
first step only, and then counts up on all axes alike.

Questions are answered as in Qwen2-VL; the commentary is another stream, in which nothing is forgotten.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stc_lmms.config import Settings
from stc_lmms.engine.api import FrameSelection, Generation, check_frames, check_length
from stc_lmms.engine.decoding import Decoded, repetition_penalty
from stc_lmms.engine.timers import StageClock
from stc_lmms.errors import SettingsError, StcError
from stc_lmms.memory.full import Full, FullMemory
from stc_lmms.models.qwen_vl.config import clip_indices, clip_slice_tokens
from stc_lmms.models.qwen_vl.encoder import FramePairEncoder
from stc_lmms.models.qwen_vl.model import QwenVL, QwenVLStream
from stc_lmms.ops.mrope import FramePair, MropePositions
from stc_lmms.ops.positions import PositionedEmbeds
from stc_lmms.video.sampling import TOLERANCE_S

FIRST_S, STEP_S = 3, 1
QUERY = "Please describe the video."
PAUSE = " ..."
USER, END_OF_TURN = "<|im_start|>user", "<|im_end|>\n"


@dataclass(frozen=True)
class Comment:
    """What is said about one step.

    Attributes:
        start_s: of the step, in seconds.
        end_s: likewise; the comment follows it.
        text: what is said, without the pause at its end; empty for silence.
        goes_on: whether the speaker has not finished.
        token_ids: all that was generated, the end token included.
    """

    start_s: float
    end_s: float
    text: str
    goes_on: bool
    token_ids: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, without the ids."""
        return {name: getattr(self, name) for name in ("start_s", "end_s", "text", "goes_on")}


class LiveCC(QwenVL):
    """A loaded LiveCC checkpoint (a Qwen2-VL)."""

    model_type = "qwen2_vl"

    def _assemble(self, settings: Settings, *parts: Any) -> None:
        super()._assemble(settings, *parts)
        if self.options.grid == "released":
            self.select_frames = partial(clip_indices, max_frames=settings.max_frames)

    def open_stream(self) -> "LiveCCStream":
        """A new, empty stream."""
        return LiveCCStream(self)

    def open_commentary(self, query: str = QUERY, max_new_tokens: int = 16) -> "Commentary":
        """A new commentary.

        Args:
            query: what the model is asked to do, told once.
            max_new_tokens: of one comment; 16 is the demo's limit.

        Raises:
            SettingsError: see `check_commentary`.
        """
        check_commentary(self.settings)
        return Commentary(self, query, max_new_tokens)


class LiveCCStream(QwenVLStream):
    """One video in a `LiveCC` model."""

    def begin_clip(self, selection: FrameSelection) -> None:
        """See `Stream.expect`; how large frames become hangs on how many there are."""
        super().begin_clip(selection)
        self.encoder.slice_tokens = clip_slice_tokens(selection.frames)


def check_commentary(settings: Settings) -> None:
    """Refuse settings that LiveCC cannot comment with.

    Raises:
        SettingsError: a second has no even number of frames, the grid is not fixed, or the memory forgets.
    """
    if settings.model != "livecc":
        raise SettingsError(f"model {settings.model!r} does not comment; livecc does")
    if settings.build_model_options().grid != "fixed":
        raise SettingsError("grid=released reads whole clips, but a commentary goes on; use grid=fixed")
    if settings.fps % 2:
        raise SettingsError(
            f"fps={settings.fps:g} does not fit a commentary: a step is one second and a slice two frames, "
            "so fps must be even; LiveCC was trained at 2"
        )
    if settings.memory != "full" or settings.build_memory().runs_attention:
        raise SettingsError(
            f"memory={settings.memory} does not fit a commentary, which reads all that was said and seen; "
            "use full, without decode_prune"
        )
    token = settings.build_method().token
    if token is not None and token.delay_frames:
        raise SettingsError(
            f"method={settings.method} holds frames back, but a comment must see those of its second; "
            "use another method"
        )


class Commentary:
    """One video and what was said about it.

    Attributes:
        comments: all of them so far.
        positions: places of the tokens of the newest step on the three axes, [3,L].
    """

    def __init__(self, model: LiveCC, query: str, max_new_tokens: int):
        self.model, self.query = model, query
        self._generation = Generation(max_new_tokens)
        self.encoder = FramePairEncoder(model, StageClock(model.device))
        self.memory = FullMemory(model.llm, Full())
        self.comments: list[Comment] = []
        self.positions: Tensor | None = None
        self._course = MropePositions()
        self._seen: set[int] = set()
        self._steps = 0
        self._images: list[np.ndarray] = []  # of the step that is filling
        self._times_s: list[float] = []
        self._start_s, self._end_s = 0.0, -np.inf  # of that step
        self._position_s, self._frames = -np.inf, 0

    def observe(self, frames: np.ndarray, times_s: Sequence[float]) -> Iterator[Comment]:
        """Take in the next frames while it is iterated; yields a comment whenever a step is complete.

        Args:
            frames: uint8 RGB [F,H,W,3], sampled every `1 / fps` seconds of the model's settings.
            times_s: F increasing time stamps in seconds; steps count from the first. A step of which frames
                are missing ends with its time, and one without any is left out.

        Raises:
            ValueError: see `Stream.observe`.
            StcError: the frames change their size, are more than `max_frames`, or the context is full.
        """
        check_frames(frames, times_s, self._position_s)
        check_length(self.model.settings.max_frames, self._frames + len(frames))
        self._frames += len(frames)
        frame_s = 1 / self.model.settings.fps
        for image, time_s in zip(frames, times_s, strict=True):
            if self._position_s == -np.inf:
                self._start_s, self._end_s = time_s, time_s + FIRST_S
            if self._images and time_s > self._end_s - TOLERANCE_S:
                yield self._comment()
            while time_s > self._end_s - TOLERANCE_S:
                self._next_step()
            self._images.append(image)
            self._times_s.append(time_s)
            self._position_s = time_s
            if time_s + frame_s > self._end_s - TOLERANCE_S:  # the next frame is not in it
                yield self._comment()

    def _next_step(self) -> None:
        self._start_s, self._end_s = self._end_s, self._end_s + STEP_S
        self._images, self._times_s = [], []

    @torch.no_grad()
    def _comment(self) -> Comment:
        start_s, end_s = self._start_s, self._end_s
        # A slice is two frames; where dropped live frames leave an odd number, the last is doubled.
        odd = len(self._images) % 2
        frames = np.stack(self._images + self._images[-1:] * odd)
        times_s = self._times_s + self._times_s[-1:] * odd
        self._next_step()
        slices = [one for group in self.encoder.observe(frames, times_s) for one in group]
        before, behind = self.prompt(f"Time={start_s:.1f}-{end_s:.1f}s")
        decoded = self.advance(self.model.ids(before), slices, self.model.ids(behind))
        ids = decoded.token_ids + (() if decoded.end_id is None else (decoded.end_id,))
        comment = Comment(start_s, end_s, *spoken(decoded.text), ids)
        self.comments.append(comment)
        return comment

    def prompt(self, label: str) -> tuple[str, str]:
        """What stands before and behind the video of the next step."""
        content = [{"type": "text", "text": label}, {"type": "video"}]
        if not self._steps:
            content.append({"type": "text", "text": self.query})
        before, behind = self.model.split_at_video([{"role": "user", "content": content}])
        if self._steps:  # the template would tell the system's part again
            before = END_OF_TURN + before[before.index(USER) :]
        return before, behind

    @torch.no_grad()
    def advance(
        self,
        before_ids: Sequence[int],
        slices: Sequence[FramePair],
        behind_ids: Sequence[int],
        trace: list[Tensor] | None = None,
    ) -> Decoded:
        """Take in one step and comment on it.

        Args:
            before_ids: text before the video, from the end of the last turn on.
            slices: the video.
            behind_ids: text behind it.
            trace: gets the raw logits [V] of every token.
        """
        model, course, options = self.model, self._course, self.model.options
        limit = model.model.config.text_config.max_position_embeddings
        if self.memory.length > limit:
            raise StcError(f"the commentary is longer than the {limit} tokens that the model is made for")
        flat = options.positions == "livecc" and self._steps > 0
        pieces = [course.text(model.embed(before_ids))]
        pieces += [
            course.text(one.tokens_KD) if flat else course.slice(one, number)
            for number, one in enumerate(slices)
        ]
        prompt = PositionedEmbeds.join([*pieces, course.text(model.embed(behind_ids))])
        self.positions = prompt.position_ids_AL
        self._seen.update(before_ids, behind_ids, [model.video_id] if slices else [])
        self._steps += 1

        def adjust(logits: Tensor, ids: Sequence[int]) -> Tensor:
            if trace is not None:
                trace.append(logits)
            logits = repetition_penalty(logits, self._seen.union(ids), options.repetition_penalty)
            return self._without_silence(logits, len(ids))

        decoded = model.decode(self.memory, prompt, course, self._generation, adjust)
        fed = decoded.token_ids if decoded.end_id is not None else decoded.token_ids[:-1]
        self._seen.update(fed)
        return decoded

    def _without_silence(self, logits: Tensor, number: int) -> Tensor:
        """Logits of token `number` of a comment, with the pause ruled out where it is not likely enough."""
        options = self.model.options
        if options.silence_base is None:
            return logits
        pause = self.model.ids(PAUSE)[-1]
        likely = logits.softmax(-1)[pause] > options.silence_base + number * options.silence_step
        ruled = logits.clone()
        ruled[pause].masked_fill_(~likely, -torch.inf)  # decided on the device: the host need not wait for it
        return ruled


def spoken(text: str) -> tuple[str, bool]:
    """A generated text without the pause at its end (empty for silence), and whether it has one."""
    text, pause = text.strip(), PAUSE.strip()
    return text.removesuffix(pause).rstrip(), text.endswith(pause)


def caption(comments: Sequence[Comment]) -> str:
    """Comments as one text, joined as LiveCC's evaluation does; empty if nothing was said."""
    said = " ".join(comment.text for comment in comments if comment.text)
    return said + PAUSE.strip() if said else ""
