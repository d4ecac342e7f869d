"""The stream engine of every model: observing, asking, resetting and accounting.

A model says how a group of frames becomes tokens (`take_in`) and what a question reads (`question`).
"""

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stc_lmms.engine.api import Answer, Generation, Progress, Stream, check_frames
from stc_lmms.engine.decoding import Adjust, Decoded, greedy
from stc_lmms.engine.encoder import FrameEncoder
from stc_lmms.engine.model import LoadedModel
from stc_lmms.engine.timers import Efficiency, StageClock, peak_memory_bytes
from stc_lmms.errors import StcError
from stc_lmms.memory.base import Reader, StreamMemory
from stc_lmms.methods.budget import Usage, usage
from stc_lmms.ops.positions import ContiguousPositions, PositionedEmbeds


@dataclass(frozen=True)
class Question:
    """What an answer is decoded from.

    Attributes:
        prompt: embeddings [L,D] of all that follows the memory.
        usage: LLM tokens per frame that the answer reads.
        positions: position the answer's tokens, a `MropePositions` for instance; decoding advances them.
        search_LD: query of a memory that retrieves.
        held: what `kv_bytes` and `archive_bytes` of the record count; None: `memory`.
    """

    memory: StreamMemory
    prompt: Tensor | PositionedEmbeds
    usage: Usage
    positions: Any = field(default_factory=ContiguousPositions)
    search_LD: Tensor | None = None
    adjust: Adjust | None = None
    held: Any = None


class ModelStream(Stream):
    """Base of the streams of this package's models.

    Attributes:
        times_s: time stamps of all frames observed.
        kept: tokens of every frame in `memory`.
    """

    memory: StreamMemory | None = None  # None if the model has one of its own

    def __init__(self, model: LoadedModel):
        self.model = model
        self.clock = StageClock(model.device)
        self.encoder = self.open_encoder()
        self.reset()

    def open_encoder(self) -> FrameEncoder:
        model = self.model
        return FrameEncoder(self.clock, model.capture, model.tower, model.method.tower, model.project)

    @abstractmethod
    def take_in(self, frames: np.ndarray, times_s: Sequence[float]) -> None:
        """Encode the next group of frames and keep what the model keeps of them."""

    @abstractmethod
    def question(self, question: str, generation: Generation, search: str) -> Question:
        """What an answer is decoded from; leaves the stream as it was. Its time is part of `ttft_ms`."""

    def usage(self) -> Usage:
        """LLM tokens per frame that a question would read."""
        return usage(self.kept)

    def start(self) -> None:
        """Set the model's own state to that of an empty stream."""

    def finish_group(self) -> None:
        """Follow up on a group of frames, after `times_s` counts them."""

    def prefix(self) -> Tensor | PositionedEmbeds:
        """Embeddings of the text before the video; by default, there is none."""
        return self.model.embed([])

    @property
    def group_frames(self) -> int:
        """Largest size of the next group of frames."""
        return self.model.settings.prefill_frames

    @property
    def own_nbytes(self) -> int:
        """Bytes on the device besides those of `memory` and `encoder`."""
        return 0

    @property
    def position_s(self) -> float:
        return self.times_s[-1] if self.times_s else -math.inf

    @property
    def nbytes(self) -> int:
        memory = self.memory.nbytes if self.memory is not None else 0
        return memory + self.encoder.nbytes + self.own_nbytes

    @property
    def progress(self) -> Progress:
        return Progress(len(self.times_s), self.usage().mean, self.encoder.recomputed)

    def reset(self) -> None:
        if self.memory is not None:
            self.memory.close()
        if self.model.memory is not None:
            self.memory = self.model.memory.open(self.model.llm)
        self.encoder.reset()
        self.frame_selection = None
        self.times_s: list[float] = []
        self.kept: list[int] = []
        self._billed = (0, 0, 0, 0)
        self.start()
        self.clock.take()

    @torch.no_grad()
    def observe(self, frames: np.ndarray, times_s: Sequence[float]) -> None:
        check_frames(frames, times_s, self.position_s, may_repeat=self.frame_selection is not None)
        limit = self.model.settings.max_frames
        if limit is not None and len(self.times_s) + len(frames) > limit:
            raise StcError(f"the stream is longer than max_frames={limit}; raise it or sample at a lower fps")
        start = 0
        while start < len(frames):
            end = start + self.group_frames
            self.take_in(frames[start:end], times_s[start:end])
            self.times_s.extend(times_s[start:end])
            self.finish_group()
            start = end

    def begin(self) -> None:
        """Prefill the text before the video, once per stream."""
        if self.memory is not None and self.memory.length == 0:
            with self.clock.stage("prefill_ms"):
                prefix = self.prefix()
                if len(prefix):
                    self.memory.begin(prefix)

    def ask(
        self, question: str, generation: Generation = Generation(), *, search: str | None = None
    ) -> Answer:
        search = question if search is None else search
        return self.answer(lambda: self.question(question, generation, search), generation)

    @torch.no_grad()
    def answer(self, prepare: Callable[[], Question], generation: Generation) -> Answer:
        """Decode an answer from what `prepare` returns; the time to the first token includes that call."""
        self.begin()
        self.clock.wait()  # work queued before the question is not part of its time
        start = time.perf_counter()
        question = prepare()
        with question.memory.ask(question.search_LD) as reader:
            prepared_ms = (time.perf_counter() - start) * 1e3  # work still queued is waited for in `decode`
            decoded = self.decode(reader, question, generation)
            context_tokens = reader.context_tokens + len(question.prompt)
        held = question.memory if question.held is None else question.held
        efficiency = self.take_costs(
            question.usage,
            ttft_ms=prepared_ms + decoded.ttft_ms,
            per_token_ms=decoded.per_token_ms,
            new_tokens=len(decoded.token_ids),
            context_tokens=context_tokens,
            kv_bytes=held.nbytes,
            archive_bytes=held.archive_nbytes,
            state_bytes=self.nbytes,
            peak_memory_bytes=peak_memory_bytes(self.model.device),
        )
        return Answer(decoded.text, decoded.token_ids, efficiency)

    def decode(self, reader: Reader, question: Question, generation: Generation) -> Decoded:
        model, adjust = self.model, question.adjust

        def embed(ids: Tensor) -> Tensor | PositionedEmbeds:
            return question.positions.text(model.llm.embed(ids))

        return greedy(reader, question.prompt, embed, model.decode_text, model.eos_ids, generation, adjust)

    def take_costs(self, usage: Usage, **of_answer: Any) -> Efficiency:
        """The record of what the stream did since the last call, and of an answer."""
        encoder = self.encoder
        now = (len(self.times_s), encoder.graphed, encoder.tower_tokens, encoder.tokens_recomputed)
        frames, graphed, tokens, recomputed = (a - b for a, b in zip(now, self._billed, strict=True))
        self._billed = now
        return Efficiency(
            frames_seen=len(self.times_s),
            frames_encoded=frames,
            frames_graphed=graphed,
            tower_tokens=tokens,
            tower_tokens_recomputed=recomputed,
            llm_tokens_mean=usage.mean,
            llm_tokens_max=usage.maximum,
            **self.clock.take(),
            **of_answer,
        )
