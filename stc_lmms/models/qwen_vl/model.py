"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL as streaming models.

Groups of frame pairs run through tower and merger (`encoder.py`), token method and prefill. Every token has
the three position ids (`ops/mrope.py`) of the training, whichever tokens a method drops. `generate` and
`get_rope_index` are not used: how they continue a stream depends on the version of transformers.

A stream is one growing video in the checkpoint's chat template, so `method=none` gives the logits of the
stock `forward`. In Qwen3-VL every pair is a video of its own after its time stamp.
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
from stc_lmms.engine.api import Generation, checkpoint
from stc_lmms.engine.decoding import Decoded, repetition_penalty
from stc_lmms.engine.model import LoadedModel, load_stock
from stc_lmms.engine.stream import ModelStream, Question
from stc_lmms.memory.base import Reader
from stc_lmms.methods.budget import usage
from stc_lmms.models.qwen_vl.config import check_fit, time_stride
from stc_lmms.models.qwen_vl.encoder import FramePairEncoder
from stc_lmms.models.qwen_vl.options import QwenVLOptions
from stc_lmms.models.qwen_vl.prompt import CHOICES, CHOICES_OPENING, VISION_END, VISION_START, stamp
from stc_lmms.ops.mrope import FramePair, MropePositions
from stc_lmms.ops.positions import PositionedEmbeds
from stc_lmms.ops.transfer import to_device
from stc_lmms.towers import Patches, open_tower


class QwenVLStream(ModelStream):
    """One video in a `QwenVL` model."""

    model: "QwenVL"
    encoder: FramePairEncoder

    def open_encoder(self) -> FramePairEncoder:
        return FramePairEncoder(self.clock, self.model)

    def start(self) -> None:
        self.positions, self._pairs = MropePositions(), 0
        self.kept = self.encoder.kept
        self.seen_ids: set[int] = set()  # in the context, for the repetition penalty

    @property
    def group_frames(self) -> int:
        return max(2, super().group_frames // 2 * 2)

    def take_in(self, frames: np.ndarray, times_s: Sequence[float]) -> None:
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
        """Frame pairs from number `first` on, positioned; advances `positions` and adds to `seen_ids`."""
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
        return self.model.prompt_parts(question)[1]

    def question(self, question: str, generation: Generation, search: str) -> Question:
        model, options = self.model, self.model.options
        opening = CHOICES_OPENING if options.answer == "choices" else generation.opening
        positions = self.positions.copy(first=int(self.memory.forgotten_frames * model.stride))
        pairs = self.encoder.peek()
        ids = model.ids(self.question_text(question) + opening)
        seen_ids = self.seen_ids | set(ids)
        pieces = self.positioned(pairs, positions, self._pairs, seen_ids)

        def adjust(logits: Tensor, ids: Sequence[int]) -> Tensor:
            return repetition_penalty(logits, seen_ids.union(ids), options.repetition_penalty)

        prompt = PositionedEmbeds.join([*pieces, positions.text(model.embed(ids))])
        read = usage([*self.kept, *(len(pair.kept_K) for pair in pairs)])
        return Question(self.memory, prompt, read, positions, adjust=adjust)

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
    """A loaded Qwen-VL checkpoint; its parts are the stock model and its processor."""

    stream_class = QwenVLStream
    check_fit = staticmethod(check_fit)
    model_type: ClassVar[str]  # transformers' name of the family
    graph_unit = "frame pairs"
    exact_grid = True
    options: QwenVLOptions

    @classmethod
    def read_config(cls, settings: Settings) -> Any:
        compat_qwen_vl.model_class(cls.model_type)  # this version of transformers may not have it
        return compat.load_config(checkpoint(settings), cls.model_type, settings.revision)

    @classmethod
    def load(cls, settings: Settings, dtype: str | torch.dtype, device: torch.device) -> tuple[Any, Any]:
        return load_stock(compat_qwen_vl.model_class(cls.model_type), settings, dtype, device)

    def assemble(self, model: PreTrainedModel, processor: Any) -> None:
        config = model.config
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self.tower, self.llm = open_tower(model.model.visual), compat_qwen_vl.MropeLanguageModel(model)
        self.context_limit = config.text_config.max_position_embeddings
        self.stride = time_stride(config, self.settings.fps)
        self.stamps = config.model_type == "qwen3_vl"  # a time stamp before every pair
        self.video_id: int = config.video_token_id
        self.eos_ids = compat.eos_ids(model, self.tokenizer)

    def eager_reason(self) -> str:
        return "deepstack features leave the tower in several places" if self.tower.taps else ""

    def patches(self, resized: Tensor) -> Patches:
        """Frames uint8 [2*S,3,h,w] of the final size to the tower's input, by the checkpoint's processor."""
        arguments = {"return_tensors": "pt", "do_resize": False, "do_sample_frames": False}
        out = self.processor.video_processor(videos=[resized], **arguments)
        rows = to_device(out["pixel_values_videos"], self.device, self.dtype)
        return Patches(rows, out["video_grid_thw"])

    def prompt_parts(self, question: str) -> tuple[str, str]:
        """Text before and after the video when `question` is asked."""
        content = [{"type": "video"}, {"type": "text", "text": question}]
        before, after = compat.split_at_video(self.processor, content)
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
