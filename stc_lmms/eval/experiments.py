"""Many configurations through the real evaluator, in one process: weights and frames are loaded once."""

import contextlib
import gc
import logging
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from stc_lmms.config import Settings
from stc_lmms.engine.api import Generation, StreamingModel, open_device
from stc_lmms.errors import SettingsError
from stc_lmms.eval.dialogue import reason
from stc_lmms.eval.lmms_eval import Harness
from stc_lmms.methods.registry import method_spec
from stc_lmms.models import registry
from stc_lmms.resources import tasks_root
from stc_lmms.settings import resolve
from stc_lmms.suggest import unknown
from stc_lmms.video.shared import SharedVideos

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Configuration:
    """One cell of the grid.

    Attributes:
        method: name of the method.
        budget: LLM tokens per frame; None for a method that has no budget.
        varied: other arguments of the method that differ over the grid, (name, value).
    """

    method: str
    budget: int | None
    varied: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Its folder."""
        plain = self.method if self.budget is None else f"{self.method}_{self.budget}"
        return ",".join((plain, *("=".join(pair) for pair in self.varied)))

    def model_args(self, common: dict[str, Any]) -> dict[str, Any]:
        """Model arguments: the common ones with those of this cell."""
        budget = {} if self.budget is None else {"token_budget": self.budget}
        return common | dict(self.varied) | {"method": self.method} | budget


@dataclass(frozen=True)
class Scored:
    """The official score of a question, 0 to 1, with its video and sub-task."""

    video: str
    subtask: str
    score: float


@dataclass(frozen=True)
class Outcome:
    """What became of a configuration.

    Attributes:
        configuration: which.
        trouble: why it was skipped or failed, in one line; "" if it ran.
        skipped: it was never started: its budget or arguments do not fit.
        scores: of every question, by task, video and question.
        cost: the run's efficiency total, see `RunRecord.echo`.
    """

    configuration: Configuration
    trouble: str = ""
    skipped: bool = False
    scores: dict[tuple[str, str, str], Scored] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)


def configurations(
    methods: Sequence[str], budgets: Sequence[int], varied: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> list[Configuration]:
    """Every method at every budget and with every value of its varied arguments.

    A method without a budget has one, and so has a method without a varied argument.

    Raises:
        SettingsError: there is no such method, or none of them has a varied argument.
    """
    fields = {method: method_spec(method).fields for method in methods}
    for name in varied:
        if not any(name in own for own in fields.values()):
            known = sorted({known for own in fields.values() for known in own} - {"token_budget"})
            raise SettingsError(unknown("argument of these methods", name, known))
    found = []
    for method, own in fields.items():
        given = dict.fromkeys(budgets) if "token_budget" in own else (None,)
        values = [[(name, value) for value in varied[name]] for name in varied if name in own]
        found += [Configuration(method, budget, cell) for budget in given for cell in product(*values)]
    return found


def run_grid(
    grid: Sequence[Configuration],
    tasks: Sequence[str],
    common: dict[str, Any],
    folder: Path,
    limit: int | None = None,
    model: str = "llava_ov",
) -> Iterator[Outcome]:
    """Run the configurations one after the other; one that fails does not stop the others.

    Args:
        grid: what to run.
        tasks: tasks of this package.
        common: model arguments of all, without `method` and `token_budget`.
        folder: every configuration's output path is the folder of its name in it; a finished one is
            replayed from the journal there, and needs no weights.
        limit: rows per task; None: all.
        model: name in the registry of models.

    Raises:
        SettingsError, CheckpointError: a task or a common argument is wrong, or the checkpoint is.
    """
    manager = TaskManager(include_path=str(tasks_root()), include_defaults=False)
    for task in tasks:
        if task not in manager.all_tasks:
            raise SettingsError(unknown("task", task, manager.all_tasks))
    chosen = registry.model(model)
    cls = chosen.load_class()
    cls.check(resolve(common | {"method": "none"}, model=model))  # what is wrong for all
    weights, videos = _Weights(chosen), SharedVideos()
    for cell in grid:
        try:
            cls.check(resolve(cell.model_args(common), model=model))
        except SettingsError as error:
            yield Outcome(cell, str(error), skipped=True)
            continue
        yield _run(cell, list(tasks), manager, weights, videos, common, folder / cell.name, limit)


class _Weights:
    """A checkpoint that is loaded when the first configuration needs it."""

    def __init__(self, chosen: registry.Model):
        self.chosen = chosen
        self._newest: StreamingModel | None = None

    def model(self, settings: Settings) -> StreamingModel:
        if self._newest is None:
            self._newest = self.chosen.load_class()(settings)
        else:
            self._newest = self._newest.with_settings(settings)
        return self._newest


class _Sharing(Harness):
    """The lmms-eval model around weights that others use, too."""

    def __init__(self, weights: _Weights, videos: SharedVideos, **model_args: Any):
        self.registered, self._weights, self.opener = weights.chosen.name, weights, videos.open
        super().__init__(**model_args)

    def load(self) -> StreamingModel:
        model = self._weights.model(self.settings)
        _warm_up(model)
        device = open_device(self.settings.device)
        if device.type == "cuda":  # a run's peak is its own
            torch.cuda.reset_peak_memory_stats(device)
        return model


def _warm_up(model: StreamingModel) -> None:
    """Two frames and a question: what libraries do at first use would be billed to the first of the grid."""
    frames = min(2, model.settings.max_frames or 2)
    stream = model.open_stream()
    stream.observe(np.zeros((frames, 64, 64, 3), np.uint8), [float(i) for i in range(frames)])
    stream.ask("?", Generation(max_new_tokens=2))
    stream.reset()


def _run(
    cell: Configuration,
    tasks: list[str],
    manager: TaskManager,
    weights: _Weights,
    videos: SharedVideos,
    common: dict[str, Any],
    output: Path,
    limit: int | None,
) -> Outcome:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # tables of single runs; the comparison is the output
            results = simple_evaluate(
                model=_Sharing(weights, videos, **cell.model_args(common)),
                tasks=tasks,
                task_manager=manager,
                cli_args=Namespace(output_path=str(output), process_with_media=False),
                limit=limit,
                bootstrap_iters=0,
            )
        cost = results["config"]["resolved_cli_args"]["stc_efficiency"]
        return Outcome(cell, scores=_scores(results), cost=cost)
    except SystemExit:  # the harness model has told why, in one line
        return Outcome(cell, "ended with the error above")
    except Exception as error:
        logger.debug("traceback", exc_info=True)
        return Outcome(cell, reason(error))
    finally:
        gc.collect()  # streams of a run that broke off hold its KV
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _scores(results: dict[str, Any]) -> dict[tuple[str, str, str], Scored]:
    return {
        (task, record["video"], record["qid"]): Scored(
            record["video"], record["task"], float(record["official"])
        )
        for task, samples in results["samples"].items()
        for sample in samples
        for record in sample["acc"]["records"]
    }
