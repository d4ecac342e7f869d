"""Dispider as a streaming model: it perceives, decides and reacts (arXiv 2501.03218).

Frames are encoded as they come and gathered into clips of 16. A full clip is read by the compact model and
kept; a question retrieves some clips, from which the large model answers. It also sees the clip that is
filling, but leaves no trace. After every full clip the compact model decides whether to answer the question
being watched.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stc_lmms import compat, compat_llm
from stc_lmms.config import Settings
from stc_lmms.engine.api import Answer, Decision, Generation, ProactiveStream
from stc_lmms.engine.model import LoadedModel
from stc_lmms.engine.stream import ModelStream, Question
from stc_lmms.errors import CheckpointError, StcError
from stc_lmms.memory.full import Full
from stc_lmms.methods.budget import Usage
from stc_lmms.models.checkpoint_io import checkpoint_folder, entries, load_tokenizer
from stc_lmms.models.dispider import prompt as texts
from stc_lmms.models.dispider.config import DispiderSpec, check_fit
from stc_lmms.models.dispider.memory import ClipMemory, ClipState
from stc_lmms.models.dispider.net import DispiderNet, Retrieved, Words
from stc_lmms.models.dispider.options import DispiderOptions
from stc_lmms.models.dispider.pixels import pixel_values
from stc_lmms.models.dispider.weights import Networks, load_networks
from stc_lmms.ops.transfer import to_device
from stc_lmms.towers import open_tower

logger = logging.getLogger(__name__)

TRAINED_FPS, TRAINED_FRAMES = 1.0, 16


@dataclasses.dataclass
class _Watch:
    """A question being watched; it was asked after `asked_at` clips."""

    question: str
    words: Words
    asked_at: int
    on_decision: Callable[[Decision], None] | None
    answered_at: list[int] = dataclasses.field(default_factory=list)  # clips at each decision to answer
    summaries: dict[tuple[int, int], Tensor] = dataclasses.field(default_factory=dict)  # between those
    pending: bool = False  # the newest decision was to answer, and `speak` has not been called since
    polled: int = 0  # decisions at the last poll


class DispiderStream(ModelStream, ProactiveStream):
    """One video in a `Dispider` model."""

    model: "Dispider"

    def start(self) -> None:
        self.clips = ClipMemory()  # those complete
        self.decisions: list[Decision] = []  # on the question being watched
        self._filling: list[Tensor] = []  # merged tokens [.,R,C] of the clip that is filling
        self._clip_times_s: list[float] = []  # of its frames, from the start of the stream on
        self._origin_s = 0.0
        self._watch: _Watch | None = None
        self._warned = False  # that there are more memory states than the compact model reads

    @property
    def own_nbytes(self) -> int:
        watch = () if self._watch is None else (*self._watch.words, *self._watch.summaries.values())
        return self.clips.nbytes + sum(x.nbytes for x in (*self._filling, *watch))

    @property
    def group_frames(self) -> int:
        """A group never crosses the end of a clip."""
        return min(super().group_frames, self.model.options.frames_per_clip - len(self._clip_times_s))

    def usage(self) -> Usage:
        tokens = self.model.spec.tokens_per_frame
        return Usage(float(tokens), tokens)

    def take_in(self, frames: np.ndarray, times_s: Sequence[float]) -> None:
        if not self.times_s:  # as released, times count from the start of the video, at most 1 s earlier
            selection = self.frame_selection
            self._origin_s = math.floor(times_s[0]) if selection is None else selection.start_s
        with self.clock.stage("preprocess_ms"):
            pixels = self.model.pixels(frames)
        self._filling.append(self.encoder.encode(pixels))
        self._clip_times_s.extend(time_s - self._origin_s for time_s in times_s)

    def finish_group(self) -> None:
        if len(self._clip_times_s) < self.model.options.frames_per_clip:
            return
        with self.clock.stage("prefill_ms"):
            self.clips.append(self._filling_clip())
        self._filling, self._clip_times_s = [], []
        states = len(self.clips) * len(self.clips[0].memory_MD)
        limit = self.model.spec.decision.max_position_embeddings
        if states > limit and not self._warned:
            self._warned = True
            logger.warning(
                f"{len(self.clips)} clips have {states} memory states, more than the {limit} tokens that the "
                "model which retrieves clips was made for: it may retrieve the wrong ones"
            )
        if self._watch is not None:
            self._decide(self._watch)

    def _filling_clip(self) -> ClipState | None:
        if not self._filling:
            return None
        if self.frame_selection is not None:
            last_s = 1 / self.frame_selection.avg_fps
        else:  # a full clip lasts until the next frame; one that is filling ends with its last
            full = len(self._clip_times_s) == self.model.options.frames_per_clip
            last_s = full / self.model.settings.fps
        return self.model.perceive(torch.cat(self._filling), texts.clip_span(self._clip_times_s, last_s))

    def _decide(self, watch: _Watch) -> None:
        net = self.model.net

        def summary(start: int, end: int) -> Tensor:
            if (start, end) not in watch.summaries:
                watch.summaries[start, end] = net.summary(self.clips, start, end)
            return watch.summaries[start, end]

        with self.clock.stage("prefill_ms"):
            query = net.query(self.clips, watch.words, watch.asked_at, watch.answered_at, summary)
            decision = Decision(self.position_s, net.logit(query))
        watch.pending = decision.speaks
        if decision.speaks:
            watch.answered_at.append(len(self.clips))
        self.decisions.append(decision)
        if watch.on_decision is not None:
            watch.on_decision(decision)

    @torch.no_grad()
    def watch(self, question: str, on_decision: Callable[[Decision], None] | None = None) -> None:
        self._watch = _Watch(question, self.model.words(question), len(self.clips), on_decision)
        self.decisions = []

    def should_speak(self) -> bool:
        return self._watch is not None and self._watch.pending

    def poll(self) -> Answer:
        watch = self._watched()
        new, watch.polled = self.decisions[watch.polled :], len(self.decisions)
        text = "Yes" if any(decision.speaks for decision in new) else "No"
        return Answer(text, (), self.take_costs(self.usage()))

    def speak(self, generation: Generation = Generation()) -> Answer:
        watch = self._watched()
        # The decision that is being followed is no answer yet.
        answered_at = watch.answered_at[:-1] if watch.pending else watch.answered_at
        watch.pending = False
        read = watch.question, generation, watch.words, watch.asked_at, answered_at
        return self.answer(partial(self.retrieved_question, *read), generation)

    def _watched(self) -> _Watch:
        if self._watch is None:
            raise StcError("nothing is watched for; call watch() with a question first")
        return self._watch

    def question(self, question: str, generation: Generation, search: str) -> Question:
        # As released, the compact model takes the question as asked at the start of the stream.
        return self.retrieved_question(question, generation, self.model.words(search))

    def retrieve(self, clips: ClipMemory, words: Words, *history: Any) -> Retrieved:
        """The clips that a question gets; `history` as for `DispiderNet.query`."""
        net, retrieval = self.model.net, self.model.options.retrieval
        stream = retrieval == "stream"
        query = net.query(clips, words, *history) if stream else net.offline_query(clips, words)
        return net.find(clips, query, retrieval)

    def retrieved_question(
        self, question: str, generation: Generation, words: Words, *history: Any
    ) -> Question:
        """Retrieve clips for a question; `history` as for `DispiderNet.query`."""
        model = self.model
        if not self.times_s:
            raise StcError("no frame has come: Dispider answers from clips; ask after the first frame")
        filling = self._filling_clip()
        clips = self.clips if filling is None else ClipMemory([*self.clips, filling])
        retrieved = self.retrieve(clips, words, *history)
        prompt = model.prompt(model.net.visual(clips, retrieved.clips), question, generation.opening)
        return Question(Full().open(model.llm), prompt, self.usage(), held=self.clips)


class Dispider(LoadedModel):
    """A loaded Dispider; its parts are spec, networks, and the tokenizers of its large and compact model."""

    stream_class = DispiderStream
    check_fit = staticmethod(check_fit)
    proactive = True
    options: DispiderOptions

    @classmethod
    def read_config(cls, settings: Settings) -> DispiderSpec:
        return DispiderSpec.from_dir(checkpoint_folder(settings, weights=False))

    @classmethod
    def load(cls, settings: Settings, dtype: str | torch.dtype, device: torch.device) -> tuple[Any, ...]:
        folder = checkpoint_folder(settings, weights=True)
        spec = DispiderSpec.from_dir(folder)
        tokenizer, compact = (load_tokenizer(path) for path in (spec.folder, spec.decision_folder))
        networks = load_networks(spec, entries(folder), dtype, device, settings.attn_implementation)
        for size, words in ((spec.reaction.vocab_size, tokenizer), (spec.decision.vocab_size, compact)):
            if len(words) > size:
                raise CheckpointError(
                    f"{str(folder)!r}: a tokenizer has {len(words)} tokens, its model {size} embeddings"
                )
        penalty = spec.repetition_penalty
        if penalty != 1:
            logger.warning("%s asks for repetition_penalty=%g; decoding stays greedy", folder, penalty)
        return spec, networks, tokenizer, compact

    def assemble(self, spec: DispiderSpec, networks: Networks, *tokenizers: PreTrainedTokenizerBase) -> None:
        self.spec, (self.tokenizer, self.compact_tokenizer) = spec, tokenizers
        self.net = DispiderNet(spec, networks)
        self.llm = compat_llm.LanguageModel(networks.reaction)
        self.tower = open_tower(networks.vision, spec.select_layer)
        self.context_limit = spec.reaction.max_position_embeddings
        self.eos_ids = compat.eos_ids(networks.reaction, self.tokenizer, texts.END_OF_TURN) | spec.eos_ids
        if self.options.grid == "released":
            length = self.options.frames_per_clip
            self.select_frames = partial(texts.released_sampling, frames_per_clip=length)
        for line in self.off_distribution:
            logger.warning("%s", line)

    @property
    def off_distribution(self) -> list[str]:
        """Differences between the settings and those Dispider was trained with."""
        fps, length, lines = self.settings.fps, self.options.frames_per_clip, []
        if fps != TRAINED_FPS and self.select_frames is None:
            lines.append(f"fps={fps:g}: Dispider was trained at about {TRAINED_FPS:g} fps")
        if length != TRAINED_FRAMES:
            lines.append(f"frames_per_clip={length}: Dispider was trained with {TRAINED_FRAMES}")
        return lines

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "attention": f"tower sdpa, both llms {self.settings.attn_implementation}, causal",
            "checkpoint_layout": self.spec.layout,
            "off_distribution": self.off_distribution,
        }

    def pixels(self, frames: np.ndarray) -> Tensor:
        """Frames uint8 [F,H,W,3] to the pixel values [F,3,S,S] of the tower."""
        return pixel_values(frames, self.tower.config.image_size, self.device, self.dtype)

    def project(self, features_FTD: Tensor) -> Tensor:
        return self.net.merge(features_FTD)

    def perceive(self, tokens_FRC: Tensor, span_s: tuple[float, float]) -> ClipState:
        """A clip from its merged tokens, and its start and end in seconds."""
        sentence = self._compact_embeds(texts.time_sentence(*span_s))
        return ClipState(tokens_FRC, *self.net.perceive(tokens_FRC, sentence), *span_s)

    def words(self, question: str) -> Words:
        """What the compact model reads of a question."""
        read = texts.decision_question(question), texts.TO_DO, texts.HAS_ANSWER
        return Words(*map(self._compact_embeds, read))

    def prompt(self, visual_LH: Tensor, question: str, opening: str = "") -> Tensor:
        """Embeddings [L,H] of the whole prompt of the model that answers."""
        before, after = texts.reaction_prompt(question, opening, self.spec.image_markers)
        return torch.cat((self.embed_text(before), visual_LH, self.embed_text(after)))

    def _compact_embeds(self, text: str) -> Tensor:
        ids = self.compact_tokenizer(text, add_special_tokens=False).input_ids
        return self.net.embed(to_device(ids, self.device, torch.long))
