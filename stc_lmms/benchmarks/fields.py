"""Checked reading of annotation files; every error is one line with file, row and field."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from stc_lmms.errors import DataError

T = TypeVar("T")


def read_text(path: str | Path) -> str:
    """Text of a UTF-8 file, without byte order mark.

    Raises:
        DataError: the file cannot be read or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start}); download it again") from error


def read_json(path: str | Path) -> Any:
    """Content of a JSON file.

    Raises:
        DataError: the file cannot be read, is empty or is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        kind = "is not JSON" if text.strip() else "is empty"
        where = f"line {error.lineno}: {error.msg}"
        raise DataError(f"{path}: {kind} ({where}); download it again") from error


def need_list(data: Any, items: str, where: str) -> list[Any]:
    """The data of a file, checked to be a non-empty list; `items` says of what.

    Raises:
        DataError: it is not.
    """
    if not isinstance(data, list) or not data:
        raise DataError(f"{where}: must be a non-empty list of {items}, got {short(data)}")
    return data


def need_object(value: Any, where: str) -> dict[str, Any]:
    """An item of a list, checked to be an object.

    Raises:
        DataError: it is not.
    """
    if not isinstance(value, dict):
        raise DataError(f"{where}: must be an object, got {short(value)}")
    return value


def need(row: Mapping[str, Any], name: str, kind: type[T] | tuple[type[T], ...], where: str) -> T:
    """A field of a row, checked for its type.

    Args:
        row: one annotation.
        name: the field.
        kind: accepted type or types; a bool is not accepted as a number.
        where: file and row, the beginning of the error message.

    Raises:
        DataError: the field is missing or of another type.
    """
    if name not in row:
        raise DataError(f"{where}: field {name!r} is missing")
    value = row[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(k.__name__ for k in kinds)
        raise DataError(f"{where}: field {name!r} must be {names}, got {short(value)}")
    return value


def need_video(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field with the relative path of a video.

    Raises:
        DataError: not a string, empty, or outside the data root.
    """
    value = need(row, name, str, where)
    path = PurePosixPath(value)
    if not value.strip() or path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: field {name!r} must be a path below the data root, got {short(value)}")
    return value


def need_texts(row: Mapping[str, Any], name: str, least: int, where: str) -> list[str]:
    """A field with a list of at least `least` strings.

    Raises:
        DataError: not a list, too short, or with an item that is not a string.
    """
    values = need(row, name, list, where)
    if len(values) < least or not all(isinstance(value, str) for value in values):
        raise DataError(f"{where}: field {name!r} must hold at least {least} strings, got {short(values)}")
    return values


def short(value: object) -> str:
    """A value for an error message: one line of at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
