"""StreamForest as a streaming model (arXiv 2509.24871): SigLIP, an event memory, a projector, Qwen2.

The memory holds tower tokens, not keys and values: a question reads it, and what it reads is projected and
prefilled then. Prompt and time sentence are those of the released evaluation.

Shapes: F frames, T tower tokens, C width of the tower, N tokens read, D width of the decoder.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stc_lmms import compat, compat_llm
from stc_lmms.config import Settings
from stc_lmms.engine.api import Generation
from stc_lmms.engine.model import LoadedModel
from stc_lmms.engine.stream import ModelStream, Question
from stc_lmms.errors import StcError
from stc_lmms.memory.full import Full, FullMemory
from stc_lmms.methods.budget import Usage
from stc_lmms.models.checkpoint_io import checkpoint_folder, entries, load_tokenizer
from stc_lmms.models.streamforest.config import StreamForestSpec, check_fit
from stc_lmms.models.streamforest.memory import Forest
from stc_lmms.models.streamforest.options import StreamForestOptions
from stc_lmms.models.streamforest.prompt import END_OF_TURN, PREFIX, suffix, time_sentence
from stc_lmms.models.streamforest.weights import Networks, check_tensors, load_networks
from stc_lmms.ops.sincos import spatial_table, temporal_table
from stc_lmms.ops.transfer import to_device
from stc_lmms.towers import open_tower
from stc_lmms.video.sampling import spread_indices

MOMENTS = 512  # rows of the temporal table
MAX_SELECTED_FRAMES = 2048  # limit of the released evaluation


def pixel_values(frames: np.ndarray, side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Frames uint8 [F,H,W,3] to values in [-1, 1], [F,3,side,side]; squashed to a square by Pillow.

    The tensor resize of newer image processors differs from Pillow's, by up to 0.1 where it enlarges.
    """
    from PIL import Image  # a machine that measures random weights may not have it

    square = (Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC) for frame in frames)
    pixels = to_device(np.stack([np.asarray(image) for image in square]), device)
    return ((pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5).to(dtype)


class PositionCodes:
    """Sine-cosine codes of a token's place and time, computed in float32; frame `moments` starts over."""

    def __init__(
        self, grid: tuple[int, int], width: int, device: torch.device, dtype: torch.dtype, moments: int
    ):
        self._spatial_TC = spatial_table(grid, width).to(device, dtype)
        self._temporal_MC = temporal_table(moments, width).to(device, dtype)

    def add(self, x_FTC: Tensor, first: int) -> Tensor:
        """Add their codes to the tokens of the frames `first`, `first + 1`, ..."""
        moments = torch.arange(first, first + len(x_FTC), device=x_FTC.device) % len(self._temporal_MC)
        return x_FTC + self._spatial_TC + self._temporal_MC[moments, None]


class StreamForestStream(ModelStream):
    """One video in a `StreamForest` model."""

    model: "StreamForest"

    def start(self) -> None:
        self.forest = Forest(self.model.options, self.model.spec.vision.num_attention_heads)
        # For all questions before the next frame, with the number of visual tokens.
        self._prefilled: tuple[FullMemory, int] | None = None

    @property
    def own_nbytes(self) -> int:
        return self.forest.nbytes + (self._prefilled[0].nbytes if self._prefilled else 0)

    def usage(self) -> Usage:
        """Over all frames; the maximum is that of the newest frame."""
        frames = len(self.times_s)
        return Usage(self.forest.tokens / frames if frames else 0.0, self.model.options.now_tokens)

    def take_in(self, frames: np.ndarray, times_s: Sequence[float]) -> None:
        model, self._prefilled = self.model, None
        with self.clock.stage("preprocess_ms"):
            pixels = model.pixels(frames)
        features = self.encoder.encode(pixels)
        with self.clock.stage("method_ms"):
            self.forest.append(model.position_codes.add(features, len(self.times_s)))

    @torch.no_grad()
    def visual_tokens(self) -> Tensor:
        """What a question reads of the frames so far, projected: [N,D]."""
        with self.clock.stage("method_ms"):
            tokens_NC = self.forest.read()
        with self.clock.stage("project_ms"):
            return self.model.networks.projector(tokens_NC)

    def question(self, question: str, generation: Generation, search: str) -> Question:
        if not self.times_s:
            raise StcError("no frame has come: StreamForest answers from frames; ask after the first")
        model = self.model
        memory, visual = self._prefilled = self._prefilled or self._prefill()
        kind = model.options.time_text
        sentence = "" if kind == "none" else time_sentence(kind, self.times_s)
        prompt = model.embed_text(suffix(question, sentence) + generation.opening)
        return Question(memory, prompt, Usage(visual / len(self.times_s), model.options.now_tokens))

    def _prefill(self) -> tuple[FullMemory, int]:
        visual_ND = self.visual_tokens()
        with self.clock.stage("prefill_ms"):
            memory = Full().open(self.model.llm)
            memory.begin(self.model.embed_text(PREFIX))
            memory.append(visual_ND, [len(visual_ND)])
        return memory, len(visual_ND)


class StreamForest(LoadedModel):
    """A loaded StreamForest; its parts are spec, networks and tokenizer (None: nothing is asked in words)."""

    stream_class = StreamForestStream
    check_fit = staticmethod(check_fit)
    options: StreamForestOptions

    @classmethod
    def check(cls, settings: Settings) -> None:
        """Also checks the names and shapes of the weights if the checkpoint is a local folder."""
        super().check(settings)
        if Path(settings.pretrained).is_dir():
            check_tensors(cls.read_config(settings), entries(Path(settings.pretrained)))

    @classmethod
    def read_config(cls, settings: Settings) -> StreamForestSpec:
        return StreamForestSpec.read(checkpoint_folder(settings, weights=False))

    @classmethod
    def load(cls, settings: Settings, dtype: str | torch.dtype, device: torch.device) -> tuple[Any, ...]:
        folder = checkpoint_folder(settings, weights=True)
        spec, tokenizer = StreamForestSpec.read(folder), load_tokenizer(folder)
        networks = load_networks(spec, entries(folder), dtype, device, settings.attn_implementation)
        return spec, networks, tokenizer

    def assemble(
        self, spec: StreamForestSpec, networks: Networks, tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        self.spec, self.networks, self.tokenizer = spec, networks, tokenizer
        self.tower, self.llm = open_tower(networks.vision), compat_llm.LanguageModel(networks.decoder)
        width = spec.vision.hidden_size
        self.position_codes = PositionCodes(spec.grid, width, self.llm.device, self.llm.dtype, MOMENTS)
        self.context_limit = spec.context_limit
        known = tokenizer is not None
        self.eos_ids = compat.eos_ids(networks.decoder, tokenizer, END_OF_TURN) if known else frozenset()
        if self.options.grid == "dynamic_fps1":
            limit = self.settings.max_frames or MAX_SELECTED_FRAMES
            self.select_frames = partial(spread_indices, max_frames=limit)

    def pixels(self, frames: np.ndarray) -> Tensor:
        """Frames uint8 [F,H,W,3] to the pixel values [F,3,S,S] of the tower."""
        return pixel_values(frames, self.spec.vision.image_size, self.device, self.dtype)
