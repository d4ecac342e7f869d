"""Small JSON files that are always whole: written beside, then renamed."""

import json
import os
from pathlib import Path
from typing import Any

from stc_lmms.errors import StcError


def write_json(path: Path, content: Any) -> None:
    """Put the content in place of the file, in one step.

    Raises:
        StcError: the disk is full, or the folder cannot be written; the old file stays.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(content) + "\n", encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise StcError(f"cannot write {path} ({error.strerror}); what is finished is kept") from None


def read_json(path: Path) -> Any:
    """The content; None if there is no such file.

    Raises:
        StcError: it is not readable as JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StcError(f"{path} is not readable ({' '.join(str(error).split())})") from None
