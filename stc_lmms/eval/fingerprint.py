"""The key of a request in the journal, so that no answer of other code or data is reused.

It covers the request, the settings, the code that computes answers (ours and that of plug-ins), the
checkpoint, and the versions of the libraries below. Docstrings and comments do not count.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

import stc_lmms
from stc_lmms.engine.api import checkpoint
from stc_lmms.eval.dialogue import Dialogue
from stc_lmms.models import registry
from stc_lmms.settings import Settings

# Modules and packages of stc_lmms whose code can change an answer.
DECIDING = (
    *("engine", "memory", "methods", "models", "ops", "towers", "video"),
    *("compat", "compat_llm", "compat_qwen_vl", "config", "settings"),
    *("benchmarks.base", "eval.dialogue", "eval.evaluation", "eval.lmms_tasks", "eval.session"),
)
# Modules that those import, or that lie within them, and that cannot change an answer.
NOT_DECIDING = {
    "__init__": "version number",
    "benchmarks": "makes rows with their prompts, which are in the request, and scores answers",
    "data": "finds questions and videos; both are in the request",
    "demo": "a checkpoint, which counts as such",
    "errors": "exception classes",
    "lazy": "imports torch when it is first used",
    "suggest": "wording of errors",
    "resources": "where tasks and model_configs lie; what they say is in the request and the settings",
    "eval.fingerprint": "makes the key itself",
    "eval.recorder": "records answers",
    "eval.scoring": "scores answers",
    "eval.shard": "which rows a run evaluates",
    "eval.stopping": "when a run ends",
    "results": "stores answers",
    "text_table": "layout of tables",
    "engine.timers": "measures",
    "engine.live": "the `stream` command",
    "video.live": "the `stream` command",
    "video.live_input": "the `stream` command",
    **{
        f"models.{name}.bench": "cost model"
        for name in ("dispider", "livecc", "llava_onevision", "qwen_vl", "streamforest")
    },
}
LIBRARIES = ("torch", "transformers")
DECODERS = {"auto": ("decord", "av"), "decord": ("decord",), "pyav": ("av",), "torchcodec": ("torchcodec",)}
_PACKAGE = stc_lmms.__name__


def run_identity(settings: Settings, device: torch.device) -> dict[str, Any]:
    """What decides the answers of a run, whatever the questions."""
    return {
        "settings": settings.flat() | {"device": device.type},
        "code": code_digest(),
        "plugins": plugin_digest(_chosen_classes(settings)),
        "checkpoint": checkpoint_identity(checkpoint(settings), settings.revision),
        "versions": versions((*LIBRARIES, *DECODERS[settings.decoder])),
    }


def dialogue_key(dialogue: Dialogue, run: Mapping[str, Any]) -> str:
    """The dialogue's key in the journal of a run, see `run_identity`."""
    return request_key(run=run, **dialogue.identity)


def request_key(**parts: Any) -> str:
    """Hash of all that decides a request's answer; the order of mappings does not count."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def file_identity(path: str) -> list[Any]:
    """Path, size and modification time: changes when a file is replaced."""
    try:
        stat = os.stat(path)
    except OSError:
        return [path]
    return [path, stat.st_size, stat.st_mtime_ns]


def checkpoint_identity(pretrained: str, revision: str | None) -> list[Any]:
    """Identities of a local checkpoint's files; for a hub id, the commit in the local cache.

    A branch such as `main` may move between two runs. A hub id that is not in the cache is identified by its
    name and revision.
    """
    if os.path.isdir(pretrained):
        files = sorted((entry for entry in os.scandir(pretrained) if entry.is_file()), key=lambda e: e.name)
        return [file_identity(entry.path) for entry in files]
    try:
        config = try_to_load_from_cache(pretrained, "config.json", revision=revision)
    except HFValidationError:
        config = None
    return [pretrained, Path(config).parent.name if isinstance(config, str) else revision]


def versions(libraries: Iterable[str]) -> dict[str, str | None]:
    """Versions of libraries; None for those that are not installed."""
    installed = importlib.metadata.distributions
    return {name: next((found.version for found in installed(name=name)), None) for name in libraries}


def decides(module: str) -> bool | None:
    """Whether a module of stc_lmms, named without the package, can change answers; None: not declared.

    The longest declared prefix of its name counts.
    """
    while module and module not in DECIDING and module not in NOT_DECIDING:
        module = module.rpartition(".")[0]
    return module in DECIDING if module else None


@cache
def code_digest() -> str:
    """Hash of the code of this package that decides answers."""
    root = Path(stc_lmms.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        if decides(name):
            digest.update(f"{name}\n{normalised(file)}\n".encode())
    return digest.hexdigest()[:16]


def normalised(path: Path) -> str:
    """A file's code without comments, docstrings and layout; the bytes as they are if it is not Python."""
    source = path.read_bytes()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return hashlib.sha256(source).hexdigest()
    for node in ast.walk(tree):
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            if isinstance(body, list):
                body[:] = [statement for statement in body if not _is_text(statement)]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is only a string: a docstring, or the description of a constant."""
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def plugin_digest(classes: Iterable[type]) -> str:
    """Hash of the code of the classes and bases that come from outside this package; "" if all are ours.

    It covers the modules that define them and what these import, at any depth, from their own top-level
    package.
    """
    ours = {_PACKAGE, *LIBRARIES, *sys.stdlib_module_names}
    todo = {base.__module__ for cls in classes for base in cls.__mro__ if _top(base.__module__) not in ours}
    found: dict[str, str] = {}
    while todo:
        name = todo.pop()
        path = _source(name)
        found[name] = normalised(path) if path else ""
        if path and path.suffix == ".py":
            siblings = {other for other in _imports(path, name) if _top(other) == _top(name)}
            todo |= siblings - set(found)
    return request_key(**found) if found else ""


def _chosen_classes(settings: Settings) -> list[type]:
    method = settings.built_method
    parts = (method.tower, method.token, settings.built_memory, settings.built_model_options)
    return [registry.model(settings.model).load_class(), *(type(part) for part in parts if part is not None)]


def _top(module: str) -> str:
    return module.partition(".")[0]


def _source(module: str) -> Path | None:
    """The file of a module; None for a name that is not a module."""
    try:
        spec = importlib.util.find_spec(module)
        origin = spec.origin if spec is not None else None
    except (ImportError, ValueError):  # a name in a module, or `__main__`
        origin = getattr(sys.modules.get(module), "__file__", None)
    return Path(origin) if origin and Path(origin).is_file() else None


def _imports(path: Path, module: str) -> Iterator[str]:
    """Names that a file may import: modules, and names in modules."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
