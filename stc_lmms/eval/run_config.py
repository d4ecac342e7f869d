"""Recipes: one YAML each with a model, its arguments and tasks, as lmms-eval's `--config` reads it.

Those of `model_configs/` are found by name. `check` refuses what a run would trip over, before one starts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from stc_lmms.arguments import parse_pairs
from stc_lmms.errors import SettingsError, StcError
from stc_lmms.resources import model_configs_root
from stc_lmms.suggest import unknown

# Keys of lmms-eval's command line that make sense in a recipe.
KEYS = ("model", "model_args", "tasks", "batch_size", "device", "output_path", "log_samples", "limit")
_NEEDED = ("model", "model_args", "tasks")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class RunConfig:
    """One recipe.

    Attributes:
        name: of its file, without the suffix.
        model: what lmms-eval's `--model` takes.
        model_args: arguments by name, as written.
        tasks: names of tasks and groups.
        others: the other keys.
    """

    name: str
    model: str
    model_args: Mapping[str, str]
    tasks: tuple[str, ...]
    others: Mapping[str, Any] = field(default_factory=dict)

    def command_line(self, **changes: Any) -> list[str]:
        """Arguments of lmms-eval; `changes` replace or add options, and one that is None is left out."""
        args = ",".join(f"{name}={value}" for name, value in self.model_args.items())
        options = {"model": self.model, "model_args": args, "tasks": ",".join(self.tasks)}
        given = options | dict(self.others) | changes
        return [
            word
            for name, value in given.items()
            if value is not None and value is not False
            for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
        ]


def find(name: str | Path) -> Path:
    """The file of a recipe: a path, or a name in `model_configs/`.

    Raises:
        SettingsError: there is none; names the nearest.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise SettingsError(f"there is no recipe file {str(path)!r}")
        return path
    known = {found.stem: found for found in model_configs_root().glob("*.yaml")}
    if str(name) not in known:
        raise SettingsError(unknown("recipe", name, known))
    return known[str(name)]


def mapping(path: Path, what: str, keys: Sequence[str]) -> dict[str, Any]:
    """A YAML file's content.

    Args:
        path: the file.
        what: what it is, for messages.
        keys: that it may have.

    Raises:
        SettingsError: it is no YAML mapping, or has another key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} is not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path} is not a {what}: it must be a mapping with {', '.join(keys)}")
    for key in content:
        if key not in keys:
            raise SettingsError(f"{path}: {unknown(f'{what} key', key, keys)}")
    return content


def read(name: str | Path, changed_args: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a recipe.

    Args:
        name: path, or name in `model_configs/`.
        changed_args: model arguments that replace those of the recipe.

    Raises:
        SettingsError: it does not exist, is no YAML mapping, or has an unknown, missing or malformed key.
    """
    path = find(name)
    content = mapping(path, "recipe", KEYS)
    for key in _NEEDED:
        if not isinstance(content.get(key), str) or not content[key].strip():
            raise SettingsError(f"{path}: {key} must be a text, got {content.get(key)!r}")
    if not _NAME.fullmatch(path.stem):
        raise SettingsError(f"{path}: a recipe's file name may have letters, digits and ._- only")
    args = parse_pairs(content["model_args"], f"{path}: model_args")
    args |= {key: str(value) for key, value in (changed_args or {}).items()}
    tasks = tuple(dict.fromkeys(task.strip() for task in content["tasks"].split(",") if task.strip()))
    others = {key: content[key] for key in KEYS if key in content and key not in _NEEDED}
    return RunConfig(path.stem, content["model"], args, tasks, others)


def fitted(recipes: Sequence[RunConfig], args: Mapping[str, Any]) -> list[RunConfig]:
    """The recipes with these arguments in place of their own, each with those that its method uses.

    Raises:
        SettingsError: an argument is unknown, or no recipe uses it.
    """
    from stc_lmms.settings import resolve

    found, used = [], set()
    for recipe in recipes:
        given = {name: str(value) for name, value in args.items()}
        mine = set(resolve(dict(recipe.model_args) | given, model=recipe.model).flat()) & set(given)
        used |= mine
        changed = dict(recipe.model_args) | {name: given[name] for name in given if name in mine}
        found.append(replace(recipe, model_args=changed))
    for name in args:
        if name not in used:
            raise SettingsError(f"model_args: no recipe uses {name}; leave it out")
    return found


def check(recipe: RunConfig, checkpoint: bool = True) -> Any:
    """The recipe's resolved `Settings`; imports torch, loads no weights.

    Args:
        recipe: to be checked.
        checkpoint: also read the checkpoint's config, of which a method or budget may be too much.

    Raises:
        SettingsError: an argument is unknown, not used by the recipe's method, out of range, or refused by
            the model.
        CheckpointError: the checkpoint is missing or of the wrong kind.
    """
    from stc_lmms.models import registry
    from stc_lmms.settings import resolve

    try:
        chosen = registry.model(recipe.model)
        if recipe.model != chosen.harness_id:
            raise SettingsError(f"model={recipe.model!r} must be {chosen.harness_id!r}")
        settings = resolve(recipe.model_args, model=chosen.name)
        unused = set(recipe.model_args) - set(settings.flat())
        if unused:
            names, how = ", ".join(sorted(unused)), f"method={settings.method}, memory={settings.memory}"
            raise SettingsError(f"{names} has no use with {how}; leave it out")
        if checkpoint:
            chosen.load_class().check(settings)
    except StcError as error:
        raise type(error)(f"recipe {recipe.name}: {error}") from None
    return settings
