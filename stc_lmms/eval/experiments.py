"""Runs a grid of configurations through lmms-eval's evaluator in one process; weights are loaded once."""

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
    cells = []
    for method, own in fields.items():
        of_method = dict.fromkeys(budgets) if "token_budget" in own else (None,)
        values = [[(name, value) for value in varied[name]] for name in varied if name in own]
        cells += [Cell(method, budget, chosen) for budget in of_method for chosen in product(*values)]
    return cells


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
        grid: the cells.
        tasks: tasks of this package.
        common: model arguments of all cells, without `method` and `token_budget`.
        folder: has one output path per cell, named after it; a finished cell is replayed from its journal.
        limit: rows per task; None for all.
        model: name in the registry of models.

    Raises:
        SettingsError, CheckpointError: a task, a common argument or the checkpoint is wrong.
    """
    manager = TaskManager(include_path=str(tasks_root()), include_defaults=False)
    for task in tasks:
        if task not in manager.all_tasks:
            raise SettingsError(unknown("task", task, manager.all_tasks))
    cls = registry.model(model).load_class()
    cls.check(resolve(common | {"method": "none"}, model=model))  # errors that concern every cell
    shared = SharedModel(model)
    for cell in grid:
        args = cell.model_args(common)
        try:
            cls.check(resolve(args, model=model))
        except SettingsError as error:
            yield Outcome(cell, str(error), skipped=True)
            continue
        options = {"tasks": list(tasks), "task_manager": manager, "limit": limit}
        yield _run(cell, shared, args, folder / cell.name, options)


class SharedModel:
    """What all cells share: the videos, and the checkpoint, loaded when the first cell needs it."""

    def __init__(self, registered: str):
        self.registered = registered
        self.videos = SharedVideos()
        self._newest: StreamingModel | None = None

    def load(self, settings: Settings) -> StreamingModel:
        """The model with these settings, on the weights that are loaded already, if any."""
        if self._newest is None:
            self._newest = registry.model(self.registered).load_class()(settings)
        else:
            self._newest = self._newest.with_settings(settings)
        return self._newest


class _Sharing(Harness):
    """The lmms-eval model on shared weights."""

    def __init__(self, shared: SharedModel, **model_args: Any):
        self.registered, self._shared, self.opener = shared.registered, shared, shared.videos.open
        super().__init__(**model_args)

    def load(self) -> StreamingModel:
        model = self._shared.load(self.settings)
        _warm_up(model)
        device = open_device(self.settings.device)
        if device.type == "cuda":  # measure the peak of each run separately
            torch.cuda.reset_peak_memory_stats(device)
        return model


def _warm_up(model: StreamingModel) -> None:
    """Two frames and a question, so that one-time costs of libraries are not measured in any cell."""
    frames = min(2, model.settings.max_frames or 2)
    stream = model.open_stream()
    stream.observe(np.zeros((frames, 64, 64, 3), np.uint8), [float(i) for i in range(frames)])
    stream.ask("?", Generation(max_new_tokens=2))
    stream.reset()


def _run(
    cell: Cell, shared: SharedModel, model_args: dict[str, Any], output: Path, options: dict[str, Any]
) -> Outcome:
    try:
        # tables of single runs; only the comparison goes to standard output
        with contextlib.redirect_stdout(sys.stderr):
            results = simple_evaluate(
                model=_Sharing(shared, **model_args),
                cli_args=Namespace(output_path=str(output), process_with_media=False),
                bootstrap_iters=0,
                **options,
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
        (task, r["video"], r["qid"]): QuestionScore(r["video"], r["task"], float(r["official"]))
        for task, samples in results["samples"].items()
        for sample in samples
        for r in sample["acc"]["records"]
    }
