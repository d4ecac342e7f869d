"""Dispider as a streaming model: it perceives, decides and reacts (arXiv 2501.03218).

Frames are encoded as they come and gathered into clips of 16. A full clip is read by the compact model and
kept; a question retrieves some clips and the large model answers from those.

The grid of frames is that of the stream (`fps`); the released scripts spread a whole number of clips over a
video whose length they know, which `grid=released` does. Time sentences, retrieval and prompts are the
released ones.
"""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stc_lmms import compat, compat_llm
from stc_lmms.config import Settings
from stc_lmms.engine.api import StreamingModel, checkpoint, open_device
from stc_lmms.engine.encoder import note_unknown_role
from stc_lmms.engine.graphs import CudaCapture
from stc_lmms.engine.timers import environment
from stc_lmms.errors import CheckpointError
from stc_lmms.models.checkpoint_io import checkpoint_folder, load_tokenizer
from stc_lmms.models.dispider.config import DispiderSpec, check_fit, check_settings
from stc_lmms.models.dispider.memory import ClipState
from stc_lmms.models.dispider.net import DispiderNet, Words
from stc_lmms.models.dispider.options import DispiderOptions
from stc_lmms.models.dispider.pixels import pixel_values
from stc_lmms.models.dispider.prompt import (
    END_OF_TURN,
    HAS_ANSWER,
    TO_DO,
    decision_question,
    reaction_prompt,
    released_sampling,
    time_sentence,
)
from stc_lmms.models.dispider.stream import DispiderStream
from stc_lmms.models.dispider.weights import Networks, load_networks
from stc_lmms.ops.transfer import to_device
from stc_lmms.towers import open_tower

logger = logging.getLogger(__name__)

TRAINED_FPS, TRAINED_FRAMES = 1.0, 16


class Dispider(StreamingModel):
    """A loaded Dispider checkpoint, of either released layout.

    Args:
        settings: validated model arguments; `pretrained` is a local folder or a hub id.

    Raises:
        CheckpointError, SettingsError: see `check_settings` and `load_networks`.
    """

    proactive = True

    def __init__(self, settings: Settings):
        check_settings(settings)
        device = open_device(settings.device)
        folder = checkpoint_folder(checkpoint(settings), settings.revision, weights=True)
        spec = DispiderSpec.from_dir(folder)
        tokenizer, compact = (load_tokenizer(path) for path in (spec.folder, spec.decision_folder))
        dtype: Any = settings.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype)
        if dtype == "auto" and device.type == "cpu":
            dtype = torch.float32
        networks = load_networks(spec, dtype, settings.attn_implementation).to(device)
        for config, words in ((spec.reaction, tokenizer), (spec.decision, compact)):
            if len(words) > config.vocab_size:
                raise CheckpointError(
                    f"{str(folder)!r}: {len(words)} tokens of a tokenizer, but {config.vocab_size} embeddings"
                )
        if spec.repetition_penalty != 1:
            logger.warning(
                "%s asks for repetition_penalty=%g; decoding is plainly greedy",
                folder,
                spec.repetition_penalty,
            )
        self._assemble(settings, spec, networks, tokenizer, compact)

    @classmethod
    def check(cls, settings: Settings) -> None:
        """See `StreamingModel.check`."""
        check_settings(settings)

    @classmethod
    def from_parts(
        cls,
        settings: Settings,
        spec: DispiderSpec,
        networks: Networks,
        tokenizer: PreTrainedTokenizerBase,
        compact_tokenizer: PreTrainedTokenizerBase,
    ) -> "Dispider":
        """The same model around networks that are there already, in eval mode on their device.

        Args:
            settings: what concerns loading is not looked at but echoed, so it must be true.
            spec: sizes of the networks.
            networks: shared, never changed.
            tokenizer: of the model that answers.
            compact_tokenizer: of the model that watches.

        Raises:
            SettingsError: the method does not fit the model.
        """
        check_fit(settings, spec)
        self = cls.__new__(cls)
        self._assemble(settings, spec, networks, tokenizer, compact_tokenizer)
        return self

    def with_settings(self, settings: Settings) -> "Dispider":
        """See `StreamingModel.with_settings`."""
        return self.from_parts(settings, self.spec, self.net.networks, self.tokenizer, self.compact_tokenizer)

    def _assemble(
        self, settings: Settings, spec: DispiderSpec, networks: Networks, tokenizer: Any, compact: Any
    ) -> None:
        self.settings, self.spec, self.tokenizer, self.compact_tokenizer = settings, spec, tokenizer, compact
        self.options: DispiderOptions = settings.build_model_options()
        self.net = DispiderNet(spec, networks)
        self.llm = compat_llm.LanguageModel(networks.reaction)
        self.device, self.dtype = self.llm.device, self.llm.dtype
        self.tower = open_tower(networks.vision, spec.select_layer)
        self.method = settings.build_method()
        self.eos_ids = compat.eos_ids(networks.reaction, tokenizer) | spec.eos_ids
        self.eos_ids |= {i for i in [tokenizer.convert_tokens_to_ids(END_OF_TURN)] if i is not None}
        self.capture = CudaCapture(self.device, settings.cuda_graphs)
        note_unknown_role(self.capture, self.method.tower)
        if self.options.grid == "released":
            self.select_frames = self._released
        for line in self.off_distribution:
            logger.warning("%s", line)

    def _released(self, count: int, fps: float, clip_s: tuple[float, float] | None) -> list[int]:
        """See `StreamingModel.select_frames`; a clip is a video of its own, as the scripts cut it."""
        first, end = 0, count
        if clip_s is not None:
            first, end = round(clip_s[0] * fps), min(count, round(clip_s[1] * fps))
        if end <= first:
            return []
        chosen = released_sampling(end - first, fps, self.options.frames_per_clip)
        return [first + index for index in chosen]

    @property
    def off_distribution(self) -> list[str]:
        """In what the settings leave the way Dispider was trained; empty if they do not."""
        found = []
        if self.settings.fps != TRAINED_FPS and self.select_frames is None:
            found.append(f"fps={self.settings.fps:g}: Dispider was trained at about {TRAINED_FPS:g} fps")
        if self.options.frames_per_clip != TRAINED_FRAMES:
            found.append(
                f"frames_per_clip={self.options.frames_per_clip}: Dispider was trained with {TRAINED_FRAMES}"
            )
        return found

    def open_stream(self) -> DispiderStream:
        """A new, empty stream."""
        return DispiderStream(self)

    def describe(self) -> dict[str, Any]:
        """See `StreamingModel.describe`."""
        return {
            "execution": "batched" if self.method.tower is None else "grouped",
            "launch": "eager" if self.capture.reason else "graph for single frames",
            "launch_reason": self.capture.reason,
            "attention": f"tower sdpa, both llms {self.settings.attn_implementation}, causal",
            "dtype": str(self.dtype).removeprefix("torch."),
            "context_limit": self.spec.reaction.max_position_embeddings,
            "checkpoint_layout": self.spec.layout,
            "off_distribution": self.off_distribution,
            "environment": environment(self.device),
        }

    def pixels(self, frames: np.ndarray) -> Tensor:
        """Frames uint8 [F,H,W,3] to the pixel values [F,3,S,S] of the tower."""
        return pixel_values(frames, self.tower.config.image_size, self.device, self.dtype)

    def perceive(self, tokens_FRC: Tensor, span_s: tuple[float, float]) -> ClipState:
        """A clip, complete or not, from its merged tokens and its start and end in seconds."""
        sentence = self._compact_embeds(time_sentence(*span_s))
        return ClipState(tokens_FRC, *self.net.perceive(tokens_FRC, sentence), *span_s)

    def words(self, question: str) -> Words:
        """What the compact model reads of a question."""
        return Words(*map(self._compact_embeds, (decision_question(question), TO_DO, HAS_ANSWER)))

    def prompt(self, visual_LH: Tensor, question: str, opening: str = "") -> Tensor:
        """Embeddings [L,H] of the whole prompt of the model that answers."""
        before, after = reaction_prompt(question, opening, self.spec.image_markers)
        text = (self.llm.embed(_ids(self.tokenizer, part, self.device)) for part in (before, after))
        return torch.cat((next(text), visual_LH, next(text)))

    def _compact_embeds(self, text: str) -> Tensor:
        return self.net.embed(_ids(self.compact_tokenizer, text, self.device))


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, device: torch.device) -> Tensor:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return to_device(ids, device, torch.long)
