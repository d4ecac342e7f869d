"""Entry point for lmms-eval: lists our models and makes our tasks available without a flag.

lmms-eval loads the entry points of all plug-ins at startup, in one `try` block. So this module imports
nothing heavy (no torch), and its hook never raises.
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

# Model id -> dotted path of the class, which lmms-eval imports only when the model is selected.
MODELS = {model.harness_id: model.harness_class for model in registry.MODELS.values()}


def manifests() -> Iterable[object]:
    """Model manifests, the hook of the entry point `lmms_eval.models`; also installs task discovery."""
    try:
        warn_about_torchvision()
        install_task_discovery()
        from lmms_eval.models.registry_v2 import ModelManifest

        listed = getattr(sys.modules.get("lmms_eval.models"), "AVAILABLE_SIMPLE_MODELS", {})
        for model_id, path in MODELS.items():  # `lmms-eval models` prints this dict, not the registry
            listed.setdefault(model_id, path)
        return [ModelManifest(model_id, simple_class_path=path) for model_id, path in MODELS.items()]
    except Exception as error:  # an exception here would silently drop every other plug-in as well
        logger.warning("stc-lmms is not available in lmms-eval: %s: %s", type(error).__name__, error)
        return []


def install_task_discovery() -> None:
    """Make every `TaskManager` search our tasks: now, or once `lmms_eval.tasks` is imported."""
    tasks = sys.modules.get("lmms_eval.tasks")
    if tasks is not None and hasattr(tasks, "TaskManager"):
        _extend(tasks)
    elif not any(isinstance(finder, _ExtendOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ExtendOnImport())


class _ExtendOnImport(importlib.abc.MetaPathFinder):
    """Extends `lmms_eval.tasks` when it is imported; importing it here would slow down `lmms-eval models`."""

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
        # A shard runs only our tasks; reading the 2000 files of lmms-eval would double its startup time.
        their_tasks = include_defaults and not os.environ.get(SHARD)
        index = original(self, include_path=paths or None, include_defaults=their_tasks)
        if include_defaults:
            _warn_about_shadowed(index, paths[-1:])
        return index

    manager.initialize_tasks, manager._stc_lmms = initialize_tasks, True


def _warn_about_shadowed(index: dict, roots: list[str]) -> None:
    """Warn about tasks of lmms-eval that have one of our names: they silently shadow ours."""
    from pathlib import Path

    ours = {path.parent.name for root in roots for path in Path(root).glob("*/*.yaml")}
    for name in sorted(ours & set(index)):
        path = str(index[name].get("yaml_path", ""))
        if path not in ("", "-1") and not any(path.startswith(root) for root in roots):
            logger.warning("task %s comes from %s, not from stc-lmms", name, path)


def torchvision_mismatch(torch: str, torchvision: str, requirement: str | None) -> str | None:
    """Why two installed builds (such as 2.13.0+cpu) cannot work together, or None.

    `requirement` is the release of torch that this torchvision requires, such as 2.13.0, if known.
    """
    release, _, build = torch.partition("+")
    if requirement not in (None, release):
        reason = f"it was built for torch {requirement}"
    elif build != torchvision.partition("+")[2]:
        reason = "they come from different package indexes"
    else:
        return None
    return (
        f"torch {torch} and torchvision {torchvision} do not match ({reason}); "
        "reinstall both from one index: pip install --force-reinstall torch torchvision"
    )


def warn_about_torchvision() -> None:
    """Print a warning if the installed torch and torchvision do not match."""
    try:
        versions = [importlib.metadata.version(name) for name in ("torch", "torchvision")]
        requires = importlib.metadata.requires("torchvision") or []
    except importlib.metadata.PackageNotFoundError:
        return
    # "torch==2.13.0", or "torch (==2.2.0)" in older wheels
    pinned = [found[1] for r in requires if (found := re.match(r"torch\s*\(?==\s*([^\s;,)]+)", r))]
    problem = torchvision_mismatch(*versions, pinned[0] if pinned else None)
    if problem:
        print(f"stc-lmms: {problem}", file=sys.stderr)
