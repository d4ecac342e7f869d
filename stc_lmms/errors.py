"""Errors a user can act on.

The message of every `StcError` is one line that names the offending value and the fix. Command-line
entry points print it without a traceback and exit with status 2; a batch records it and continues.
"""

import sys
from typing import NoReturn


class StcError(Exception):
    """A problem with the user's input or environment; the message is one line."""


class SettingsError(StcError, ValueError):
    """A model argument is unknown or out of range."""


class VideoError(StcError):
    """A video cannot be opened, decoded or sampled."""


class DataError(StcError):
    """A benchmark's annotations or videos are missing or malformed."""


class CheckpointError(StcError):
    """A model checkpoint is missing, unreachable or of the wrong kind."""


def fail(error: Exception) -> NoReturn:
    """Print one line on standard error and exit with status 2.

    For code that a harness calls: it would turn an exception into a traceback and exit with status 0.
    """
    print(f"stc-lmms: error: {error}", file=sys.stderr)
    raise SystemExit(2)
