"""Entry point of lmms-eval: lists our models and makes our tasks findable without a flag.

lmms-eval loads every plugin's entry point in one `try` block while it starts, before it knows which model
is wanted. So this module imports nothing heavy (no torch), and its hook never raises.
"""

import importlib.abc
import importlib.metadata
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from types import ModuleType

from stc_lmms.eval.shard import VARIABLE as SHARD
from stc_lmms.models import registry

logger = logging.getLogger(__name__)

# model id -> class, imported by lmms-eval only when the model is selected
MODELS = {model.harness_id: model.harness_class for model in registry.MODELS.values()}


def manifests() -> Iterable[object]:
    """What `lmms_eval.models` asks of a plugin; also installs task discovery."""
    try:
        _warn_about_torchvision()
        install_task_discovery()
        return _manifests()
    except Exception as error:  # an exception here would silently drop every other plugin, too
        logger.warning("stc-lmms is not available in lmms-eval: %s: %s", type(error).__name__, error)
        return []


def _manifests() -> list[object]:
    from lmms_eval.models.registry_v2 import ModelManifest

    listed = getattr(sys.modules.get("lmms_eval.models"), "AVAILABLE_SIMPLE_MODELS", None)
    if listed is not None:  # `lmms-eval models` prints this dict, not the registry
        for model_id, path in MODELS.items():
            listed.setdefault(model_id, path)
    return [ModelManifest(model_id, simple_class_path=path) for model_id, path in MODELS.items()]


def install_task_discovery() -> None:
    """Let every `TaskManager` look into our tasks, now or when `lmms_eval.tasks` gets imported."""
    tasks = sys.modules.get("lmms_eval.tasks")
    if tasks is not None and hasattr(tasks, "TaskManager"):
        _extend(tasks)
    elif not any(isinstance(finder, _ExtendOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ExtendOnImport())


class _ExtendOnImport(importlib.abc.MetaPathFinder):
    """Waits for `lmms_eval.tasks`, whose import takes seconds that `lmms-eval models` need not pay."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname != "lmms_eval.tasks":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_and_extend(module: ModuleType) -> None:
            execute(module)
            _extend(module)

        spec.loader.exec_module = exec_and_extend
        return spec


def _extend(tasks: ModuleType) -> None:
    manager = tasks.TaskManager
    if getattr(manager, "_stc_lmms", False):
        return
    original = manager.initialize_tasks

    def initialize_tasks(self, include_path=None, include_defaults=True):
        from stc_lmms.errors import StcError
        from stc_lmms.resources import tasks_root

        paths = [include_path] if isinstance(include_path, str) else list(include_path or [])
        if include_defaults:
            try:
                paths.append(str(tasks_root()))
            except StcError as error:
                logger.warning("%s", error)
        # the tasks of a shard are ours: reading the 2000 files of the others would double a job's start
        others = include_defaults and not os.environ.get(SHARD)
        index = original(self, include_path=paths or None, include_defaults=others)
        if include_defaults:
            _warn_about_shadowed(index, paths[-1:])
        return index

    manager.initialize_tasks, manager._stc_lmms = initialize_tasks, True


def _warn_about_shadowed(index: dict, roots: list[str]) -> None:
    """A task of lmms-eval with one of our names would win without a word."""
    from pathlib import Path

    ours = {path.parent.name for root in roots for path in Path(root).glob("*/*.yaml")}
    for name in sorted(ours & set(index)):
        path = str(index[name].get("yaml_path", ""))
        if path not in ("", "-1") and not any(path.startswith(root) for root in roots):
            logger.warning("task %s comes from %s, not from stc-lmms", name, path)


def torchvision_mismatch(torch: str, torchvision: str, requirement: str | None) -> str | None:
    """Why two installed builds cannot work together, or None.

    Args:
        torch: version of torch, such as 2.13.0+cpu.
        torchvision: version of torchvision.
        requirement: the version of torch that this torchvision asks for, such as 2.13.0.
    """
    release, _, build = torch.partition("+")
    _, _, other_build = torchvision.partition("+")
    if requirement is not None and requirement != release:
        reason = f"it was built for torch {requirement}"
    elif build != other_build:
        reason = "they come from different package indexes"
    else:
        return None
    return (
        f"torch {torch} and torchvision {torchvision} do not match ({reason}); "
        "reinstall both from one index: pip install --force-reinstall torch torchvision"
    )


def _warn_about_torchvision() -> None:
    try:
        versions = [importlib.metadata.version(name) for name in ("torch", "torchvision")]
        requires = importlib.metadata.requires("torchvision") or []
    except importlib.metadata.PackageNotFoundError:
        return
    # "torch==2.13.0", in older wheels "torch (==2.2.0)"
    pinned = [found[1] for r in requires if (found := re.match(r"torch\s*\(?==\s*([^\s;,)]+)", r))]
    problem = torchvision_mismatch(*versions, pinned[0] if pinned else None)
    if problem:
        print(f"stc-lmms: {problem}", file=sys.stderr)
