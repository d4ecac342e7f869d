"""Streaming models in lmms-eval, for `generate_until` and `generate_until_multi_round` requests."""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import PartialState
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from stc_lmms.errors import StcError, fail
from stc_lmms.eval.dialogue import RequestDialogue
from stc_lmms.eval.evaluation import Evaluation, open_journal, resume, write_entry
from stc_lmms.eval.fingerprint import dialogue_key, run_identity
from stc_lmms.eval.recorder import Recorder, new_run, start
from stc_lmms.eval.stopping import STOPPED, stoppable
from stc_lmms.models import registry
from stc_lmms.results.journal import Journal


class Harness(Evaluation, lmms):
    """Any streaming model in lmms-eval; `__getattr__` below makes one subclass per registered model.

    Args:
        batch_size, max_batch_size: ignored; streams are evaluated one at a time.
        device: torch device; default: this rank's.
        journal: folder of the resume journal, `auto` (in the output path, else in the user's cache) or `off`.
        **model_args: see `stc_lmms.config.Settings`.

    On SIGTERM or SIGUSR1 it finishes the current question and exits with status 75.
    """

    is_simple = True

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
        state = PartialState()
        self._rank, self._world_size = state.process_index, state.num_processes
        launched = os.environ.get("WORLD_SIZE", "1")
        if self._world_size == 1 and launched not in ("", "1"):
            # accelerate connects processes without a GPU only on request; each would run everything
            why = f"{launched} processes were launched but are not connected"
            fail(StcError(f"{why}; on CPUs set ACCELERATE_USE_CPU=true"))
        device = str(state.device) if device in (None, "", "auto") else str(device)
        self.open_run(model_args, device, self._rank, also=("journal",))
        name = new_run(self.settings.method, self._world_size)
        self._recorder = Recorder(name, "lmms-eval", self.settings.flat(), self._rank, self._world_size)

    @property
    def device(self) -> torch.device:
        """Device of this rank."""
        return self._device

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Streaming models only generate."""
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
            why = "--use_cache would keep failed answers forever and lose what the others cost"
            fail(StcError(f"{why}; leave it out: a run resumes from its own journal"))
        recorder, output = start(self._recorder), getattr(options, "output_path", None)
        recorder.args, recorder.output = options, Path(output) if output else recorder.output
        journal = self._open_journal()
        run = run_identity(self.settings, self._device)
        results: list[Any] = [None] * len(requests)
        todo: dict[RequestDialogue, tuple[int, str]] = {}
        for index, request in enumerate(requests):
            if request.metadata.get("__padding_only__"):
                results[index] = [""] if request.request_type.endswith("multi_round") else ""
                continue
            dialogue = RequestDialogue(request, self._doc(request))
            key = dialogue_key(dialogue, run)
            entry = resume(journal, key, dialogue)
            if entry is None:
                todo[dialogue] = index, key
                continue
            results[index] = dialogue.result
            recorder.model = recorder.model or entry.get("model")
            recorder.add(dialogue.task, dialogue.doc_id, dialogue.row, dialogue.answered, replayed=True)
        resumed = len(requests) - len(todo)
        if resumed and journal is not None and self._rank == 0:
            about = f"{resumed} of {len(requests)} requests from {journal.path.parent}"
            print(f"stc-lmms: {about}", file=sys.stderr)

        if todo:  # before the progress bar: an error in loading the weights gets a line of its own
            recorder.model = self.model.describe()
        progress = tqdm(total=len(requests), initial=resumed, desc="requests", disable=self._rank != 0)
        with stoppable() as stop:
            for dialogue in self.play(todo, stop):
                index, key = todo[dialogue]
                results[index] = dialogue.result
                recorder.add(dialogue.task, dialogue.doc_id, dialogue.row, dialogue.answered, replayed=False)
                if journal is not None:
                    write_entry(journal, key, dialogue, recorder.model)
                progress.update()
        progress.close()
        self.close_video(recorder)
        if stop.asked and None in results:
            for dialogue, (_, key) in todo.items():
                unfinished = dialogue.next is not None and dialogue.answered and not dialogue.failed
                if journal is not None and unfinished:
                    write_entry(journal, key, dialogue, recorder.model, begun=True)
            print("stc-lmms: stopped; start again to continue", file=sys.stderr)
            raise SystemExit(STOPPED)
        if todo:  # again: capturing a graph may have failed meanwhile
            recorder.model = self.model.describe()
        if journal is not None:
            journal.close()
        if options is not None:  # lmms-eval repeats its command line's namespace in the results
            options.stc_run = recorder.run
            options.stc_settings = self.settings.flat()
            options.stc_efficiency = recorder.echo()
        return results

    def _doc(self, request: Instance) -> Any:
        doc_id, task, split = request.args[-3:]
        return self.task_dict[task][split][doc_id]

    def _open_journal(self) -> Journal | None:
        if self._journal_arg.lower() in ("off", "false", "none"):
            return None
        if self._journal_arg.lower() not in ("auto", "true"):
            folder = Path(self._journal_arg)
        elif self._recorder.output is not None:
            folder = self._recorder.output / "stc_journal"
        else:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stc-lmms" / "journal"
        return open_journal(folder, self._rank, "give journal=FOLDER or journal=off")

    def clean(self) -> None:
        """End of generation: write the run, free the model."""
        self._recorder.gather()
        try:
            if self._recorder.to_run().answers:
                self._recorder.write(answers=True)
        except StcError as error:
            fail(error)
        self._model = None
        super().clean()
        self._recorder.check()


def _command_line(requests: list[Instance]) -> Any:
    """lmms-eval's parsed command line, or None; read from the task that owns `doc_to_visual`."""
    if not requests:
        return None
    task = getattr(requests[0].args[2], "__self__", None)
    return getattr(task, "args", None)


def __getattr__(name: str) -> type[Harness]:
    """The lmms-eval class of a registered model, such as `LlavaOvStc`; lmms-eval imports it by this name."""
    for model in registry.MODELS.values():
        if model.harness_class == f"{__name__}.{name}":
            doc = f"`--model {model.harness_id}`: {model.summary}."
            made = type(name, (Harness,), {"__doc__": doc, "__module__": __name__, "registered": model.name})
            return globals().setdefault(name, made)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
