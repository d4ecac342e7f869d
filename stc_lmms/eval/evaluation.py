"""What all harnesses share: a streaming model that answers dialogues, and the journal of finished ones.

Dialogues about one video are merged in order of time, so the video is read and encoded only once.
"""

import heapq
import itertools
import logging
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stc_lmms.config import Settings
from stc_lmms.demo.pretrained import NOTICE, is_demo
from stc_lmms.engine.api import StreamingModel
from stc_lmms.errors import SettingsError, StcError, VideoError, fail
from stc_lmms.eval.dialogue import Dialogue, Round, reason
from stc_lmms.eval.fingerprint import file_identity
from stc_lmms.eval.recorder import Recorder
from stc_lmms.eval.scoring import AnsweredRound
from stc_lmms.eval.session import VideoSession
from stc_lmms.eval.stopping import Stop
from stc_lmms.models import registry
from stc_lmms.results.journal import Journal
from stc_lmms.settings import resolve
from stc_lmms.video.decode import open_video

logger = logging.getLogger(__name__)


class Evaluation:
    """A streaming model during one run; base class of the harness adapters.

    Exits with status 2 and one line on standard error when an argument or the checkpoint is wrong: harnesses
    turn exceptions into a traceback and exit status 0.
    """

    opener = staticmethod(open_video)
    registered: str  # name in `stc_lmms/models/registry.py`

    def open_run(
        self, model_args: Mapping[str, Any], device: str, rank: int = 0, also: Iterable[str] = ()
    ) -> None:
        """Check the arguments and print what they resolve to on rank 0; called by the adapter's constructor.

        Args:
            model_args: see `stc_lmms.config.Settings`, without `device`.
            device: torch device.
            rank: of this process.
            also: see `resolve`.
        """
        self._model: StreamingModel | None = None
        self._session: VideoSession | None = None
        self._noted: set[tuple[str, str]] = set()  # (video, note) pairs already logged
        self._broken_videos = 0  # answers that failed because their video cannot be read
        try:
            self._device = _device(device)
            self.settings = checked(self.registered, {**model_args, "device": device}, also)
        except StcError as error:
            fail(error)
        if rank == 0:
            if is_demo(self.settings.pretrained):
                print(f"stc-lmms: {NOTICE}", file=sys.stderr)
            resolved = ", ".join(f"{k}={v}" for k, v in self.settings.flat().items())
            print(f"stc-lmms: settings: {resolved}", file=sys.stderr)

    @property
    def model(self) -> StreamingModel:
        """The model, loaded for the first question; a resumed run may never need it."""
        if self._model is None:
            try:
                self._model = self.load()
            except StcError as error:
                fail(error)
            except (RuntimeError, MemoryError) as error:  # out of memory, a broken driver
                fail(StcError(f"cannot load {self.settings.pretrained!r}: {reason(error)}"))
        return self._model

    def load(self) -> StreamingModel:
        """Load the weights; overridden where several runs share them."""
        return registry.model(self.registered).load_class()(self.settings)

    def play(self, todo: Iterable[Dialogue], stop: Stop | None = None) -> Iterator[Dialogue]:
        """Answer the dialogues video by video until `stop`; yields each dialogue as it finishes."""
        by_video: dict[str, list[Dialogue]] = {}
        for dialogue in todo:
            first = dialogue.next
            by_video.setdefault(first.clip.path if first and first.clip else "", []).append(dialogue)
        if by_video and self._session is None:
            self._session = VideoSession(self.model, self.opener)
        count = itertools.count()  # ties keep the order of the dialogues
        for dialogues in by_video.values():
            queue = [(_when(dialogue.next), next(count), dialogue) for dialogue in dialogues]
            heapq.heapify(queue)
            while queue and not (stop and stop.asked):
                _, _, dialogue = heapq.heappop(queue)
                if dialogue.next is not None:
                    dialogue.respond(self._answer(self._session, dialogue))
                if dialogue.next is None:
                    yield dialogue
                else:
                    heapq.heappush(queue, (_when(dialogue.next), next(count), dialogue))

    def close_video(self, recorder: Recorder | None = None) -> None:
        """Release the last video; until then its stream holds its KV cache."""
        if self._session is not None:
            self._session.close()
            if recorder is not None:
                recorder.restarts += self._session.restarts
                recorder.broken_videos += self._broken_videos
        self._session, self._broken_videos = None, 0

    def _answer(self, session: VideoSession, dialogue: Dialogue) -> AnsweredRound:
        current = dialogue.next
        if current.failed:
            return AnsweredRound("", failed=current.failed)
        try:
            generation = replace(dialogue.generation, opening=current.opening)
            if current.watch and session.model.proactive:
                answer, note = session.poll(current.watch, current.clip)
            else:
                answer, note = session.ask(current.prompt, current.clip, generation, current.search)
        except (
            Exception
        ) as error:  # the sample is recorded as failed and counted as wrong; the batch continues
            why = str(error) if isinstance(error, StcError) else reason(error)
            logger.warning("failed: %s", why)
            self._broken_videos += isinstance(error, VideoError)
            logger.debug("traceback", exc_info=True)
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            return AnsweredRound("", failed=why)
        if note.text and (current.clip.path, note.text) not in self._noted:
            self._noted.add((current.clip.path, note.text))
            logger.warning("%s: %s", current.clip.path, note.text)
        efficiency = answer.efficiency.to_dict()
        return AnsweredRound(answer.text, efficiency=efficiency, note=note.text, past_end=note.past_end)


def checked(registered: str, model_args: Mapping[str, Any], also: Iterable[str] = ()) -> Settings:
    """The resolved settings of a model; loads no weights.

    Raises:
        SettingsError, CheckpointError: the model refuses them.
    """
    model = registry.model(registered)
    settings = resolve(model_args, model=model.name, also=also)
    model.load_class().check(settings)
    return settings


def open_journal(folder: Path, rank: int, fix: str) -> Journal:
    """The journal in a folder; if it cannot be written, exits with one line that ends in `fix`."""
    try:
        return Journal(folder, rank)
    except OSError as error:
        fail(StcError(f"cannot write the journal in {folder} ({error.strerror}); {fix}"))


def write_entry(
    journal: Journal, key: str, dialogue: Dialogue, model: Mapping[str, Any] | None, begun: bool = False
) -> None:
    """Write a finished dialogue, or one that has `begun`; exits with one line if the disk is full."""
    entry = {
        "task": dialogue.task,
        "doc_id": dialogue.doc_id,
        "failed": dialogue.failed,
        "videos": [file_identity(path) for path in dialogue.videos],
        "responses": [answer.text for answer in dialogue.answered],
        "records": [answer.record() for answer in dialogue.answered],
        "model": model,
    }
    try:
        journal.put(key, entry, begun)
    except StcError as error:
        fail(error)


def resume(journal: Journal | None, key: str, dialogue: Dialogue) -> dict[str, Any] | None:
    """Fill in a dialogue's answers from the journal, unless its videos have changed since.

    Returns:
        The entry, or None if the dialogue must be played; one that a stopped run left unfinished continues
        after its answers so far.
    """
    if journal is None:
        return None
    entry = journal.get(key)
    if _unchanged(entry):
        dialogue.answered = from_entry(entry)
        return entry
    begun = journal.begun(key)
    if _unchanged(begun):
        for answer in from_entry(begun):
            dialogue.respond(answer)
    return None


def from_entry(entry: Mapping[str, Any]) -> list[AnsweredRound]:
    """The answers in a journal entry."""
    pairs = zip(entry["responses"], entry["records"], strict=True)
    return [AnsweredRound(text, **record) for text, record in pairs]


def _unchanged(entry: Mapping[str, Any] | None) -> bool:
    return entry is not None and entry["videos"] == [file_identity(v[0]) for v in entry["videos"]]


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError:
        raise SettingsError(f"torch has no device={name!r}; use cuda, cuda:0 or cpu") from None


def _when(question: Round | None) -> tuple[float, float]:
    clip = question.clip if question else None
    if clip is None:
        return (-math.inf, 0.0)
    return (clip.start_s, math.inf if clip.end_s is None else clip.end_s)
