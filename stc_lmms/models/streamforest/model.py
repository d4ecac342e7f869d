"""StreamForest as a streaming model (arXiv 2509.24871): SigLIP, an event memory, a projector, Qwen2.

The memory holds tower tokens, not keys and values: a question reads it, and all it reads is projected and
prefilled then. Prompt and time sentence are those of the released evaluation.

Shapes: F frames, T tower tokens, C width of the tower, N tokens read, D width of the decoder.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2ForCausalLM, SiglipVisionModel

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
from stc_lmms.errors import StcError
from stc_lmms.memory.full import Full, FullMemory
from stc_lmms.models.checkpoint_io import Entry, checkpoint_folder, entries, load_tokenizer
from stc_lmms.models.streamforest.config import (
    StreamForestSpec,
    check_fit,
    check_settings,
    make_projector,
    sort_weights,
)
from stc_lmms.models.streamforest.memory import Forest
from stc_lmms.models.streamforest.options import StreamForestOptions
from stc_lmms.models.streamforest.prompt import END_OF_TURN, PREFIX, suffix, time_sentence
from stc_lmms.ops.sincos import spatial_table, temporal_table
from stc_lmms.ops.transfer import to_device
from stc_lmms.towers import open_tower
from stc_lmms.video.sampling import spread_indices

MOMENTS = 512  # rows of the temporal table; later frames begin anew
MAX_SELECTED_FRAMES = 2048  # at most, in the released evaluation


@dataclass(frozen=True)
class Networks:
    """The networks of one StreamForest, all of one dtype on one device."""

    vision: PreTrainedModel
    projector: nn.Sequential
    decoder: Qwen2ForCausalLM

    def to(self, device: torch.device) -> "Networks":
        """Move all of them."""
        for part in (self.vision, self.projector, self.decoder):
            part.to(device)
        return self


def networks_from(
    spec: StreamForestSpec,
    found: Mapping[str, Entry],
    dtype: str | torch.dtype,
    attn_implementation: str = "sdpa",
) -> Networks:
    """Stock modules with the tensors of a checkpoint.

    Args:
        spec: its sizes.
        found: its tensors by their released names.
        dtype: of the weights; `auto` is the one of the files.
        attn_implementation: of the decoder; the tower runs SDPA.

    Raises:
        CheckpointError: a tensor is missing or has another shape; told before any is read.
    """
    parts = sort_weights(spec, found)
    if dtype == "auto":
        dtype = next(iter(parts.decoder.values())).read().dtype

    def load(cls: type[PreTrainedModel], config: Any, part: Mapping[str, Entry], attention: str) -> Any:
        state = {name: entry.read() for name, entry in part.items()}
        return cls.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, attn_implementation=attention
        ).eval()

    projector = make_projector(spec).to(dtype).eval()
    projector.load_state_dict({name: entry.read() for name, entry in parts.projector.items()})
    return Networks(
        load(SiglipVisionModel, spec.vision, parts.vision, "sdpa"),
        projector,
        load(Qwen2ForCausalLM, spec.text, parts.decoder, attn_implementation),
    )


def pixel_values(frames: np.ndarray, side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Frames uint8 [F,H,W,3] to values in [-1, 1], [F,3,side,side]; squashed to a square by Pillow.

    The tensor resize of newer image processors differs from Pillow's, by up to 0.1 where it enlarges.
    """
    from PIL import Image  # a machine that measures random weights may not have it

    square = (Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC) for frame in frames)
    pixels = to_device(np.stack([np.asarray(image) for image in square]), device)
    return ((pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5).to(dtype)


class PositionCodes:
    """Codes of where and when a token is, as they are added to it.

    Args:
        grid: rows and columns of a frame's tokens.
        width: C.
        device, dtype: of the tokens; the tables are made in float32 and cast.
        moments: rows of the temporal table.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        width: int,
        device: torch.device,
        dtype: torch.dtype,
        moments: int = MOMENTS,
    ):
        self._where_TC = spatial_table(grid, width).to(device, dtype)
        self._when_MC = temporal_table(moments, width).to(device, dtype)

    def add(self, x_FTC: Tensor, first: int) -> Tensor:
        """Tokens of the frames number `first`, `first + 1`, ..., with their codes."""
        moments = torch.arange(first, first + len(x_FTC), device=x_FTC.device) % len(self._when_MC)
        return x_FTC + self._where_TC + self._when_MC[moments, None]


class StreamForest(StreamingModel):
    """A loaded StreamForest checkpoint.

    Args:
        settings: validated model arguments; `pretrained` is a local folder or a hub id.

    Raises:
        CheckpointError, SettingsError: see `check_settings` and `networks_from`.
    """

    def __init__(self, settings: Settings):
        check_settings(settings)
        device = open_device(settings.device)
        folder = checkpoint_folder(checkpoint(settings), settings.revision, weights=True)
        spec, tokenizer = StreamForestSpec.read(folder), load_tokenizer(folder)
        dtype: Any = settings.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype)
        if dtype == "auto" and device.type == "cpu":
            dtype = torch.float32
        networks = networks_from(spec, entries(folder), dtype, settings.attn_implementation)
        self._assemble(settings, spec, networks.to(device), tokenizer)

    @classmethod
    def check(cls, settings: Settings) -> None:
        """See `StreamingModel.check`."""
        check_settings(settings)

    @classmethod
    def from_parts(
        cls,
        settings: Settings,
        spec: StreamForestSpec,
        networks: Networks,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> "StreamForest":
        """The same model around networks that are there already, in eval mode on their device.

        Args:
            settings: what concerns loading is not looked at but echoed, so it must be true.
            spec: sizes of the networks.
            networks: shared, never changed.
            tokenizer: of the decoder; None if nothing will be asked in words.

        Raises:
            SettingsError: the method or the memory does not fit the model.
        """
        check_fit(settings, spec)
        self = cls.__new__(cls)
        self._assemble(settings, spec, networks, tokenizer)
        return self

    def with_settings(self, settings: Settings) -> "StreamForest":
        """See `StreamingModel.with_settings`."""
        return self.from_parts(settings, self.spec, self.networks, self.tokenizer)

    def _assemble(
        self,
        settings: Settings,
        spec: StreamForestSpec,
        networks: Networks,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        self.settings, self.spec, self.networks, self.tokenizer = settings, spec, networks, tokenizer
        self.options: StreamForestOptions = settings.build_model_options()
        self.method = settings.build_method()
        self.tower, self.llm = open_tower(networks.vision), compat_llm.LanguageModel(networks.decoder)
        self.device, self.dtype = self.llm.device, self.llm.dtype
        self.position_codes = PositionCodes(spec.grid, spec.vision.hidden_size, self.device, self.dtype)
        self.eos_ids: frozenset[int] = frozenset()
        if tokenizer is not None:
            end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
            self.eos_ids = compat.eos_ids(networks.decoder, tokenizer) | {i for i in [end] if i is not None}
        if self.options.grid == "dynamic_fps1":
            limit = settings.max_frames or MAX_SELECTED_FRAMES
            self.select_frames = lambda count, fps, clip_s: spread_indices(count, fps, clip_s, limit)
        self.capture = CudaCapture(self.device, settings.cuda_graphs)
        note_unknown_role(self.capture, self.method.tower)

    def open_stream(self) -> "StreamForestStream":
        """A new, empty stream."""
        return StreamForestStream(self)

    def describe(self) -> dict[str, Any]:
        """See `StreamingModel.describe`."""
        return {
            "execution": "batched" if self.method.tower is None else "grouped",
            "launch": "eager" if self.capture.reason else "graph for single frames",
            "launch_reason": self.capture.reason,
            "attention": f"tower sdpa, llm {self.settings.attn_implementation}",
            "dtype": str(self.dtype).removeprefix("torch."),
            "context_limit": self.spec.context_limit,
            "environment": environment(self.device),
        }

    def pixels(self, frames: np.ndarray) -> Tensor:
        """Frames uint8 [F,H,W,3] to the pixel values [F,3,S,S] of the tower."""
        return pixel_values(frames, self.spec.vision.image_size, self.device, self.dtype)

    def embed_text(self, text: str) -> Tensor:
        """Embeddings [L,D] of a piece of prompt, without added special tokens."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return self.llm.embed(to_device(ids, self.device, torch.long))


class StreamForestStream(Stream):
    """One video in a `StreamForest` model."""

    def __init__(self, model: StreamForest):
        self.model = model
        self.clock = StageClock(model.device)
        self.encoder = FrameEncoder(
            self.clock, model.capture, model.tower, model.method.tower, project=lambda features: features
        )
        self.tower_state = self.encoder.state
        self.forest = Forest(model.options, model.spec.vision.num_attention_heads)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.frame_selection = None
        self.encoder.reset()
        self.forest.reset()
        self.times_s: list[float] = []
        self._read: FullMemory | None = None
        self._visual = 0  # tokens in it
        self.clock.take()

    @property
    def position_s(self) -> float:
        """Time stamp of the newest frame."""
        return self.times_s[-1] if self.times_s else -math.inf

    @property
    def nbytes(self) -> int:
        """The memory, tower references, and what the last question read until the next frame comes."""
        read = self._read.nbytes if self._read is not None else 0
        return self.forest.nbytes + self.encoder.nbytes + read

    @property
    def progress(self) -> Progress:
        """See `Stream.progress`; LLM tokens are those that a question would read, over all frames."""
        frames = len(self.times_s)
        return Progress(frames, self.forest.tokens / frames if frames else 0.0, self.encoder.recomputed)

    @torch.no_grad()
    def observe(self, frames: np.ndarray, times_s: Sequence[float]) -> None:
        """See `Stream.observe`; encodes in groups of `prefill_frames`."""
        check_frames(frames, times_s, self.position_s, again=self.frame_selection is not None)
        settings = self.model.settings
        check_length(settings.max_frames, len(self.times_s) + len(frames))
        for start in range(0, len(frames), settings.prefill_frames):
            group = slice(start, start + settings.prefill_frames)
            self._read = None
            with self.clock.stage("preprocess_ms"):
                pixels = self.model.pixels(frames[group])
            features = self.encoder.encode(pixels)
            with self.clock.stage("method_ms"):
                self.forest.append(self.model.position_codes.add(features, len(self.times_s)))
            self.times_s.extend(times_s[group])

    @torch.no_grad()
    def visual_tokens(self) -> Tensor:
        """What a question reads of the frames so far, [N,D]: events merged to the quota, then projected."""
        with self.clock.stage("method_ms"):
            tokens_NC = self.forest.read()
        with self.clock.stage("project_ms"):
            return self.model.networks.projector(tokens_NC)

    def _prefilled(self) -> FullMemory:
        """Keys and values of all that stands before the question; kept for others before the next frame."""
        if self._read is None:
            llm = self.model.llm
            visual_ND = self.visual_tokens()
            self._visual = len(visual_ND)
            with self.clock.stage("prefill_ms"):
                self._read = Full().open(llm)
                self._read.begin(self.model.embed_text(PREFIX))
                self._read.append(visual_ND, [len(visual_ND)])
        return self._read

    @torch.no_grad()
    def ask(
        self,
        question: str,
        generation: Generation = Generation(),  # noqa: B008 - frozen
        *,
        search: str | None = None,
    ) -> Answer:
        """See `Stream.ask`; the memory is read whatever is searched by.

        The time to the first token holds the reading: merging events, projector, prefill of visual tokens.

        Raises:
            StcError: no frame has come.
        """
        model = self.model
        if not self.times_s:
            raise StcError("no frame has come: StreamForest answers from frames; ask after the first")
        self.clock.wait()  # the time to the first token begins with the question
        start = time.perf_counter()
        memory = self._prefilled()
        kind = model.options.time_text
        sentence = "" if kind == "none" else time_sentence(kind, self.times_s)
        prompt_LD = model.embed_text(suffix(question, sentence) + generation.opening)
        read_ms = (time.perf_counter() - start) * 1e3  # what is queued still is waited for below
        with memory.ask() as reader:
            decoded = greedy(
                reader,
                prompt_LD,
                model.llm.embed,
                lambda ids: model.tokenizer.decode(ids, skip_special_tokens=True),
                model.eos_ids,
                generation,
            )
            context_tokens = reader.context_tokens + len(prompt_LD)
        efficiency = Efficiency(
            **self.encoder.take_costs(),
            **self.clock.take(),
            llm_tokens_mean=self._visual / len(self.times_s),
            llm_tokens_max=model.options.now_tokens,
            ttft_ms=read_ms + decoded.ttft_ms,
            per_token_ms=decoded.per_token_ms,
            new_tokens=len(decoded.token_ids),
            context_tokens=context_tokens,
            kv_bytes=memory.nbytes,
            state_bytes=self.nbytes,
            peak_memory_bytes=peak_memory_bytes(model.device),
        )
        return Answer(decoded.text, decoded.token_ids, efficiency)
