"""JSON files that are never half written: a temporary file replaces the old one in one step."""

import json
from pathlib import Path
from typing import Any

from stc_lmms.errors import StcError
from stc_lmms.results.write import write_text


def write_json(path: Path, content: Any) -> None:
    """Replace a file, creating its folder if needed.

    Raises:
        StcError: the disk is full, or the folder cannot be written; the old file stays.
    """
    write_text(path, json.dumps(content) + "\n")


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
