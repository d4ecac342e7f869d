"""LiveCC's commentary: one comment per second of video.

Source: LiveCC (arXiv 2504.16030) and its demo. The first step reads three seconds of video, each further one
a second. A step is a turn of a chat: "Time=3.0-4.0s", the video of that time, and the model's comment, which
stays in the context. Comments end with " ..." while the speaker has not finished; " ..." alone is silence. As
in the demo, the last token of a comment is never fed: the next step brings the end of the turn, but the last
token of a comment that the limit cut off is lost.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stc_lmms import compat
from stc_lmms.engine.api import Comment, CommentaryStream, Generation
from stc_lmms.engine.decoding import Decoded, repetition_penalty
from stc_lmms.engine.stream import ModelStream, Question
from stc_lmms.errors import StcError
from stc_lmms.models.livecc.prompt import PAUSE, next_turn, spoken
from stc_lmms.models.qwen_vl.model import QwenVL, QwenVLStream
from stc_lmms.ops.mrope import FramePair
from stc_lmms.ops.positions import PositionedEmbeds
from stc_lmms.video.sampling import TOLERANCE_S

FIRST_S, STEP_S = 3, 1


class Commentary(QwenVLStream, CommentaryStream):
    """One video and the comments on it.

    A step with missing frames ends with its time; one without any frame is left out. A question is another
    turn after the complete steps, which sees no frames of a later one.
    """

    def __init__(self, model: QwenVL, task: str, max_new_tokens: int):
        self.task, self._generation = task, Generation(max_new_tokens)
        super().__init__(model)

    def start(self) -> None:
        super().start()
        self.comments: list[Comment] = []
        self.position_ids: Tensor | None = None  # of the newest step, [3,L]
        self.steps = 0
        self._images: list[np.ndarray] = []  # of the step that is filling
        self._step_times_s: list[float] = []
        self._start_s, self._end_s = 0.0, -np.inf  # of that step

    def take_in(self, frames: np.ndarray, times_s: Sequence[float]) -> None:
        frame_s = 1 / self.model.settings.fps
        for image, time_s in zip(frames, times_s, strict=True):
            if self._end_s == -np.inf:
                self._start_s, self._end_s = time_s, time_s + FIRST_S
            if self._images and time_s > self._end_s - TOLERANCE_S:
                self._comment()
            while time_s > self._end_s - TOLERANCE_S:
                self._next_step()
            self._images.append(image)
            self._step_times_s.append(time_s)
            if time_s + frame_s > self._end_s - TOLERANCE_S:  # the next frame belongs to the next step
                self._comment()

    def _next_step(self) -> None:
        self._start_s, self._end_s = self._end_s, self._end_s + STEP_S
        self._images, self._step_times_s = [], []

    def _comment(self) -> None:
        start_s, end_s = self._start_s, self._end_s
        # A pair is two frames; where dropped live frames leave an odd number, the last is doubled.
        odd = len(self._images) % 2
        frames = np.stack(self._images + self._images[-1:] * odd)
        times_s = self._step_times_s + self._step_times_s[-1:] * odd
        self._next_step()
        pairs: list[FramePair] = []
        for start in range(0, len(frames), self.group_frames):
            part = slice(start, start + self.group_frames)
            pairs += self.encoder.observe(frames[part], times_s[part])
        before, after = self.prompt(f"Time={start_s:.1f}-{end_s:.1f}s")
        decoded = self.advance(self.model.ids(before), pairs, self.model.ids(after))
        ids = decoded.token_ids + (() if decoded.end_id is None else (decoded.end_id,))
        self.comments.append(Comment(start_s, end_s, *spoken(decoded.text), ids))

    def prompt(self, label: str) -> tuple[str, str]:
        """Text before and after the video of the next step."""
        content = [{"type": "text", "text": label}, {"type": "video"}]
        if not self.steps:
            content.append({"type": "text", "text": self.task})
        before, after = compat.split_at_video(self.model.processor, content)
        return next_turn(before) if self.steps else before, after

    @torch.no_grad()
    def advance(
        self,
        before_ids: Sequence[int],
        pairs: Sequence[FramePair],
        after_ids: Sequence[int],
        trace: list[Tensor] | None = None,
    ) -> Decoded:
        """Take in a step (text, video, text) and comment on it; `trace` gets the raw logits [V] of tokens.

        Raises:
            StcError: the context is full.
        """
        model, positions, options = self.model, self.positions, self.model.options
        if self.memory.length > model.context_limit:
            raise StcError(
                f"the commentary is longer than the {model.context_limit} tokens that the model is made for"
            )
        flat = options.positions == "livecc" and self.steps > 0
        pieces = [positions.text(model.embed(before_ids))]
        for number, pair in enumerate(pairs):
            pieces.append(positions.text(pair.tokens_KD) if flat else positions.slice(pair, number))
        prompt = PositionedEmbeds.join([*pieces, positions.text(model.embed(after_ids))])
        self.position_ids = prompt.position_ids_AL
        self.seen_ids.update(before_ids, after_ids, [model.video_id] if pairs else [])
        self.steps += 1

        def adjust(logits: Tensor, ids: Sequence[int]) -> Tensor:
            if trace is not None:
                trace.append(logits)
            logits = repetition_penalty(logits, self.seen_ids.union(ids), options.repetition_penalty)
            return self.rule_out_silence(logits, len(ids))

        asked = Question(self.memory, prompt, self.usage(), positions, adjust=adjust)
        decoded = ModelStream.decode(self, self.memory, asked, self._generation)  # whatever `answer` is
        fed = decoded.token_ids if decoded.end_id is not None else decoded.token_ids[:-1]
        self.seen_ids.update(fed)
        return decoded

    def rule_out_silence(self, logits: Tensor, number: int) -> Tensor:
        """Logits [V] of token `number` of a comment; the pause is ruled out where it is not likely enough."""
        options = self.model.options
        if options.silence_base is None:
            return logits
        pause = self.model.ids(PAUSE)[-1]
        likely = logits.softmax(-1)[pause] > options.silence_base + number * options.silence_step
        ruled = logits.clone()
        ruled[pause].masked_fill_(~likely, -torch.inf)  # decided on the device: the host need not wait for it
        return ruled

    def begin(self) -> None:
        """The first step or question brings the text before the video."""

    def question_text(self, question: str) -> str:
        turn = [{"role": "user", "content": [{"type": "text", "text": question}]}]
        text = self.model.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        return next_turn(text) if self.steps else text
