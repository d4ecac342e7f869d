"""Locations of `tasks/` and `model_configs/`: inside the wheel, or next to the package in a checkout."""

from pathlib import Path

from stc_lmms.errors import DataError

_PACKAGE = Path(__file__).resolve().parent


def _find(name: str) -> Path:
    for candidate in (_PACKAGE / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise DataError(f"{name}/ is missing from this installation of stc-lmms; reinstall the package")


def tasks_root() -> Path:
    """Folder with one sub-folder per task group."""
    return _find("tasks")


def model_configs_root() -> Path:
    """Folder with one YAML file per recipe."""
    return _find("model_configs")
