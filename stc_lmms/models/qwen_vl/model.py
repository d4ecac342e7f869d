"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL as streaming models.

Stock modules run on groups of frame pairs: tower and merger (`encoder.py`), token method, prefill. We give
every token its three position ids (`ops/mrope.py`) by the rule of the training, and a token that a method
keeps stays where it was. Nothing goes through `generate` or `get_rope_index`: continuing a stream with them
means something else in every version of transformers.

A stream is one growing video in the checkpoint's chat template, so `method=none` gives the logits of the
stock `forward` at the positions of the training. In Qwen3-VL every pair is a video of its own after its time
stamp.

Shapes: L tokens, D width of the LLM, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from stc_lmms import compat, compat_qwen_vl
from stc_lmms.config import Settings
from stc_lmms.engine.api import Generation
from stc_lmms.engine.decoding import Decoded, repetition_penalty
from stc_lmms.engine.model import LoadedModel, load_stock
from stc_lmms.engine.stream import ModelStream, Question
from stc_lmms.memory.base import Reader
from stc_lmms.methods.budget import Usage, usage
from stc_lmms.models.qwen_vl.config import check_fit, check_settings, has_stamps, time_stride
from stc_lmms.models.qwen_vl.encoder import FramePairEncoder
from stc_lmms.models.qwen_vl.options import QwenVLOptions
from stc_lmms.models.qwen_vl.prompt import CHOICES, CHOICES_OPENING, VISION_END, VISION_START, stamp
from stc_lmms.ops.mrope import FramePair, MropePositions
from stc_lmms.ops.positions import PositionedEmbeds
from stc_lmms.ops.transfer import to_device
from stc_lmms.towers import Patches, open_tower


class QwenVLStream(ModelStream):
    """One video in a `QwenVL` model.

    Attributes:
        positions: counts up the position ids of the stream.
        seen_ids: token ids in the context, for the repetition penalty.
    """

    model: "QwenVL"
    encoder: FramePairEncoder

    def open_encoder(self) -> FramePairEncoder:
        model = self.model
        return FramePairEncoder(
            self.clock, model.capture, model.tower, model.method, model.options, model.patches
        )

    def start(self) -> None:
        self.positions, self._pairs = MropePositions(), 0
        self.seen_ids: set[int] = set()

    @property
    def kept(self) -> list[int]:
        """LLM tokens of every frame pair in the memory."""
        return self.encoder.kept

    @property
    def group_frames(self) -> int:
        """Whole pairs."""
        return max(2, super().group_frames // 2 * 2)

    def usage(self) -> Usage:
        """LLM tokens per frame pair."""
        return usage(self.kept)

    def take_in(self, frames: np.ndarray, times_s: Sequence[float]) -> None:
        """A frame without a partner waits for the next one."""
        pairs = self.encoder.observe(frames, times_s)
        if pairs:
            self.begin()
            with self.clock.stage("prefill_ms"):
                pieces = self.positioned(pairs, self.positions, self._pairs, self.seen_ids)
                self._pairs += len(pairs)
                self.memory.append(PositionedEmbeds.join(pieces), [len(piece) for piece in pieces])

    def prefix(self) -> PositionedEmbeds:
        ids = self.model.ids(self.model.prompt_parts("")[0])
        self.seen_ids.update(ids)
        return self.positions.text(self.model.embed(ids))

    def positioned(
        self, pairs: Sequence[FramePair], positions: MropePositions, first: int, seen_ids: set[int]
    ) -> list[PositionedEmbeds]:
        """Frame pairs with their position ids, and with their time stamps where the model reads them.

        Args:
            pairs: consecutive pairs.
            positions: where they begin; counts on.
            first: number of the first pair in the video.
            seen_ids: gets their token ids.
        """
        model = self.model
        seen_ids.update([model.video_id] * len(pairs))
        if not model.stamps:
            return [positions.slice(pair, int(n * model.stride)) for n, pair in enumerate(pairs, first)]
        pieces = []
        for pair in pairs:
            before, after = model.ids(stamp(pair.time_s)), model.ids(VISION_END)
            seen_ids.update(before, after)
            pieces.append(positions.stamped(pair, model.embed(before), model.embed(after)))
        return pieces

    def question_text(self, question: str) -> str:
        """Text between the video and the answer."""
        return self.model.prompt_parts(question)[1]

    def question(self, question: str, generation: Generation, search: str) -> Question:
        """Pairs not in the memory yet, an odd last frame, question, and the answer's opening."""
        model, options = self.model, self.model.options
        opening = CHOICES_OPENING if options.answer == "choices" else generation.opening
        positions = self.positions.copy(first=int(self.memory.forgotten_frames * model.stride))
        pairs = self.encoder.peek()
        ids = model.ids(self.question_text(question) + opening)
        seen_ids = self.seen_ids | set(ids)
        pieces = self.positioned(pairs, positions, self._pairs, seen_ids)
        return Question(
            self.memory,
            PositionedEmbeds.join([*pieces, positions.text(model.embed(ids))]),
            lambda ids: positions.text(model.embed(ids)),
            usage([*self.kept, *(len(pair.kept_K) for pair in pairs)]),
            adjust=lambda logits, ids: repetition_penalty(
                logits, seen_ids.union(ids), options.repetition_penalty
            ),
        )

    def decode(self, reader: Reader, question: Question, generation: Generation) -> Decoded:
        """With `answer=choices`, the most likely candidate by its last token; nothing is generated."""
        if self.model.options.answer != "choices":
            return super().decode(reader, question, generation)
        ids = [self.model.ids("\n" + word)[-1] for word in CHOICES]

        def only_choices(logits: Tensor, _: object) -> Tensor:
            allowed = torch.full_like(logits, -torch.inf)
            allowed[ids] = logits[ids]
            return allowed

        question = dataclasses.replace(question, adjust=only_choices)
        decoded = super().decode(reader, question, Generation(max_new_tokens=1))
        (token,) = decoded.token_ids
        return dataclasses.replace(decoded, text=CHOICES[ids.index(token)])


class QwenVL(LoadedModel):
    """A loaded Qwen-VL checkpoint; its parts are the stock model and its processor.

    The processor has `tokenizer`, `apply_chat_template`, `video_token` and `video_processor`.
    """

    stream_class = QwenVLStream
    check_fit = staticmethod(check_fit)
    model_type: ClassVar[str]  # transformers' name of the family
    graph_unit = "frame pairs"
    exact_grid = True
    options: QwenVLOptions

    @classmethod
    def check(cls, settings: Settings) -> None:
        check_settings(settings, cls.model_type)

    @classmethod
    def load(cls, settings: Settings, dtype: str | torch.dtype, device: torch.device) -> tuple[Any, Any]:
        return load_stock(compat_qwen_vl.model_class(cls.model_type), settings, dtype, device)

    def assemble(self, model: PreTrainedModel, processor: Any) -> None:
        config = model.config
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self.tower, self.llm = open_tower(model.model.visual), compat_qwen_vl.MropeLanguageModel(model)
        self.context_limit = config.text_config.max_position_embeddings
        self.stride = time_stride(config, self.settings.fps)
        self.stamps = has_stamps(config)
        self.video_id: int = config.video_token_id
        self.eos_ids = compat.eos_ids(model, self.tokenizer)

    def eager_reason(self) -> str:
        return "deepstack features leave the tower in several places" if self.tower.taps else ""

    def patches(self, resized: Tensor) -> Patches:
        """Frames uint8 [2*S,3,h,w] of the final size to the tower's input, by the checkpoint's processor."""
        out = self.processor.video_processor(
            videos=[resized], return_tensors="pt", do_resize=False, do_sample_frames=False
        )
        rows = to_device(out["pixel_values_videos"], self.device, self.dtype)
        return Patches(rows, out["video_grid_thw"])

    def split_at_video(self, content: list[dict[str, str]]) -> tuple[str, str]:
        """Text before and after the video of a user's turn in the chat template."""
        return compat.split_at_video(self.processor, [{"role": "user", "content": content}])

    def prompt_parts(self, question: str) -> tuple[str, str]:
        """Text before and after the video when `question` is asked."""
        before, after = self.split_at_video([{"type": "video"}, {"type": "text", "text": question}])
        if self.stamps:  # every pair brings its own marks
            before, after = before.removesuffix(VISION_START), after.removeprefix(VISION_END)
        return before, after


class Qwen2VL(QwenVL):
    """Qwen2-VL."""

    model_type = "qwen2_vl"


class Qwen2_5VL(QwenVL):
    """Qwen2.5-VL: windows in the tower, and position ids that count time."""

    model_type = "qwen2_5_vl"


class Qwen3VL(QwenVL):
    """Qwen3-VL: deepstack features, and a time stamp before every frame pair."""

    model_type = "qwen3_vl"
