"""Run configs (recipes): a YAML file with a model, its arguments and tasks, in lmms-eval's `--config` format.

Those in `model_configs/` are found by name. `check` refuses what would fail in a run, before one starts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from stc_lmms.arguments import parse_pairs
from stc_lmms.config import Settings
from stc_lmms.errors import SettingsError, StcError
from stc_lmms.models import registry
from stc_lmms.resources import model_configs_root
from stc_lmms.settings import resolve
from stc_lmms.suggest import unknown

# The options of lmms-eval's command line that a recipe may set.
KEYS = ("model", "model_args", "tasks", "batch_size", "device", "output_path", "log_samples", "limit")
_REQUIRED = ("model", "model_args", "tasks")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class RunConfig:
    """One recipe."""

    name: str  # its file's name without the suffix
    model: str
    model_args: Mapping[str, str]  # arguments by name, as written
    tasks: tuple[str, ...]  # names of tasks and groups
    others: Mapping[str, Any] = field(default_factory=dict)  # the other keys

    def command_line(self, **changes: Any) -> list[str]:
        """Arguments of lmms-eval; `changes` replace or add options, and None removes one."""
        args = ",".join(f"{name}={value}" for name, value in self.model_args.items())
        options = {"model": self.model, "model_args": args, "tasks": ",".join(self.tasks)}
        words: list[str] = []
        for name, value in (options | dict(self.others) | changes).items():
            if value is True:
                words.append(f"--{name}")
            elif value is not None and value is not False:
                words += [f"--{name}", str(value)]
        return words


def find(name: str | Path) -> Path:
    """The file of a recipe: a path, or a name in `model_configs/`."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise SettingsError(f"there is no recipe file {str(path)!r}")
        return path
    known = {found.stem: found for found in model_configs_root().glob("*.yaml")}
    if str(name) not in known:
        raise SettingsError(unknown("recipe", name, known))
    return known[str(name)]


def read_mapping(path: Path, what: str, keys: Sequence[str]) -> dict[str, Any]:
    """The content of a YAML file; `what` is its kind, for messages.

    Raises:
        SettingsError: it is not a YAML mapping, or has a key that is not in `keys`.
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


def read(name: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a recipe; `overrides` are model arguments that replace its own.

    Raises:
        SettingsError: it does not exist, is not a YAML mapping, or has an unknown, missing or malformed key.
    """
    path = find(name)
    content = read_mapping(path, "recipe", KEYS)
    for key in _REQUIRED:
        if not isinstance(content.get(key), str) or not content[key].strip():
            raise SettingsError(f"{path}: {key} must be a string, got {content.get(key)!r}")
    if not _NAME.fullmatch(path.stem):
        raise SettingsError(f"{path}: a recipe's file name may have letters, digits and ._- only")
    args = parse_pairs(content["model_args"], f"{path}: model_args")
    args |= {key: str(value) for key, value in (overrides or {}).items()}
    tasks = tuple(dict.fromkeys(task.strip() for task in content["tasks"].split(",") if task.strip()))
    others = {key: content[key] for key in KEYS if key in content and key not in _REQUIRED}
    return RunConfig(path.stem, content["model"], args, tasks, others)


def override_args(configs: Sequence[RunConfig], args: Mapping[str, Any]) -> list[RunConfig]:
    """Override model arguments; every recipe gets those that its model, method and memory use.

    Raises:
        SettingsError: an argument is unknown, or no recipe uses it.
    """
    overridden, used = [], set()
    values = {name: str(value) for name, value in args.items()}
    for config in configs:
        settings = resolve(dict(config.model_args) | values, model=config.model)
        usable = {name: values[name] for name in values if name in settings.flat()}
        used |= set(usable)
        overridden.append(replace(config, model_args=dict(config.model_args) | usable))
    for name in args:
        if name not in used:
            raise SettingsError(f"model_args: no recipe uses {name}; leave it out")
    return overridden


def check(config: RunConfig, checkpoint: bool = True) -> Settings:
    """The recipe's resolved settings; loads no weights.

    With `checkpoint`, also checks them against the checkpoint's config, which limits methods and budgets.

    Raises:
        SettingsError: an argument is unknown, unused by the method, out of range, or refused by the model.
        CheckpointError: the checkpoint is missing or of the wrong kind.
    """
    try:
        model = registry.model(config.model)
        if config.model != model.harness_id:
            raise SettingsError(f"model={config.model!r} must be {model.harness_id!r}")
        settings = resolve(config.model_args, model=model.name)
        unused = set(config.model_args) - set(settings.flat())
        if unused:
            names, chosen = ", ".join(sorted(unused)), f"method={settings.method}, memory={settings.memory}"
            raise SettingsError(f"{names} has no effect with {chosen}; leave it out")
        if checkpoint:
            model.load_class().check(settings)
    except StcError as error:
        raise type(error)(f"recipe {config.name}: {error}") from None
    return settings
