"""The lmms-eval model: streaming models behind `generate_until` and `generate_until_multi_round`.

All requests of a run arrive in one call. They are regrouped by video and their questions merged in order of
time, so that every video is read and encoded once, whatever number of tasks ask about it.
"""

import heapq
import itertools
import logging
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import PartialState
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from stc_lmms.demo.pretrained import NOTICE, is_demo
from stc_lmms.errors import SettingsError, StcError, VideoError
from stc_lmms.harness.jobs import AnswerText, Job, Round, reason
from stc_lmms.harness.journal import Journal, file_identity, folder_identity, request_key
from stc_lmms.harness.record import RunRecord, new_run
from stc_lmms.harness.stopping import STOPPED, Stop, stoppable
from stc_lmms.models import registry
from stc_lmms.models.base import Generation, StreamingModel, checkpoint
from stc_lmms.settings import Settings, resolve
from stc_lmms.streaming.player import Player
from stc_lmms.streaming.timers import environment
from stc_lmms.video.decode import open_video

logger = logging.getLogger(__name__)


class Harness(lmms):
    """Any streaming model in lmms-eval; the classes at the end of this file name which.

    Args:
        batch_size, max_batch_size: accepted from the harness; streams are evaluated one at a time.
        device: torch device; default: this rank's.
        journal: folder of the resume journal, `auto` (in the output path, else in the user's cache) or `off`.
        **model_args: see `stc_lmms.settings.Settings`.

    Exits with status 2 and one line on standard error when an argument or the checkpoint is wrong: lmms-eval
    turns exceptions into a traceback and exit status 0. Told to stop by SIGTERM or SIGUSR1, it finishes the
    question it is at and exits with status 75.
    """

    is_simple = True
    opener = staticmethod(open_video)
    registered: str  # name in `stc_lmms/models/registry.py`

    def __init__(
        self,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        journal: str | bool = "auto",
        **model_args: Any,
    ):
        super().__init__()
        self._journal_arg = str(journal)
        self._model: StreamingModel | None = None
        self._noted: set[tuple[str, str]] = set()  # what has been logged: (video, note)
        self._output: Path | None = None
        state = PartialState()
        self._rank, self._world_size = state.process_index, state.num_processes
        launched = os.environ.get("WORLD_SIZE", "1")
        if self._world_size == 1 and launched not in ("", "1"):
            # accelerate connects processes without a GPU only when told to; each would run everything
            why = f"{launched} processes were launched but are not connected"
            fail(StcError(f"{why}; on CPUs set ACCELERATE_USE_CPU=true"))
        device = str(state.device) if device in (None, "", "auto") else str(device)
        try:
            self._device = _device(device)
            entry = registry.model(self.registered)
            args = model_args | {"device": device}
            self.settings: Settings = resolve(args, model=entry.name, also=("journal",))
            self._class = entry.load_class()
            self._class.check(self.settings)
        except StcError as error:
            fail(error)
        run = new_run(self.settings.method, self._world_size)
        self._record = RunRecord(run, self.settings, self._rank, self._world_size)
        if self._rank == 0:
            if is_demo(self.settings.pretrained):
                print(f"stc-lmms: {NOTICE}", file=sys.stderr)
            shown = ", ".join(f"{k}={v}" for k, v in self.settings.flat().items())
            print(f"stc-lmms: settings: {shown}", file=sys.stderr)

    @property
    def device(self) -> torch.device:
        """Device of this rank."""
        return self._device

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
        return self._class(self.settings)

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Streaming models generate; no task of theirs needs likelihoods."""
        name = registry.model(self.registered).harness_id
        raise NotImplementedError(f"{name} supports generate_until tasks, not loglikelihood")

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """One answer per request, in request order."""
        return self._run(requests)

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """One list of answers per request, in request order."""
        return self._run(requests)

    def _run(self, requests: list[Instance]) -> list[Any]:
        options = _command_line(requests)
        if getattr(options, "use_cache", None):
            fail(
                StcError(
                    "--use_cache would keep failed answers for ever, and lose what the others cost; "
                    "leave it out: a run resumes from its own journal"
                )
            )
        self._output = Path(options.output_path) if getattr(options, "output_path", None) else self._output
        journal = self._open_journal()
        run = self._identity()
        results: list[Any] = [None] * len(requests)
        todo: list[tuple[int, str, Job]] = []
        for index, request in enumerate(requests):
            if request.metadata.get("__padding_only__"):
                results[index] = [""] if request.request_type.endswith("multi_round") else ""
                continue
            job = Job(request, self._doc(request))
            key = self._key(job, run)
            entry = journal.get(key) if journal is not None else None
            if entry is not None and entry["videos"] == [file_identity(v[0]) for v in entry["videos"]]:
                results[index] = self._replay(job, entry)
            else:
                begun = journal.begun(key) if journal is not None else None
                if begun is not None and begun["videos"] == [file_identity(v[0]) for v in begun["videos"]]:
                    for response in map(AnswerText, begun["responses"], begun["records"]):
                        job.respond(response)
                todo.append((index, key, job))
        resumed = sum(r is not None for r in results)
        if resumed and journal is not None and self._rank == 0:
            print(
                f"stc-lmms: {resumed} of {len(requests)} requests from {journal.path.parent}", file=sys.stderr
            )

        if todo:  # before the bar: weights that cannot be loaded are told on a line of their own
            self._record.model = self.model.describe()
        progress = tqdm(total=len(requests), initial=resumed, desc="requests", disable=self._rank != 0)
        with stoppable() as stop:
            for index, key, job in self._play(todo, stop):
                results[index] = job.result
                self._note(job, replayed=False)
                self._keep(journal, key, self._entry(job))
                progress.update()
        progress.close()
        if stop.asked and any(result is None for result in results):
            for _, key, job in todo:
                if job.next is not None and job.responses and not job.failed:
                    self._keep(journal, key, self._entry(job) | {"begun": True})
            print("stc-lmms: stopped as told; start again to go on", file=sys.stderr)
            raise SystemExit(STOPPED)
        if todo:  # again: a captured graph may have failed on the way
            self._record.model = self.model.describe()
        if journal is not None:
            journal.close()
        if options is not None:  # lmms-eval echoes its command line's namespace in the results
            options.stc_run = self._record.run
            options.stc_settings = self.settings.flat()
            options.stc_efficiency = self._record.echo()
        return results

    def _play(self, todo: list[tuple[int, str, Job]], stop: Stop) -> Iterable[tuple[int, str, Job]]:
        """Run the jobs video by video, until told to stop; yields each as it finishes."""
        if not todo:
            return
        player = Player(self.model, self.opener)
        by_video: dict[str, list[tuple[int, str, Job]]] = {}
        for item in todo:
            first = item[2].next
            by_video.setdefault(first.clip.path if first and first.clip else "", []).append(item)
        count = itertools.count()  # ties keep request order
        for items in by_video.values():
            queue = [(_when(item[2].next), next(count), item) for item in items]
            heapq.heapify(queue)
            while queue and not stop.asked:
                _, _, item = heapq.heappop(queue)
                job = item[2]
                if job.next is not None:
                    job.respond(self._answer(player, job))
                if job.next is None:
                    yield item
                else:
                    heapq.heappush(queue, (_when(job.next), next(count), item))
        player.close()
        self._record.restarts += player.restarts

    def _answer(self, player: Player, job: Job) -> AnswerText:
        asked = job.next
        if asked.failed:
            return AnswerText("", {"failed": asked.failed})
        try:
            generation = replace(_generation(job.request.args[1]), opening=asked.opening)
            if asked.watch and player.model.proactive:
                answer, note = player.poll(asked.watch, asked.clip)
            else:
                answer, note = player.ask(asked.prompt, asked.clip, generation, asked.search)
        # A bad sample is recorded, counted as wrong and as failed; the batch goes on.
        except Exception as error:
            why = str(error) if isinstance(error, StcError) else reason(error)
            logger.warning("failed: %s", why)
            self._record.broken_videos += isinstance(error, VideoError)
            logger.debug("traceback", exc_info=True)
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            return AnswerText("", {"failed": why})
        if note.text and (asked.clip.path, note.text) not in self._noted:
            self._noted.add((asked.clip.path, note.text))
            logger.warning("%s: %s", asked.clip.path, note.text)
        noted = {"note": note.text, "past_end": note.past_end} if note.text else {}
        return AnswerText(answer.text, {"efficiency": answer.efficiency.to_dict()} | noted)

    def _doc(self, request: Instance) -> Any:
        doc_id, task, split = request.args[-3:]
        return self.task_dict[task][split][doc_id]

    def _identity(self) -> dict[str, Any]:
        """All that decides the answers of this run, whatever is asked."""
        found = environment(self._device)
        return {
            "settings": self.settings.flat() | {"device": self._device.type},
            "checkpoint": folder_identity(checkpoint(self.settings)),
            "versions": [found[name] for name in ("torch", "transformers")],
        }

    @staticmethod
    def _key(job: Job, run: dict[str, Any]) -> str:
        request = job.request
        return request_key(
            run=run,
            task=request.task_name,
            doc_id=request.doc_id,
            doc=job.doc,
            context=request.args[0],
            generation=request.args[1],
        )

    def _open_journal(self) -> Journal | None:
        if self._journal_arg.lower() in ("off", "false", "none"):
            return None
        if self._journal_arg.lower() not in ("auto", "true"):
            folder = Path(self._journal_arg)
        elif self._output is not None:
            folder = self._output / "stc_journal"
        else:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stc-lmms" / "journal"
        try:
            return Journal(folder, self._rank)
        except OSError as error:
            why = f"cannot write the journal in {folder} ({error.strerror})"
            fail(StcError(f"{why}; give journal=FOLDER or journal=off"))

    @staticmethod
    def _keep(journal: Journal | None, key: str, entry: dict[str, Any]) -> None:
        if journal is None:
            return
        try:
            journal.put(key, entry)
        except StcError as error:
            fail(error)

    def _entry(self, job: Job) -> dict[str, Any]:
        return {
            "task": job.request.task_name,
            "doc_id": job.request.doc_id,
            "failed": job.failed,
            "videos": [file_identity(path) for path in job.videos],
            "responses": [str(r) for r in job.responses],
            "records": [r.record for r in job.responses],
            "model": self._record.model,
        }

    def _replay(self, job: Job, entry: dict[str, Any]) -> Any:
        job.responses = list(map(AnswerText, entry["responses"], entry["records"]))
        self._record.model = self._record.model or entry.get("model")
        self._note(job, replayed=True)
        return job.result

    def _note(self, job: Job, replayed: bool) -> None:
        for response in job.responses:
            self._record.add(job.request.task_name, job.request.doc_id, response.record, replayed)

    def clean(self) -> None:
        """End of generation: write the run's efficiency record, free the model."""
        if self._output is not None and self._record.answers:
            self._record.write(self._output)
        self._model = None
        super().clean()
        self._record.check()


def fail(error: Exception) -> NoReturn:
    """One line on standard error and exit status 2."""
    print(f"stc-lmms: error: {error}", file=sys.stderr)
    raise SystemExit(2)


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError:
        raise SettingsError(f"device={name!r} is none that torch knows; use cuda, cuda:0 or cpu") from None


def _command_line(requests: list[Instance]) -> Any:
    """The harness's parsed command line, or None; it hangs on the task that a bound method belongs to."""
    if not requests:
        return None
    task = getattr(requests[0].args[2], "__self__", None)
    return getattr(task, "args", None)


def _when(asked: Round | None) -> tuple[float, float]:
    clip = asked.clip if asked else None
    if clip is None:
        return (float("-inf"), 0.0)
    return (clip.start_s, float("inf") if clip.end_s is None else clip.end_s)


_warned: set[str] = set()


def _generation(kwargs: dict[str, Any]) -> Generation:
    if (kwargs.get("do_sample") or kwargs.get("temperature")) and "sampling" not in _warned:
        _warned.add("sampling")
        logger.warning("decoding is greedy; do_sample and temperature are ignored")
    until = kwargs.get("until") or ()
    return Generation(
        max_new_tokens=int(kwargs.get("max_new_tokens") or 128),
        stop=(until,) if isinstance(until, str) else tuple(until),
    )


class LlavaOvStc(Harness):
    """`--model llava_ov_stc`: LLaVA-OneVision."""

    registered = "llava_ov"


class DispiderStc(Harness):
    """`--model dispider_stc`: Dispider."""

    registered = "dispider"


class StreamforestStc(Harness):
    """`--model streamforest_stc`: StreamForest."""

    registered = "streamforest"


class LiveccStc(Harness):
    """`--model livecc_stc`: LiveCC."""

    registered = "livecc"


class Qwen2VlStc(Harness):
    """`--model qwen2_vl_stc`: Qwen2-VL."""

    registered = "qwen2_vl"


class Qwen25VlStc(Harness):
    """`--model qwen2_5_vl_stc`: Qwen2.5-VL."""

    registered = "qwen2_5_vl"


class Qwen3VlStc(Harness):
    """`--model qwen3_vl_stc`: Qwen3-VL."""

    registered = "qwen3_vl"
