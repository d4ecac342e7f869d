"""One video in a Dispider model.

A question that comes while a clip is filling sees the clip as far as it has come, and the stream goes on as
if nobody had asked. After every full clip the compact model decides whether the question that is watched
for, if there is one, should be answered now.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stc_lmms.engine.api import (
    Answer,
    Decision,
    Generation,
    ProactiveStream,
    Progress,
    check_frames,
    check_length,
)
from stc_lmms.engine.decoding import greedy
from stc_lmms.engine.encoder import FrameEncoder
from stc_lmms.engine.timers import Efficiency, StageClock, peak_memory_bytes
from stc_lmms.errors import StcError
from stc_lmms.memory.full import Full
from stc_lmms.models.dispider.memory import ClipMemory, ClipState
from stc_lmms.models.dispider.net import Found, Words
from stc_lmms.models.dispider.prompt import clip_span

if TYPE_CHECKING:
    from stc_lmms.models.dispider.model import Dispider

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class _Watch:
    """A question that is watched for.

    Attributes:
        question: its text.
        words: what the compact model reads of it.
        asked_at: how many clips there were.
        told: gets every decision.
        answered_at: how many clips there were at each decision to answer.
        summaries: the summaries of the clips between those.
        pending: the newest decision was to answer, and nobody has.
        polled: how many decisions there were at the last poll.
    """

    question: str
    words: Words
    asked_at: int
    told: Callable[[Decision], None] | None
    answered_at: list[int] = dataclasses.field(default_factory=list)
    summaries: dict[tuple[int, int], Tensor] = dataclasses.field(default_factory=dict)
    pending: bool = False
    polled: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes on the compute device."""
        return sum(x.nbytes for x in (*self.words, *self.summaries.values()))


class DispiderStream(ProactiveStream):
    """Clips, the one that is filling, and what is watched for.

    Attributes:
        clips: the complete clips so far.
        decisions: of the question that is watched for.
    """

    def __init__(self, model: "Dispider"):
        self.model = model
        self.clock = StageClock(model.device)
        self.encoder = FrameEncoder(
            self.clock, model.capture, model.tower, model.method.tower, model.net.merge
        )
        self.tower_state = self.encoder.state
        self.reset()

    def reset(self) -> None:
        """Forget everything, the question that is watched for included."""
        self.encoder.reset()
        self.frame_selection = None
        self.clips = ClipMemory()
        self.decisions: list[Decision] = []
        self._filling: list[Tensor] = []  # merged tokens [.,R,C] of the clip that is not full yet
        self._times_s: list[float] = []  # of its frames, from the first frame of the stream on
        self._watch: _Watch | None = None
        self._long = False  # that it is has been told
        self._position_s, self._origin_s = -math.inf, 0.0
        self.clock.take()

    @property
    def position_s(self) -> float:
        """Time of the newest frame."""
        return self._position_s

    @property
    def nbytes(self) -> int:
        """Bytes on the compute device: memory, filling clip, tower references, the question watched for."""
        filling = sum(x.nbytes for x in self._filling)
        watch = self._watch.nbytes if self._watch is not None else 0
        return self.clips.nbytes + filling + watch + self.encoder.nbytes

    @property
    def progress(self) -> Progress:
        """See `Stream.progress`."""
        per_frame = self.model.spec.tokens_per_frame
        return Progress(self.encoder.frames, float(per_frame), self.encoder.recomputed)

    @torch.no_grad()
    def observe(self, frames: np.ndarray, times_s: Sequence[float]) -> None:
        """See `Stream.observe`; encodes by `prefill_frames`, never over the end of a clip."""
        check_frames(frames, times_s, self.position_s, again=self.frame_selection is not None)
        settings, clip = self.model.settings, self.model.options.frames_per_clip
        check_length(settings.max_frames, self.encoder.frames + len(frames))
        if len(frames) and not self.encoder.frames:
            # As released, times count from the start of what is watched, up to a second before this frame.
            self._origin_s = (
                math.floor(times_s[0]) if self.frame_selection is None else self.frame_selection.start_s
            )
        start = 0
        while start < len(frames):
            end = min(start + settings.prefill_frames, start + clip - len(self._times_s), len(frames))
            with self.clock.stage("preprocess_ms"):
                pixels = self.model.pixels(frames[start:end])
            self._filling.append(self.encoder.encode(pixels))
            self._times_s.extend(time_s - self._origin_s for time_s in times_s[start:end])
            self._position_s, start = times_s[end - 1], end
            if len(self._times_s) == clip:
                with self.clock.stage("prefill_ms"):
                    self.clips.append(self._gathered())
                self._filling, self._times_s = [], []
                self._warn_if_long()
                self._decide()

    def _gathered(self) -> ClipState | None:
        """The clip that is filling, as far as it has come."""
        if not self._filling:
            return None
        settings, full = self.model.settings, len(self._times_s) == self.model.options.frames_per_clip
        # On a grid, a full clip lasts until the next frame; one that is filling ends with the frame it has.
        last_s = 1 / self.frame_selection.avg_fps if self.frame_selection is not None else full / settings.fps
        return self.model.perceive(torch.cat(self._filling), clip_span(self._times_s, last_s))

    def _warn_if_long(self) -> None:
        states = len(self.clips) * len(self.clips[0].memory_MD)
        limit = self.model.spec.decision.max_position_embeddings
        if states > limit and not self._long:
            self._long = True
            logger.warning(
                "%d clips have %d memory states, more than the %d tokens that the model which finds clips "
                "was made for: it may find the wrong ones",
                len(self.clips),
                states,
                limit,
            )

    def _decide(self) -> None:
        watch = self._watch
        if watch is None:
            return
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
        if watch.told is not None:
            watch.told(decision)

    @torch.no_grad()
    def watch(self, question: str, on_decision: Callable[[Decision], None] | None = None) -> None:
        """See `ProactiveStream.watch`; a decision is made after every full clip."""
        self._watch = _Watch(question, self.model.words(question), len(self.clips), on_decision)
        self.decisions = []

    def should_speak(self) -> bool:
        """See `ProactiveStream.should_speak`."""
        return self._watch is not None and self._watch.pending

    def poll(self) -> Answer:
        """See `ProactiveStream.poll`."""
        watch = self._watched()
        fresh, watch.polled = self.decisions[watch.polled :], len(self.decisions)
        text = "Yes" if any(decision.speaks for decision in fresh) else "No"
        return Answer(text, (), self._take_costs())

    def speak(self, generation: Generation = Generation()) -> Answer:  # noqa: B008 - frozen
        """See `ProactiveStream.speak`."""
        watch = self._watched()
        # The decision that is being followed is no answer yet.
        answered_at = watch.answered_at[:-1] if watch.pending else watch.answered_at
        watch.pending = False
        return self._answer(watch.question, generation, watch.words, watch.asked_at, answered_at)

    def _watched(self) -> _Watch:
        if self._watch is None:
            raise StcError("nothing is watched for; call watch() with a question first")
        return self._watch

    @torch.no_grad()
    def ask(
        self,
        question: str,
        generation: Generation = Generation(),  # noqa: B008 - frozen
        *,
        search: str | None = None,
    ) -> Answer:
        """See `Stream.ask`; as released, the compact model takes the question as asked at the start."""
        return self._answer(question, generation, self.model.words(question if search is None else search))

    def retrieve(
        self, clips: ClipMemory, words: Words, asked_at: int = 0, answered_at: Sequence[int] = ()
    ) -> Found:
        """The clips that a question gets; arguments as for `DispiderNet.query`."""
        net, retrieval = self.model.net, self.model.options.retrieval
        if retrieval == "offline":
            query = net.offline_query(clips, words)
        else:
            query = net.query(clips, words, asked_at, answered_at)
        return net.find(clips, query, retrieval)

    @torch.no_grad()
    def _answer(
        self,
        question: str,
        generation: Generation,
        words: Words,
        asked_at: int = 0,
        answered_at: Sequence[int] = (),
    ) -> Answer:
        model = self.model
        if not self.encoder.frames:
            raise StcError("no frame has come: Dispider answers from clips; ask after the first frame")
        self.clock.wait()  # the time to the first token begins with the question
        start = time.perf_counter()
        clips = self.clips.followed_by(self._gathered())
        found = self.retrieve(clips, words, asked_at, answered_at)
        prompt = model.prompt(model.net.visual(clips, found.clips), question, generation.opening)
        found_ms = (time.perf_counter() - start) * 1e3  # what is queued still is waited for below
        with Full().open(model.llm).ask() as reader:
            decoded = greedy(
                reader,
                prompt,
                model.llm.embed,
                lambda ids: model.tokenizer.decode(ids, skip_special_tokens=True),
                model.eos_ids,
                generation,
            )
        efficiency = dataclasses.replace(
            self._take_costs(),
            ttft_ms=found_ms + decoded.ttft_ms,
            per_token_ms=decoded.per_token_ms,
            new_tokens=len(decoded.token_ids),
            context_tokens=len(prompt),
            kv_bytes=self.clips.nbytes,
            archive_bytes=self.clips.archive_nbytes,
            state_bytes=self.nbytes,
            peak_memory_bytes=peak_memory_bytes(model.device),
        )
        return Answer(decoded.text, decoded.token_ids, efficiency)

    def _take_costs(self) -> Efficiency:
        """What the stream has done since the last bill."""
        per_frame = self.model.spec.tokens_per_frame
        return Efficiency(
            llm_tokens_mean=float(per_frame),
            llm_tokens_max=per_frame,
            **self.encoder.take_costs(),
            **self.clock.take(),
        )
