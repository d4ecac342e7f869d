"""LLaVA-OneVision as a streaming model.

Groups of frames run through tower, projector, 2x2 pooling, token method and prefill. With `prompt=chat` the
prompt is the checkpoint's chat template and the model's newline token ends the video, so `method=none` gives
the logits of the stock `forward`; `prompt=rekv` has no newline.

Shapes: F frames, T tower tokens, N pooled tokens per frame, M kept tokens, D width of the LLM.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from stc_lmms import compat, compat_llm
from stc_lmms.config import Settings
from stc_lmms.engine.api import Generation
from stc_lmms.engine.model import LoadedModel, load_stock
from stc_lmms.engine.stream import ModelStream, Question
from stc_lmms.methods.base import ATTENTION, Compressed, Context, whole
from stc_lmms.methods.budget import Usage, usage
from stc_lmms.models.llava_onevision.config import check_fit, patch_grid, read_config, tokens_per_frame
from stc_lmms.models.llava_onevision.options import LlavaOnevisionOptions
from stc_lmms.models.llava_onevision.prompt import REKV_PREFIX, REKV_SUFFIX
from stc_lmms.ops.grid import halve, halved
from stc_lmms.ops.positions import ContiguousPositions, DensePositions, PositionedEmbeds
from stc_lmms.ops.transfer import to_device
from stc_lmms.towers import open_tower
from stc_lmms.towers.attention_scores import encode_with_last_input, received_in


class LlavaOnevisionStream(ModelStream):
    """One video in a `LlavaOnevision` model."""

    model: "LlavaOnevision"

    def start(self) -> None:
        token = self.model.method.token
        self.positions = DensePositions() if self.model.keeps_positions else ContiguousPositions()
        self.token_state = token.open_state() if token else None
        self._frame_tokens = 0  # before the token method

    @property
    def own_nbytes(self) -> int:
        return self.token_state.nbytes if self.token_state is not None else 0

    def usage(self) -> Usage:
        pending = self._pending()
        return usage(self.kept if pending is None else [*self.kept, *pending.tokens_per_frame])

    def take_in(self, frames: np.ndarray, times_s: Sequence[float]) -> None:
        model, token = self.model, self.model.method.token
        with self.clock.stage("preprocess_ms"):
            pixels = model.pixels(frames)
        last_inputs: list[Tensor] = []  # of the last tower block, [F,T,D]

        def dense(pixels: Tensor) -> Tensor:
            features, last_input = encode_with_last_input(model.tower, pixels)
            last_inputs.append(last_input)
            return features

        tokens = self.encoder.encode(pixels, dense if model.reads_attention else None)
        self._frame_tokens = tokens.shape[1]
        if token is None:
            compressed = whole(tokens)
        else:
            with self.clock.stage("method_ms"):
                context = model.context(times_s, pixels, *last_inputs)
                compressed, self.token_state = token.compress(tokens, context, self.token_state)
        self.begin()
        with self.clock.stage("prefill_ms"):
            self.memory.append(self._positioned(compressed, self.positions), compressed.tokens_per_frame)
        self.kept.extend(compressed.tokens_per_frame)

    def prefix(self) -> Tensor | PositionedEmbeds:
        return self.positions.text(self.model.embed_text(self.model.prompt_parts("")[0]))

    def question(self, question: str, generation: Generation, search: str) -> Question:
        model, positions, pending = self.model, self.positions.copy(), self._pending()
        pieces = [] if pending is None else [self._positioned(pending, positions)]
        embeds = model.embed_text(model.prompt_parts(question)[1] + generation.opening)
        if model.options.prompt == "chat" and self.times_s:
            embeds = torch.cat((model.model.model.image_newline[None].to(embeds), embeds))
        return Question(
            self.memory,
            positions.join([*pieces, positions.text(embeds)]),
            self.usage(),
            positions,
            search_LD=model.embed_text(search),
        )

    def _positioned(
        self, compressed: Compressed, positions: ContiguousPositions | DensePositions
    ) -> Tensor | PositionedEmbeds:
        frames = len(compressed.tokens_per_frame)
        return positions.frames(compressed.tokens_MD, compressed.kept_M, frames, self._frame_tokens)

    def _pending(self) -> Compressed | None:
        token = self.model.method.token
        return None if token is None else token.pending(self.token_state)


class LlavaOnevision(LoadedModel):
    """A loaded LLaVA-OneVision checkpoint; its parts are the stock model and its processor."""

    stream_class = LlavaOnevisionStream
    read_config = staticmethod(read_config)
    check_fit = staticmethod(check_fit)
    options: LlavaOnevisionOptions

    @classmethod
    def load(cls, settings: Settings, dtype: str | torch.dtype, device: torch.device) -> tuple[Any, Any]:
        return load_stock(LlavaOnevisionForConditionalGeneration, settings, dtype, device)

    def assemble(self, model: LlavaOnevisionForConditionalGeneration, processor: Any) -> None:
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self.tower = open_tower(model.model.vision_tower, model.config.vision_feature_layer)
        self.keeps_positions = self.options.positions == "original"
        decoder = compat_llm.PositionedLanguageModel if self.keeps_positions else compat_llm.LanguageModel
        self.llm = decoder(model)
        self.context_limit = model.config.text_config.max_position_embeddings
        self.tokens_per_frame = tokens_per_frame(model.config)
        grid, tower, token = patch_grid(model.config), self.method.tower, self.method.token
        self.grid = grid if tower is None else tower.output_grid(grid)
        self.reads_attention = token is not None and not token.needs.isdisjoint(ATTENTION)
        self.eos_ids = compat.eos_ids(model, self.tokenizer)

    def eager_reason(self) -> str:
        return "the method reads the attention of the tower" if self.reads_attention else ""

    def pixels(self, frames: np.ndarray) -> Tensor:
        """Frames uint8 [F,H,W,3] to the pixel values [F,3,H,W] of the checkpoint's own video processor."""
        video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        out = self.processor.video_processor(videos=[video], return_tensors="pt", do_sample_frames=False)
        return to_device(out["pixel_values_videos"][0], self.device, self.dtype)

    def project(self, features_FTD: Tensor) -> Tensor:
        """Tower features to LLM tokens [F,N,D]; merged tokens, which lie on no grid, are not pooled."""
        tokens = self.model.model.multi_modal_projector(self._patches(features_FTD))
        return tokens if self.grid is None else halve(tokens, self.grid)

    def context(self, times_s: Sequence[float], pixels: Tensor, last_input: Tensor | None = None) -> Context:
        """What the token method needs to know of a group; `last_input` [F,T,D] is that of the last block."""
        attention = keys = None
        if last_input is not None:
            received = received_in(self.tower.blocks[-1], last_input)
            attention = halve(self._patches(received.attention_FT[..., None]), self.grid)[..., 0]
            keys = halve(self._patches(received.keys_FTE), self.grid)
        return Context(
            times_s=tuple(times_s),
            grid=None if self.grid is None else halved(self.grid),
            attention_FN=attention,
            keys_FNE=keys,
            pixels_FCHW=pixels if "pixels" in self.method.token.needs else None,
        )

    def _patches(self, x_FTD: Tensor) -> Tensor:
        drop = self.model.config.vision_feature_select_strategy == "default"  # the class token
        return x_FTD[:, 1:] if drop else x_FTD

    def prompt_parts(self, question: str) -> tuple[str, str]:
        """Text before and after the video when `question` is asked."""
        if self.options.prompt == "rekv" or self.processor.chat_template is None:
            return REKV_PREFIX, REKV_SUFFIX.replace("{question}", question)
        content = [{"type": "video"}, {"type": "text", "text": question}]
        return compat.split_at_video(self.processor, content, "use prompt=rekv")
