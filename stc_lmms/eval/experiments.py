"""A grid of configurations through lmms-eval's evaluator in one process; weights are loaded once."""

import contextlib
import gc
import logging
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
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
from stc_lmms.eval.recorder import current, finish
from stc_lmms.methods.registry import method_spec
from stc_lmms.models import registry
from stc_lmms.resources import tasks_root
from stc_lmms.results.grid import Cell, Outcome, QuestionScore
from stc_lmms.settings import resolve
from stc_lmms.suggest import unknown
from stc_lmms.video.shared import SharedVideos

logger = logging.getLogger(__name__)


def configurations(
    methods: Sequence[str], budgets: Sequence[int], varied: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> list[Cell]:
    """Every method at every budget and with every value of its varied arguments.

    A method without a budget, or without any of the varied arguments, is one cell.

    Raises:
        SettingsError: a method is unknown, or no method has a varied argument.
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
        found += [Cell(method, budget, chosen) for budget in given for chosen in product(*values)]
    return found


def run_grid(
    grid: Sequence[Cell],
    tasks: Sequence[str],
    common: dict[str, Any],
    folder: Path,
    limit: int | None = None,
    model: str = "llava_ov",
) -> Iterator[Outcome]:
    """Run the cells one after the other; one that fails does not stop the others.

    Args:
        grid: what to run.
        tasks: tasks of this package.
        common: model arguments of all cells, without `method` and `token_budget`.
        folder: contains one output path per cell, named after it; a finished cell is replayed from the
        journal
            there and needs no weights.
        limit: rows per task; None for all.
        model: name in the registry of models.

    Raises:
        SettingsError, CheckpointError: a task, a common argument or the checkpoint is wrong.
    """
    manager = TaskManager(include_path=str(tasks_root()), include_defaults=False)
    for task in tasks:
        if task not in manager.all_tasks:
            raise SettingsError(unknown("task", task, manager.all_tasks))
    chosen = registry.model(model)
    cls = chosen.load_class()
    cls.check(resolve(common | {"method": "none"}, model=model))  # errors that concern every cell
    weights, videos = _Weights(chosen), SharedVideos()
    for cell in grid:
        try:
            cls.check(resolve(cell.model_args(common), model=model))
        except SettingsError as error:
            yield Outcome(cell, str(error), skipped=True)
            continue
        yield _run(cell, list(tasks), manager, weights, videos, common, folder / cell.name, limit)


class _Weights:
    """A checkpoint that is loaded when the first cell needs it."""

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
    """The lmms-eval model on shared weights."""

    def __init__(self, weights: _Weights, videos: SharedVideos, **model_args: Any):
        self.registered, self._weights, self.opener = weights.chosen.name, weights, videos.open
        super().__init__(**model_args)

    def load(self) -> StreamingModel:
        model = self._weights.model(self.settings)
        _warm_up(model)
        device = open_device(self.settings.device)
        if device.type == "cuda":  # measure the peak of each run separately
            torch.cuda.reset_peak_memory_stats(device)
        return model


def _warm_up(model: StreamingModel) -> None:
    """Two frames and a question, so that no cell is billed for what libraries do at first use."""
    frames = min(2, model.settings.max_frames or 2)
    stream = model.open_stream()
    stream.observe(np.zeros((frames, 64, 64, 3), np.uint8), [float(i) for i in range(frames)])
    stream.ask("?", Generation(max_new_tokens=2))
    stream.reset()


def _run(
    cell: Cell,
    tasks: list[str],
    manager: TaskManager,
    weights: _Weights,
    videos: SharedVideos,
    common: dict[str, Any],
    output: Path,
    limit: int | None,
) -> Outcome:
    try:
        with contextlib.redirect_stdout(
            sys.stderr
        ):  # tables of single runs; only the comparison goes to standard output
            results = simple_evaluate(
                model=_Sharing(weights, videos, **cell.model_args(common)),
                tasks=tasks,
                task_manager=manager,
                cli_args=Namespace(output_path=str(output), process_with_media=False),
                limit=limit,
                bootstrap_iters=0,
            )
        return Outcome(cell, run=current().to_run(), scores=_scores(results))
    except SystemExit:  # the harness model has printed the reason
        return Outcome(cell, "ended with the error above")
    except Exception as error:
        logger.debug("traceback", exc_info=True)
        return Outcome(cell, reason(error))
    finally:
        finish()
        gc.collect()  # streams of a run that broke off hold their KV cache
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _scores(results: dict[str, Any]) -> dict[tuple[str, str, str], QuestionScore]:
    return {
        (task, record["video"], record["qid"]): QuestionScore(
            record["video"], record["task"], float(record["official"])
        )
        for task, samples in results["samples"].items()
        for sample in samples
        for record in sample["acc"]["records"]
    }
