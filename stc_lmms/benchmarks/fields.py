"""Checked reading of annotation files; every error is one line with file, row and field."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from stc_lmms.errors import DataError

T = TypeVar("T")


def read_text(path: str | Path) -> str:
    """Text of a UTF-8 file, without byte order mark."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start}); download it again") from error


def read_json(path: str | Path) -> Any:
    """Content of a JSON file."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        kind = "is not JSON" if text.strip() else "is empty"
        where = f"line {error.lineno}: {error.msg}"
        raise DataError(f"{path}: {kind} ({where}); download it again") from error


def need_list(data: Any, items: str, where: str) -> list[Any]:
    """The data of a file, checked to be a non-empty list; `items` says of what."""
    if not isinstance(data, list) or not data:
        raise DataError(f"{where}: must be a non-empty list of {items}, got {short(data)}")
    return data


def need(row: Any, name: str, kind: type[T] | tuple[type[T], ...], where: str) -> T:
    """A field of an annotation, checked for its type (a bool is not a number).

    Raises:
        DataError: the row is not an object, or the field is missing or of another type. `where`, the file and
            the row, begins the message.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: must be an object, got {short(row)}")
    if name not in row:
        raise DataError(f"{where}: field {name!r} is missing")
    value = row[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise DataError(f"{where}: field {name!r} must be {names}, got {short(value)}")
    return value


def need_video(row: Any, name: str, where: str) -> str:
    """A field with the path of a video below the data root."""
    value = need(row, name, str, where)
    path = PurePosixPath(value)
    if not value.strip() or path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: field {name!r} must be a path below the data root, got {short(value)}")
    return value


def need_texts(row: Any, name: str, least: int, where: str) -> list[str]:
    """A field with a list of at least `least` strings."""
    values = need(row, name, list, where)
    if len(values) < least or not all(isinstance(value, str) for value in values):
        raise DataError(f"{where}: field {name!r} must hold at least {least} strings, got {short(values)}")
    return values


def short(value: object) -> str:
    """A value for an error message: one line of at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
