"""What all harnesses share: a streaming model that answers jobs, journals them and records what they cost.

Jobs are regrouped by video and their questions merged in order of time, so that every video is read and
encoded once, whatever number of tasks ask about it.
"""

import heapq
import itertools
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from stc_lmms.config import Settings
from stc_lmms.demo.pretrained import NOTICE, is_demo
from stc_lmms.engine.api import StreamingModel
from stc_lmms.errors import SettingsError, StcError, VideoError
from stc_lmms.eval.dialogue import AnswerText, Dialogue, Round, reason
from stc_lmms.eval.fingerprint import file_identity
from stc_lmms.eval.session import VideoSession
from stc_lmms.eval.stopping import Stop
from stc_lmms.models import registry
from stc_lmms.results.journal import Journal
from stc_lmms.results.record import RunRecord
from stc_lmms.settings import resolve
from stc_lmms.video.decode import open_video

logger = logging.getLogger(__name__)


def fail(error: Exception) -> NoReturn:
    """One line on standard error and exit status 2."""
    print(f"stc-lmms: error: {error}", file=sys.stderr)
    raise SystemExit(2)


class Evaluation:
    """A streaming model for the length of a run; the adapters of the harnesses inherit from it.

    Exits with status 2 and one line on standard error when an argument or the checkpoint is wrong: harnesses
    turn exceptions into a traceback and exit status 0.
    """

    opener = staticmethod(open_video)
    registered: str  # name in `stc_lmms/models/registry.py`

    def open_run(
        self, model_args: Mapping[str, Any], device: str, rank: int = 0, also: Iterable[str] = ()
    ) -> None:
        """Check the arguments and tell what they resolve to; called by the adapter's constructor.

        Args:
            model_args: see `stc_lmms.config.Settings`, without `device`.
            device: torch device.
            rank: only the first process tells.
            also: see `resolve`.
        """
        self._model: StreamingModel | None = None
        self._session: VideoSession | None = None
        self._noted: set[tuple[str, str]] = set()  # what has been logged: (video, note)
        self._broken_videos = 0  # questions that failed because of their video
        try:
            self._device = _device(device)
            self.settings: Settings = checked(
                self.registered, dict(model_args) | {"device": device}, also=also
            )
        except StcError as error:
            fail(error)
        if rank == 0:
            if is_demo(self.settings.pretrained):
                print(f"stc-lmms: {NOTICE}", file=sys.stderr)
            shown = ", ".join(f"{k}={v}" for k, v in self.settings.flat().items())
            print(f"stc-lmms: settings: {shown}", file=sys.stderr)

    @property
    def model(self) -> StreamingModel:
        """The model; weights are loaded when the first question needs them, so a resumed run may not."""
        if self._model is None:
            try:
                self._model = self.load()
            except StcError as error:
                fail(error)
            except (RuntimeError, MemoryError) as error:  # out of memory, a broken driver
                fail(StcError(f"cannot load {self.settings.pretrained!r}: {reason(error)}"))
        return self._model

    def load(self) -> StreamingModel:
        """Load the weights; a comparison of several runs shares them."""
        return registry.model(self.registered).load_class()(self.settings)

    def play(self, todo: Iterable[Dialogue], stop: Stop | None = None) -> Iterator[Dialogue]:
        """Run the jobs video by video, until told to stop; yields each as it finishes."""
        by_video: dict[str, list[Dialogue]] = {}
        for job in todo:
            first = job.next
            by_video.setdefault(first.clip.path if first and first.clip else "", []).append(job)
        if by_video and self._session is None:
            self._session = VideoSession(self.model, self.opener)
        count = itertools.count()  # ties keep the order in which the jobs came
        for jobs in by_video.values():
            queue = [(_when(job.next), next(count), job) for job in jobs]
            heapq.heapify(queue)
            while queue and not (stop and stop.asked):
                _, _, job = heapq.heappop(queue)
                if job.next is not None:
                    job.respond(self._answer(self._session, job))
                if job.next is None:
                    yield job
                else:
                    heapq.heappush(queue, (_when(job.next), next(count), job))

    def close_video(self, record: RunRecord | None = None) -> None:
        """Let go of the video that was played last; its stream holds its KV until then."""
        if self._session is not None:
            self._session.close()
            if record is not None:
                record.restarts += self._session.restarts
                record.broken_videos += self._broken_videos
        self._session, self._broken_videos = None, 0

    def _answer(self, player: VideoSession, job: Dialogue) -> AnswerText:
        asked = job.next
        if asked.failed:
            return AnswerText("", {"failed": asked.failed})
        try:
            generation = replace(job.generation, opening=asked.opening)
            if asked.watch and player.model.proactive:
                answer, note = player.poll(asked.watch, asked.clip)
            else:
                answer, note = player.ask(asked.prompt, asked.clip, generation, asked.search)
        # A bad sample is recorded, counted as wrong and as failed; the batch goes on.
        except Exception as error:
            why = str(error) if isinstance(error, StcError) else reason(error)
            logger.warning("failed: %s", why)
            self._broken_videos += isinstance(error, VideoError)
            logger.debug("traceback", exc_info=True)
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            return AnswerText("", {"failed": why})
        if note.text and (asked.clip.path, note.text) not in self._noted:
            self._noted.add((asked.clip.path, note.text))
            logger.warning("%s: %s", asked.clip.path, note.text)
        noted = {"note": note.text, "past_end": note.past_end} if note.text else {}
        return AnswerText(answer.text, {"efficiency": answer.efficiency.to_dict()} | noted)


def checked(registered: str, model_args: Mapping[str, Any], also: Iterable[str] = ()) -> Settings:
    """Settings that fit the model, without loading it.

    Raises:
        SettingsError, CheckpointError: they do not.
    """
    chosen = registry.model(registered)
    settings = resolve(model_args, model=chosen.name, also=also)
    chosen.load_class().check(settings)
    return settings


def open_journal(folder: Path, rank: int, fix: str) -> Journal:
    """The journal in a folder; exits with one line that ends in `fix` when it cannot be written."""
    try:
        return Journal(folder, rank)
    except OSError as error:
        fail(StcError(f"cannot write the journal in {folder} ({error.strerror}); {fix}"))


def write_entry(
    journal: Journal, key: str, job: Dialogue, model: Mapping[str, Any] | None, begun: bool = False
) -> None:
    """Put a finished job into the journal, or with `begun` one as far as it was answered.

    Exits with status 2 and one line when the file cannot be written.
    """
    entry = {
        "task": job.task,
        "doc_id": job.doc_id,
        "failed": job.failed,
        "videos": [file_identity(path) for path in job.videos],
        "responses": [str(r) for r in job.responses],
        "records": [r.record for r in job.responses],
        "model": model,
    }
    try:
        journal.put(key, entry, begun)
    except StcError as error:
        fail(error)


def resume(journal: Journal | None, key: str, job: Dialogue) -> dict[str, Any] | None:
    """Fill in the answers that the journal has of a job, unless its videos have changed since.

    Of a job that a stopped run has begun, the answers so far are filled in, and it goes on behind them.

    Returns:
        The entry, or None if the job must be played.
    """
    entry = journal.get(key) if journal is not None else None
    if _unchanged(entry):
        job.responses = list(map(AnswerText, entry["responses"], entry["records"]))
        return entry
    begun = journal.begun(key) if journal is not None else None
    if _unchanged(begun):
        for response in map(AnswerText, begun["responses"], begun["records"]):
            job.respond(response)
    return None


def _unchanged(entry: Mapping[str, Any] | None) -> bool:
    return entry is not None and entry["videos"] == [file_identity(v[0]) for v in entry["videos"]]


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError:
        raise SettingsError(f"device={name!r} is none that torch knows; use cuda, cuda:0 or cpu") from None


def _when(asked: Round | None) -> tuple[float, float]:
    clip = asked.clip if asked else None
    if clip is None:
        return (float("-inf"), 0.0)
    return (clip.start_s, float("inf") if clip.end_s is None else clip.end_s)
