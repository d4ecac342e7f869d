"""LLaVA-OneVision as a streaming model.

Stock modules, run frame group by frame group: tower (an in-tower method may run it), projector, 2x2
pooling, token method, prefill. The video part of the prompt is a growing KV cache; a question is
prefilled behind it and cropped off again.

With `prompt=chat` the prompt is the checkpoint's chat template and the model's newline token ends the
video, so `method=none` gives the logits of the stock `forward`. With `prompt=rekv` it is the one of the
ReKV and STC drivers: another template and no newline.

Shapes: F frames, T tower tokens, N pooled tokens per frame, M kept tokens, D width of the LLM.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from stc_lmms import compat, compat_llm
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
from stc_lmms.engine.decoding import greedy
from stc_lmms.engine.encoder import FrameEncoder, note_unknown_role
from stc_lmms.engine.graphs import CudaCapture
from stc_lmms.engine.timers import Efficiency, StageClock, environment, peak_memory_bytes
from stc_lmms.errors import CheckpointError
from stc_lmms.methods.base import ATTENTION, Compressed, Context, whole
from stc_lmms.methods.budget import Usage, usage
from stc_lmms.models.llava_onevision.config import (
    check_fit,
    check_settings,
    patch_grid,
    tokens_per_frame,
)
from stc_lmms.ops.attention import kernel
from stc_lmms.ops.grid import halve, halved
from stc_lmms.ops.positions import ContiguousPositions, DensePositions, PositionedEmbeds
from stc_lmms.ops.transfer import to_device
from stc_lmms.towers import open_tower
from stc_lmms.towers.attention_scores import encode_with_last_input, received_in

REKV_PREFIX = "<|im_start|>system \nYou are a helpful assistant.<|im_end|><|im_start|>user "
REKV_SUFFIX = "\n{question}<|im_end|><|im_start|>assistant\n"


class LlavaOnevision(StreamingModel):
    """A loaded LLaVA-OneVision checkpoint.

    Args:
        settings: validated model arguments; `pretrained` is a local folder or a hub id.

    Raises:
        CheckpointError, SettingsError: see `check_settings` and `compat.load_weights`.
    """

    def __init__(self, settings: Settings):
        check_settings(settings)
        device = open_device(settings.device)
        processor = compat.load_processor(checkpoint(settings), settings.revision)
        dtype: Any = settings.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype)
        if dtype == "auto" and device.type == "cpu":
            dtype = torch.float32
        model = compat.load_weights(
            LlavaOnevisionForConditionalGeneration,
            checkpoint(settings),
            dtype=dtype,
            attn_implementation=settings.attn_implementation,
            revision=settings.revision,
        ).to(device)
        self._assemble(settings, model, processor)

    @classmethod
    def from_parts(
        cls, settings: Settings, model: LlavaOnevisionForConditionalGeneration, processor: Any
    ) -> "LlavaOnevision":
        """The same model around the parts of a stock model that are there already.

        Args:
            settings: as for the constructor; what concerns loading (`pretrained`, `revision`, `dtype`,
                `device`, `attn_implementation`) is not looked at but echoed, so it must be true.
            model: the stock model in eval mode, on its device, in its dtype; shared, never changed.
            processor: has `tokenizer`, `chat_template`, `video_token` and `video_processor` as the stock
                processor does.

        Raises:
            SettingsError: the method does not fit the model.
        """
        check_fit(settings, model.config)
        self = cls.__new__(cls)
        self._assemble(settings, model, processor)
        return self

    @classmethod
    def check(cls, settings: Settings) -> None:
        """See `StreamingModel.check`."""
        check_settings(settings)

    def with_settings(self, settings: Settings) -> "LlavaOnevision":
        """See `StreamingModel.with_settings`."""
        return self.from_parts(settings, self.model, self.processor)

    def _assemble(
        self, settings: Settings, model: LlavaOnevisionForConditionalGeneration, processor: Any
    ) -> None:
        config = model.config
        self.settings, self.model, self.processor = settings, model, processor
        self.device, self.dtype = model.device, model.dtype
        self.tower = open_tower(model.model.vision_tower, config.vision_feature_layer)
        options = settings.build_model_options()
        self.prompt, self.keeps_positions = options.prompt, options.positions == "original"
        self.llm = (compat_llm.PositionedLanguageModel if self.keeps_positions else compat_llm.LanguageModel)(
            model
        )
        self.method, self.memory = settings.build_method(), settings.build_memory()
        self.tokens_per_frame = tokens_per_frame(config)
        grid = patch_grid(config)
        self.grid = grid if self.method.tower is None else self.method.tower.output_grid(grid)
        self.eos_ids = compat.eos_ids(model, processor.tokenizer)
        self.capture = CudaCapture(self.device, settings.cuda_graphs)
        token = self.method.token
        self.reads_attention = token is not None and not token.needs.isdisjoint(ATTENTION)
        # What is known before any frame must not be reported as graphed.
        if self.reads_attention and not self.capture.reason:
            self.capture.reason = "the method reads the attention of the tower"
        note_unknown_role(self.capture, self.method.tower)

    def open_stream(self) -> "LlavaOnevisionStream":
        """A new, empty stream."""
        return LlavaOnevisionStream(self)

    def describe(self) -> dict[str, Any]:
        """See `StreamingModel.describe`."""
        return {
            "execution": "batched" if self.method.tower is None else "grouped",
            "launch": "eager" if self.capture.reason else "graph for single frames",
            "launch_reason": self.capture.reason,
            "attention": f"tower sdpa, llm {self.settings.attn_implementation}",
            "memory_attention": kernel(self.device.type, self.dtype)[1]
            if self.memory.runs_attention
            else None,
            "dtype": str(self.dtype).removeprefix("torch."),
            "context_limit": self.model.config.text_config.max_position_embeddings,
            "environment": environment(self.device),
        }

    def pixels(self, frames: np.ndarray) -> Tensor:
        """Frames uint8 [F,H,W,3] to the pixel values [F,3,H,W] of the checkpoint's own video processor."""
        video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        out = self.processor.video_processor(videos=[video], return_tensors="pt", do_sample_frames=False)
        return to_device(out["pixel_values_videos"][0], self.device, self.dtype)

    def project(self, features_FTD: Tensor) -> Tensor:
        """Tower features to LLM tokens [F,N,D]; merged tokens, which lie on no grid, are not pooled."""
        tokens = self.model.model.multi_modal_projector(self._patches(features_FTD))
        return tokens if self.grid is None else halve(tokens, self.grid)

    def context(self, times_s: Sequence[float], pixels: Tensor, last_input: Tensor | None) -> Context:
        """What the token method asks for; `last_input` is that of the last tower layer."""
        grid = None if self.grid is None else halved(self.grid)
        attention = keys = None
        if last_input is not None:
            seen = received_in(self.tower.blocks[-1], last_input)
            attention, keys = (
                halve(self._patches(x), self.grid) for x in (seen.attention_FT[..., None], seen.keys_FTE)
            )
        return Context(
            times_s=tuple(times_s),
            grid=grid,
            attention_FN=None if attention is None else attention[..., 0],
            keys_FNE=keys,
            pixels_FCHW=pixels if "pixels" in self.method.token.needs else None,
        )

    def _patches(self, x_FTD: Tensor) -> Tensor:
        drop = self.model.config.vision_feature_select_strategy == "default"  # the class token
        return x_FTD[:, 1:] if drop else x_FTD

    def prompt_parts(self, question: str) -> tuple[str, str]:
        """What stands before and behind the video when `question` is asked."""
        if self.prompt == "rekv" or self.processor.chat_template is None:
            return REKV_PREFIX, REKV_SUFFIX.replace("{question}", question)
        content = [{"type": "video"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        before, found, after = text.partition(self.processor.video_token)
        if not found:
            raise CheckpointError("the checkpoint's chat template has no place for a video; use prompt=rekv")
        return before, after

    def embed_text(self, text: str) -> Tensor:
        """Embeddings [L,D] of a piece of prompt, without added special tokens."""
        ids = self.processor.tokenizer(text, add_special_tokens=False).input_ids
        return self.llm.embed(to_device(ids, self.device, torch.long))


class LlavaOnevisionStream(Stream):
    """One video in a `LlavaOnevision` model."""

    def __init__(self, model: LlavaOnevision):
        self.model = model
        self.clock = StageClock(model.device)
        self.memory = model.memory.open(model.llm)
        self.encoder = FrameEncoder(self.clock, model.capture, model.tower, model.method.tower, model.project)
        self.tower_state = self.encoder.state
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        method = self.model.method
        self.memory.close()
        self.memory = self.model.memory.open(self.model.llm)
        self.positions = DensePositions() if self.model.keeps_positions else ContiguousPositions()
        self.encoder.reset()
        self.token_state = method.token.open_state() if method.token else None
        self.times_s: list[float] = []
        self.kept: list[int] = []
        self._tokens = 0  # of a frame, before the token method
        self.clock.take()

    @property
    def position_s(self) -> float:
        """Time stamp of the newest frame."""
        return self.times_s[-1] if self.times_s else -math.inf

    @property
    def nbytes(self) -> int:
        """KV cache and method state."""
        token = self.token_state.nbytes if self.token_state is not None else 0
        return self.memory.nbytes + token + self.encoder.nbytes

    @property
    def progress(self) -> Progress:
        """See `Stream.progress`."""
        return Progress(len(self.times_s), self._usage().mean, self.encoder.recomputed)

    @torch.no_grad()
    def observe(self, frames: np.ndarray, times_s: Sequence[float]) -> None:
        """See `Stream.observe`; encodes in groups of `prefill_frames`."""
        check_frames(frames, times_s, self.position_s)
        check_length(self.model.settings.max_frames, len(self.times_s) + len(frames))
        step = self.model.settings.prefill_frames
        for start in range(0, len(frames), step):
            self._observe_group(frames[start : start + step], times_s[start : start + step])

    def _observe_group(self, frames: np.ndarray, times_s: Sequence[float]) -> None:
        model, method = self.model, self.model.method
        with self.clock.stage("preprocess_ms"):
            pixels = model.pixels(frames)
        tokens, last_input = self._encode(pixels)
        self._tokens = tokens.shape[1]
        if method.token is None:
            compressed = whole(tokens)
        else:
            with self.clock.stage("method_ms"):
                context = model.context(times_s, pixels, last_input)
                compressed, self.token_state = method.token.compress(tokens, context, self.token_state)
        with self.clock.stage("prefill_ms"):
            self._prefill_prefix()
            self.memory.append(self._positioned(compressed, self.positions), compressed.tokens_per_frame)
        self.times_s.extend(times_s)
        self.kept.extend(compressed.tokens_per_frame)

    def _positioned(
        self, found: Compressed, positions: ContiguousPositions | DensePositions
    ) -> Tensor | PositionedEmbeds:
        return positions.frames(found.tokens_MD, found.kept_M, len(found.tokens_per_frame), self._tokens)

    def _encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """LLM tokens [F,N,D] of the next F frames, before the token method.

        And the input [F,T,D] of the last tower block, if the token method reads its attention.
        """
        if not self.model.reads_attention:
            return self.encoder.encode(pixels), None
        seen = []

        def dense(pixels: Tensor) -> Tensor:
            features, last_input = encode_with_last_input(self.model.tower, pixels)
            seen.append(last_input)
            return features

        return self.encoder.encode(pixels, dense), seen[0]

    def _prefill_prefix(self) -> None:
        if self.memory.length == 0:
            prefix, _ = self.model.prompt_parts("")
            if prefix:
                self.memory.begin(self.positions.text(self.model.embed_text(prefix)))

    @torch.no_grad()
    def ask(
        self,
        question: str,
        generation: Generation = Generation(),  # noqa: B008 - frozen
        *,
        search: str | None = None,
    ) -> Answer:
        """See `Stream.ask`."""
        model = self.model
        with self.clock.stage("prefill_ms"):
            self._prefill_prefix()
        kv_bytes, state_bytes = self.memory.nbytes, self.nbytes
        self.clock.wait()  # the time to the first token begins with the question
        start = time.perf_counter()
        prompt, positions = self._question(question, generation.opening)
        searched_by = model.embed_text(question if search is None else search)
        with self.memory.ask(searched_by) as reader:
            found_ms = (time.perf_counter() - start) * 1e3  # what is queued still is waited for below
            decoded = greedy(
                reader,
                prompt,
                lambda ids: positions.text(model.llm.embed(ids)),
                lambda ids: model.processor.tokenizer.decode(ids, skip_special_tokens=True),
                model.eos_ids,
                generation,
            )
            context_tokens = reader.context_tokens + len(prompt)
        efficiency = self._take_costs()
        efficiency = dataclasses.replace(
            efficiency,
            ttft_ms=found_ms + decoded.ttft_ms,
            per_token_ms=decoded.per_token_ms,
            new_tokens=len(decoded.token_ids),
            context_tokens=context_tokens,
            kv_bytes=kv_bytes,
            archive_bytes=self.memory.archive_nbytes,
            state_bytes=state_bytes,
            peak_memory_bytes=peak_memory_bytes(model.device),
        )
        return Answer(decoded.text, decoded.token_ids, efficiency)

    def question_embeds(self, question: str, opening: str = "") -> Tensor | PositionedEmbeds:
        """Embeddings [L,D] of all that comes behind the memory.

        Frames that the method still holds back, newline (if any), question, and the answer's opening.
        """
        return self._question(question, opening)[0]

    def _question(
        self, question: str, opening: str
    ) -> tuple[Tensor | PositionedEmbeds, ContiguousPositions | DensePositions]:
        """That, and the positions that go on behind it."""
        positions, pending = self.positions.copy(), self._pending()
        pieces = [] if pending is None else [self._positioned(pending, positions)]
        _, suffix = self.model.prompt_parts(question)
        embeds = self.model.embed_text(suffix + opening)
        if self.model.prompt == "chat" and self.times_s:
            embeds = torch.cat((self.model.model.model.image_newline[None].to(embeds), embeds))
        return positions.join([*pieces, positions.text(embeds)]), positions

    def _pending(self) -> Compressed | None:
        token = self.model.method.token
        return None if token is None else token.pending(self.token_state)

    def _usage(self) -> Usage:
        """Tokens per frame so far, frames that the method holds back as a question would see them."""
        pending = self._pending()
        return usage(self.kept if pending is None else [*self.kept, *pending.tokens_per_frame])

    def _take_costs(self) -> Efficiency:
        """What the stream has done since the last bill."""
        kept = self._usage()
        return Efficiency(
            **self.encoder.take_costs(),
            llm_tokens_mean=kept.mean,
            llm_tokens_max=kept.maximum,
            **self.clock.take(),
        )
