"""`stc-vlmeval`: VLMEvalKit with our models and benchmarks added.

VLMEvalKit has no plug-in system, so this command imports it, adds our classes to its tables, checks the
arguments before any weight is loaded, and passes control to `vlmeval.run` with all its options.
"""

import argparse
import glob
import itertools
import json
import os
import ssl
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from stc_lmms.engine.api import open_device
from stc_lmms.errors import DataError, SettingsError, StcError
from stc_lmms.eval.evaluation import checked
from stc_lmms.eval.vlmeval.run import Run, stale
from stc_lmms.methods.registry import METHODS
from stc_lmms.models import registry
from stc_lmms.results.journal import Journal
from stc_lmms.suggest import unknown


@dataclass(frozen=True)
class ModelPreset:
    """One of our models with arguments; `registered` is its name in the registry of models."""

    registered: str
    args: Mapping[str, Any] = field(default_factory=dict)


def model_presets() -> dict[str, ModelPreset]:
    """Names for `--model`: every model, alone and with every method, also on its demo checkpoint."""
    presets = {}
    for model in registry.MODELS.values():
        names = {model.harness_id: {}} | (
            {f"{model.harness_id}_demo": {"pretrained": "demo"}} if model.demo else {}
        )
        for name, args in names.items():
            presets[name] = ModelPreset(model.name, args)
            presets |= {f"{name}_{m}": ModelPreset(model.name, args | {"method": m}) for m in METHODS}
    return presets


def main() -> int:
    """Run VLMEvalKit with the arguments of the command line.

    Returns:
        Exit status: 2 if an argument is wrong, 1 if one of our datasets has no scores in the end:
        VLMEvalKit only logs such failures.
    """
    try:
        run = import_vlmeval()
        args = run.parse_args()
        started, required = _register(run, args)
    except StcError as error:
        print(f"stc-lmms: error: {error}", file=sys.stderr)
        return 2
    if run.WORLD_SIZE > 1:
        _communicate_without_gpus()
    run.main()
    lost = [] if args.mode == "infer" or run.RANK else sorted(required - started.evaluated)
    for model, data in lost:
        print(f"stc-lmms: error: {model} has no scores on {data}; the log above says why", file=sys.stderr)
    return 1 if lost else 0


def import_vlmeval() -> ModuleType:
    """Import `vlmeval.run`, which disables TLS certificate checks for the whole process; restore them."""
    if find_spec("vlmeval") is None:
        raise StcError("VLMEvalKit is not installed: pip install 'stc-lmms[vlmeval]'")
    secure = ssl._create_default_https_context
    try:
        import vlmeval.run
    finally:
        ssl._create_default_https_context = secure
    return vlmeval.run


def _communicate_without_gpus() -> None:
    """Use Gloo where there are no GPUs: VLMEvalKit always requests NCCL, which needs them."""
    import torch
    from torch import distributed

    if not torch.cuda.is_available():
        make = distributed.init_process_group
        distributed.init_process_group = lambda backend, **options: make("gloo", **options)


def _register(run: ModuleType, args: argparse.Namespace) -> tuple[Run, set[tuple[str, str]]]:
    """Add our classes to VLMEvalKit's tables and check the requested models and datasets.

    Returns:
        The `Run` shared by our datasets, and the pairs of a model and one of our datasets that need scores.
    """
    import vlmeval.api
    import vlmeval.vlm

    work_dir = Path(os.environ.get("MMEVAL_ROOT") or args.work_dir)
    started = Run(work_dir / "stc_journal", {})
    classes = _add(run, started)
    models, data = requested(args)
    datasets = _datasets(run, data)
    for name, config in models.items():
        preset = None if args.base_url or args.api_mode else find_preset(name, config, classes)
        if preset is not None:
            device = str(open_device(str(preset.args.get("device", "auto"))))
            started.settings[name] = checked(preset.registered, {**preset.args, "device": device})
        elif config.get("class"):
            _check_class("model", config["class"], classes, vlmeval.api, vlmeval.vlm)
        elif not (args.base_url or name in run.supported_VLM):
            raise SettingsError(_unknown("model", name, model_presets(), run.supported_VLM, "mlist"))
    _check_tables(run, work_dir, started, models, datasets)
    return started, {(model, name) for model in models for name in datasets}


def _add(run: ModuleType, started: Run) -> dict[str, str]:
    """Add our classes to VLMEvalKit's tables; returns the registered model name of each model class."""
    import vlmeval.dataset
    import vlmeval.vlm

    from stc_lmms.eval.vlmeval import data as vlmeval_data
    from stc_lmms.eval.vlmeval.model import StcVLM

    made = partial(StcVLM, journal=started.journal)
    classes = {model.harness_class.rpartition(".")[2]: model.name for model in registry.MODELS.values()}
    for name, registered in classes.items():
        setattr(vlmeval.vlm, name, partial(made, registered=registered))
    for name, preset in model_presets().items():
        run.supported_VLM[name] = partial(made, registered=preset.registered, **preset.args)
    vlmeval_data.StreamDataset.run = started
    for name, cls in vlmeval_data.CLASSES.items():
        setattr(vlmeval.dataset, name, cls)
        vlmeval.dataset.DATASET_CLASSES.append(cls)
    for name, (cls, options) in vlmeval_data.registered().items():
        run.supported_video_datasets[name] = partial(cls, **options)
    return classes


def _datasets(run: ModuleType, data: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Our datasets among those requested, constructed to check that their data is present."""
    import vlmeval.dataset

    from stc_lmms.eval.vlmeval.data import CLASSES, registered

    found = {}
    for name, config in data.items():
        if config.get("class") in CLASSES:
            found[name] = CLASSES[config["class"]](**_dataset_args(name, config))
        elif config.get("class"):
            _check_class("dataset", config["class"], CLASSES, vlmeval.dataset)
        elif config:
            raise SettingsError(f"dataset {name!r}: its class is missing, such as {next(iter(CLASSES))}")
        elif name in registered():
            found[name] = run.supported_video_datasets[name]()
        elif not _theirs(name, vlmeval.dataset):
            known = [*run.supported_video_datasets, *vlmeval.dataset.SUPPORTED_DATASETS]
            raise DataError(_unknown("dataset", name, registered(), known, "dlist"))
    return found


def _dataset_args(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of one of our datasets in a configuration file."""
    known = ("class", "dataset", "nframe", "fps")
    for key in config:
        if key not in known:
            raise SettingsError(f"dataset {name!r}: {unknown('key', key, known)}")
    fps = config.get("fps", 0)
    if not config.get("nframe") and not (isinstance(fps, int | float) and fps > 0):
        raise SettingsError(f"dataset {name!r}: fps={fps} must be above 0, such as 0.5")
    return {"dataset": name} | {key: value for key, value in config.items() if key != "class"}


def _check_class(what: str, name: str, ours: Iterable[str], *theirs: ModuleType) -> None:
    if name not in ours and not any(hasattr(module, name) for module in theirs):
        raise SettingsError(unknown(f"{what} class", name, ours))


def _check_tables(
    run: ModuleType, work_dir: Path, started: Run, models: Iterable[str], datasets: Mapping[str, Any]
) -> None:
    """Keep VLMEvalKit from reusing answers by file name; only the journal knows what they depend on."""
    journal = Journal(started.journal) if started.journal.is_dir() else None
    for model, (name, dataset) in itertools.product(models, datasets.items()):
        if model not in started.settings:
            if dataset.chunks:
                continue
            why = f"{name} needs a streaming model, and VLMEvalKit's {model} is not one"
            raise SettingsError(f"{why}; it can run OVOBench, which has a video file for every question")
        table = Path(run.get_pred_file_path(str(work_dir / model), model, name))
        if table.exists() and (journal is None or dataset.missing(started.settings[model], journal)):
            raise DataError(stale(table, started.journal))
        stem = glob.escape(f"{model}_{name}")
        old = glob.escape(f"{model}_{dataset.dataset_name}")
        for pattern in (f"*_{stem}.pkl", f"{old}_PREV.pkl") if run.RANK == 0 else ():
            for left in (work_dir / model).glob(pattern):
                left.unlink()  # from an interrupted run; the journal has its answers
    if journal is not None:
        started.resumed = journal.keys()
        journal.close()


def requested(args: argparse.Namespace) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Requested models and datasets by name, with their configuration if there is a JSON file."""
    if args.config is None:
        if not (args.model and args.data):
            raise SettingsError("give --model and --data, or --config FILE")
        return {name: {} for name in args.model}, {name: {} for name in args.data}
    if args.model or args.data:
        raise SettingsError("--config cannot be combined with --model or --data")
    try:
        content = json.loads(Path(args.config).read_text(encoding="utf-8"))
        models, data = content["model"], content["data"]
        valid = all(isinstance(config, dict) for part in (models, data) for config in part.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"--config {args.config}: {type(error).__name__}: {error}") from error
    if not valid:
        raise SettingsError(f"--config {args.config}: every model and dataset must be an object")
    return models, data


def find_preset(name: str, config: Mapping[str, Any], classes: Mapping[str, str]) -> ModelPreset | None:
    """Which of our models a name or a configuration refers to, or None."""
    if config.get("class"):
        registered = classes.get(config["class"])
        if registered is None:
            return None
        return ModelPreset(registered, {key: value for key, value in config.items() if key != "class"})
    known = model_presets().get(name)
    return known and ModelPreset(known.registered, {**known.args, **config})


def _theirs(name: str, dataset: ModuleType) -> bool:
    """Whether VLMEvalKit has a dataset of this name, or the user has a table of this name."""
    known = name in dataset.supported_video_datasets or name in dataset.SUPPORTED_DATASETS
    # Not through their function, which would create the folder.
    tables = Path(os.environ.get("LMUData") or Path.home() / "LMUData")  # noqa: SIM112
    return known or (tables / f"{name}.tsv").exists()


def _unknown(what: str, name: str, ours: Mapping[str, Any], theirs: Any, listing: str) -> str:
    """An error message with the nearest names and where to find the others: there are hundreds."""
    near = ", ".join(get_close_matches(name, {*ours, *theirs}, n=3, cutoff=0.5) or list(ours)[:3])
    return (
        f"unknown {what} {name!r}; the nearest are {near} (README: ours; vlmutil {listing} all: VLMEvalKit's)"
    )


if __name__ == "__main__":  # for torchrun -m
    sys.exit(main())
