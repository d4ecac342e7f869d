"""Why an attempt at a job failed, in one line taken from its log."""

import re
import signal
from pathlib import Path

_TAIL_BYTES = 20_000
_RANK = re.compile(r"^\[rank\d+\]:\s*")  # torch's prefix of every line of a rank's traceback
_ROOT = re.compile(r"Root Cause.*?exitcode\s*:\s*(-?\d+)", re.DOTALL)  # in torchrun's report
_TORCHRUN_ERRORS = ("ChildFailedError", "SignalException")  # these name no cause


def reason(status: int, log: Path, start: int = 0) -> str:
    """Our own error message, the last line of a traceback, or the signal that killed the process.

    `status` is negative for a signal; `start` is the size of the log before this attempt.
    """
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - _TAIL_BYTES))
        tail = file.read().decode(errors="replace")
    root = _ROOT.findall(tail)  # the other ranks then fail as well, while waiting for this one
    killed_by = -status if status < 0 else max(0, -int(root[-1])) if root else 0
    if killed_by:
        name = signal.Signals(killed_by).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    lines = [_RANK.sub("", line.strip()) for line in tail.splitlines()]
    ours = [line.partition("stc-lmms: error: ")[2] for line in lines if "stc-lmms: error: " in line]
    errors = [line for line in lines if _is_error(line)]
    return (ours or errors or [f"exit status {status}; see {log}"])[-1][:500]


def _is_error(line: str) -> bool:
    kind, colon, text = line.partition(":")
    if not kind.endswith(("Error", "Exception")) or kind.endswith(_TORCHRUN_ERRORS):
        return False
    return bool(text.strip()) or not colon
