"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL as streaming models.

Stock modules, run group by group: tower and merger (`qwen_vl_slices.py`), token method, prefill. Every
token gets its three positions from us (`ops/mrope.py`), with the rule of the training, and a token that a
method keeps stays where it is. Nothing goes through `generate` or `get_rope_index`: continuing a stream with
them means something else in every version of transformers.

A stream is one growing video in the checkpoint's chat template, so `method=none` gives the logits of the
stock `forward` with the training positions. In Qwen3-VL every slice is a video of its own behind its time
stamp.

Shapes: L tokens, M tokens of a group, D width of the LLM, V vocabulary.
"""

import dataclasses
import math
import time
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from stc_lmms import compat, compat_qwen_vl
from stc_lmms.config import Settings
from stc_lmms.engine.api import (
    Answer,
    Generation,
    Progress,
    Stream,
    StreamingModel,
    check_frames,
    check_length,
    checkpoint,
    open_device,
)
from stc_lmms.engine.decoding import Decoded, greedy, repetition_penalty
from stc_lmms.engine.graphs import UNKNOWN_ROLE, CudaCapture
from stc_lmms.engine.timers import Efficiency, StageClock, environment, peak_memory_bytes
from stc_lmms.errors import CheckpointError
from stc_lmms.memory.base import Reader
from stc_lmms.methods.budget import Usage, usage
from stc_lmms.models.qwen_vl.config import check_fit, check_settings, has_stamps, time_stride
from stc_lmms.models.qwen_vl.encoder import FramePairEncoder
from stc_lmms.ops.attention import kernel
from stc_lmms.ops.mrope import FramePair, MropePositions
from stc_lmms.ops.positions import PositionedEmbeds
from stc_lmms.ops.transfer import to_device
from stc_lmms.towers import Patches, open_tower

# LiveCC's protocol for benchmarks (`evaluation/distributed_mcq_predictor.py`).
CHOICES_OPENING = "The answer is:\n"
CHOICES = ("No", "Yes", *"0123456789", *"ABCDE")
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"


class QwenVL(StreamingModel):
    """A loaded Qwen-VL checkpoint.

    Args:
        settings: validated model arguments; `pretrained` is a local folder or a hub id.

    Raises:
        CheckpointError, SettingsError: see `check_settings` and `compat.load_weights`.
    """

    model_type: ClassVar[str]  # transformers' name of the family
    exact_grid = True

    def __init__(self, settings: Settings):
        self.check(settings)
        device = open_device(settings.device)
        processor = compat_qwen_vl.load_processor(checkpoint(settings), settings.revision)
        dtype: Any = settings.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype)
        if dtype == "auto" and device.type == "cpu":
            dtype = torch.float32
        model = compat.load_weights(
            compat_qwen_vl.model_class(self.model_type),
            checkpoint(settings),
            dtype=dtype,
            attn_implementation=settings.attn_implementation,
            revision=settings.revision,
        ).to(device)
        self._assemble(settings, model, processor)

    @classmethod
    def check(cls, settings: Settings) -> None:
        """See `StreamingModel.check`."""
        check_settings(settings, cls.model_type)

    @classmethod
    def from_parts(cls, settings: Settings, model: PreTrainedModel, processor: Any) -> "QwenVL":
        """The same model around the parts of a stock model that are there already.

        Args:
            settings: as for the constructor; what concerns loading is not looked at but echoed.
            model: the stock model in eval mode, on its device, in its dtype; shared, never changed.
            processor: has `tokenizer`, `apply_chat_template`, `video_token` and `video_processor` as the
                stock processor does.

        Raises:
            SettingsError: the method or the memory does not fit the model.
        """
        check_fit(settings, model.config)
        self = cls.__new__(cls)
        self._assemble(settings, model, processor)
        return self

    def with_settings(self, settings: Settings) -> "QwenVL":
        """See `StreamingModel.with_settings`."""
        return self.from_parts(settings, self.model, self.processor)

    def _assemble(self, settings: Settings, model: PreTrainedModel, processor: Any) -> None:
        config = model.config
        self.settings, self.model, self.processor = settings, model, processor
        self.options = settings.build_model_options()
        self.device, self.dtype = model.device, model.dtype
        self.tower = open_tower(model.model.visual)
        self.token_side: int = config.vision_config.patch_size * config.vision_config.spatial_merge_size
        self.llm = compat_qwen_vl.MropeLanguageModel(model)
        self.method, self.memory = settings.build_method(), settings.build_memory()
        self.stride = time_stride(config, settings.fps)
        self.stamps = has_stamps(config)
        self.video_id: int = config.video_token_id
        self.eos_ids = compat.eos_ids(model, processor.tokenizer)
        self.capture = CudaCapture(self.device, settings.cuda_graphs)
        tower = self.method.tower
        if not self.capture.reason:  # what is known before any frame must not be reported as graphed
            if self.tower.taps:
                self.capture.reason = "deepstack features leave the tower in several places"
            elif tower is not None and tower.role(tower.open_state()) is None:
                self.capture.reason = UNKNOWN_ROLE

    def open_stream(self) -> "QwenVLStream":
        """A new, empty stream."""
        return QwenVLStream(self)

    def describe(self) -> dict[str, Any]:
        """See `StreamingModel.describe`."""
        return {
            "execution": "batched" if self.method.tower is None else "grouped",
            "launch": "eager" if self.capture.reason else "graph for single slices",
            "launch_reason": self.capture.reason,
            "attention": f"tower sdpa, llm {self.settings.attn_implementation}",
            "memory_attention": kernel(self.device.type, self.dtype)[1]
            if self.memory.runs_attention
            else None,
            "dtype": str(self.dtype).removeprefix("torch."),
            "context_limit": self.model.config.text_config.max_position_embeddings,
            "environment": environment(self.device),
        }

    def patches(self, resized: Tensor) -> Patches:
        """Frames uint8 [2*S,3,h,w] of the final size to the tower's input, by the checkpoint's processor."""
        out = self.processor.video_processor(
            videos=[resized], return_tensors="pt", do_resize=False, do_sample_frames=False
        )
        rows = to_device(out["pixel_values_videos"], self.device, self.dtype)
        return Patches(rows, out["video_grid_thw"])

    def prompt_parts(self, question: str) -> tuple[str, str]:
        """What stands before and behind the video when `question` is asked."""
        content = [{"type": "video"}, {"type": "text", "text": question}]
        before, after = self.split_at_video([{"role": "user", "content": content}])
        if self.stamps:  # every slice brings its own marks
            before, after = before.removesuffix(VISION_START), after.removeprefix(VISION_END)
        return before, after

    def split_at_video(self, messages: list[dict[str, Any]]) -> tuple[str, str]:
        """The chat template filled in, cut where the video goes.

        Raises:
            CheckpointError: the template has no place for a video.
        """
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        before, found, after = text.partition(self.processor.video_token)
        if not found:
            raise CheckpointError(
                f"the chat template of {self.settings.pretrained!r} has no place for a video"
            )
        return before, after

    def ids(self, text: str) -> list[int]:
        """Token ids of a piece of prompt, without added special tokens."""
        return self.processor.tokenizer(text, add_special_tokens=False).input_ids

    def embed(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Embeddings [L,D]."""
        return self.llm.embed(to_device(ids, self.device, torch.long))

    def decode(
        self,
        reader: Reader,
        prompt: PositionedEmbeds,
        course: MropePositions,
        generation: Generation,
        adjust: Any,
    ) -> Decoded:
        """Greedy decoding behind `prompt`; `course` goes on with every token that is fed."""
        return greedy(
            reader,
            prompt,
            lambda ids: course.text(self.embed(ids)),
            lambda ids: self.processor.tokenizer.decode(ids, skip_special_tokens=True),
            self.eos_ids,
            generation,
            adjust,
        )


class QwenVLStream(Stream):
    """One video in a `QwenVL` model."""

    def __init__(self, model: QwenVL):
        self.model = model
        self.clock = StageClock(model.device)
        self.encoder = FramePairEncoder(model, self.clock)
        self.memory = model.memory.open(model.llm)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.memory.close()
        self.memory = self.model.memory.open(self.model.llm)
        self.encoder.reset()
        self.frame_selection = None
        self.times_s: list[float] = []
        self._course, self._slices = MropePositions(), 0
        self._seen: set[int] = set()  # ids that stand in the context
        self.clock.take()
        self._billed = (0, 0, 0, 0)

    @property
    def position_s(self) -> float:
        """Time stamp of the newest frame."""
        return self.times_s[-1] if self.times_s else -math.inf

    @property
    def kept(self) -> list[int]:
        """LLM tokens of every slice given out so far."""
        return self.encoder.kept

    @property
    def nbytes(self) -> int:
        """KV cache, tower references, method state."""
        return self.memory.nbytes + self.encoder.nbytes

    @property
    def progress(self) -> Progress:
        """See `Stream.progress`; tokens are those of a slice."""
        encoder = self.encoder
        recomputed = encoder.recomputed / encoder.tower_tokens if encoder.tower_tokens else 1.0
        return Progress(len(self.times_s), usage(encoder.kept).mean, recomputed)

    @torch.no_grad()
    def observe(self, frames: np.ndarray, times_s: Sequence[float]) -> None:
        """See `Stream.observe`; a frame without a partner waits for the next one."""
        check_frames(frames, times_s, self.position_s, again=self.frame_selection is not None)
        check_length(self.model.settings.max_frames, len(self.times_s) + len(frames))
        for slices in self.encoder.observe(frames, times_s):
            with self.clock.stage("prefill_ms"):
                self.prefill(slices)
        self.times_s.extend(times_s)

    def prefill(self, slices: Sequence[FramePair]) -> None:
        """Append the next slices to the memory."""
        self._begin()
        if not slices:
            return
        pieces = self._place(self._course, slices, self._slices, self._seen)
        self._slices += len(slices)
        self.memory.append(PositionedEmbeds.join(pieces), [len(piece) for piece in pieces])

    def _begin(self) -> None:
        if self.memory.length == 0:
            ids = self.model.ids(self.model.prompt_parts("")[0])
            self._seen.update(ids)
            self.memory.begin(self._course.text(self.model.embed(ids)))

    def _place(
        self, course: MropePositions, slices: Sequence[FramePair], number: int, seen: set[int]
    ) -> list[PositionedEmbeds]:
        """The slices `number`.. of the video with all that belongs to them; `seen` gets the ids."""
        model = self.model
        seen.update([model.video_id] * len(slices))
        if not model.stamps:
            return [course.slice(one, int(n * model.stride)) for n, one in enumerate(slices, number)]
        pieces = []
        for one in slices:
            before, behind = model.ids(f"<{one.time_s:.1f} seconds>{VISION_START}"), model.ids(VISION_END)
            seen.update(before, behind)
            pieces.append(course.stamped(one, model.embed(before), model.embed(behind)))
        return pieces

    @torch.no_grad()
    def ask(
        self,
        question: str,
        generation: Generation = Generation(),  # noqa: B008 - frozen
        *,
        search: str | None = None,
    ) -> Answer:
        """See `Stream.ask`.

        The time to the first token holds what the question alone needs encoded: an odd last frame.
        """
        model = self.model
        with self.clock.stage("prefill_ms"):
            self._begin()
        kv_bytes, state_bytes = self.memory.nbytes, self.nbytes
        choices = model.options.answer == "choices"
        opening = CHOICES_OPENING if choices else generation.opening
        self.clock.wait()  # the time to the first token begins with the question
        start = time.perf_counter()
        prompt, course, kept, seen = self._question(question, opening)
        penalty = model.options.repetition_penalty
        with self.memory.ask() as reader:
            prompt_ms = (time.perf_counter() - start) * 1e3  # what is queued still is waited for below
            if choices:
                decoded = self._choose(reader, prompt, seen)
            else:
                decoded = model.decode(
                    reader,
                    prompt,
                    course,
                    generation,
                    lambda logits, ids: repetition_penalty(logits, seen.union(ids), penalty),
                )
            context_tokens = reader.context_tokens + len(prompt)
        efficiency = dataclasses.replace(
            self._take_costs(usage([*self.kept, *kept])),
            ttft_ms=prompt_ms + decoded.ttft_ms,
            per_token_ms=decoded.per_token_ms,
            new_tokens=len(decoded.token_ids),
            context_tokens=context_tokens,
            kv_bytes=kv_bytes,
            archive_bytes=self.memory.archive_nbytes,
            state_bytes=state_bytes,
            peak_memory_bytes=peak_memory_bytes(model.device),
        )
        return Answer(decoded.text, decoded.token_ids, efficiency)

    def _choose(self, reader: Reader, prompt: PositionedEmbeds, seen: Collection[int]) -> Decoded:
        """The candidate whose last token is the likeliest; nothing is generated."""
        ids = [self.model.ids("\n" + word)[-1] for word in CHOICES]

        def only(logits: Tensor, _: object) -> Tensor:
            allowed = torch.full_like(logits, -torch.inf)
            allowed[ids] = logits[ids]
            return allowed

        decoded = self.model.decode(reader, prompt, MropePositions(), Generation(max_new_tokens=1), only)
        (token,) = decoded.token_ids
        return dataclasses.replace(decoded, text=CHOICES[ids.index(token)])

    @torch.no_grad()
    def question_embeds(self, question: str, opening: str = "") -> PositionedEmbeds:
        """All that comes behind the memory: slices not given out yet, question, the answer's opening."""
        return self._question(question, opening)[0]

    def _question(
        self, question: str, opening: str
    ) -> tuple[PositionedEmbeds, MropePositions, list[int], set[int]]:
        """That, the places that go on behind it, the tokens of its slices, and all ids up to there."""
        model = self.model
        course = self._course.copy(first=int(self.memory.forgotten_frames * model.stride))
        slices = self.encoder.peek()
        ids = model.ids(model.prompt_parts(question)[1] + opening)
        seen = self._seen | set(ids)
        pieces = self._place(course, slices, self._slices, seen)
        prompt = PositionedEmbeds.join([*pieces, course.text(model.embed(ids))])
        return prompt, course, [len(one.kept_K) for one in slices], seen

    def _take_costs(self, kept: Usage) -> Efficiency:
        """What the stream has done since the last bill."""
        encoder = self.encoder
        now = (len(self.times_s), encoder.tower_tokens, encoder.recomputed, encoder.graphed)
        frames, tower_tokens, recomputed, graphed = (a - b for a, b in zip(now, self._billed, strict=True))
        self._billed = now
        return Efficiency(
            frames_seen=len(self.times_s),
            frames_encoded=frames,
            frames_graphed=graphed,
            tower_tokens=tower_tokens,
            tower_tokens_recomputed=recomputed,
            llm_tokens_mean=kept.mean,
            llm_tokens_max=kept.maximum,
            **self.clock.take(),
        )


class Qwen2VL(QwenVL):
    """Qwen2-VL."""

    model_type = "qwen2_vl"


class Qwen2_5VL(QwenVL):
    """Qwen2.5-VL: windows in the tower, and places that count time."""

    model_type = "qwen2_5_vl"


class Qwen3VL(QwenVL):
    """Qwen3-VL: deepstack features, and a time stamp before every slice."""

    model_type = "qwen3_vl"
