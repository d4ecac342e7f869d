"""JSON files that are never half written: a temporary file replaces the old one in one step."""

import json
import os
from pathlib import Path
from typing import Any

from stc_lmms.errors import StcError


def write_json(path: Path, content: Any) -> None:
    """Replace a file, creating its folder if needed.

    Raises:
        StcError: the disk is full, or the folder cannot be written; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StcError(f"cannot write {path} ({error.strerror}); finished work is kept") from None


def read_json(path: Path) -> Any:
    """The content of a file; None if it does not exist.

    Raises:
        StcError: it is not readable as JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StcError(f"{path} is not readable ({' '.join(str(error).split())})") from None
