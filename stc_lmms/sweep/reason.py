"""Why an attempt at a job failed, in one line, from what it wrote to its log."""

import re
import signal
from pathlib import Path

_TAIL_BYTES = 20_000
_RANK = re.compile(r"^\[rank\d+\]:\s*")  # what torch puts before every line of a rank's traceback
_ROOT = re.compile(r"Root Cause.*?exitcode\s*:\s*(-?\d+)", re.DOTALL)  # of torchrun's own report
_ENDED_OTHERS = ("ChildFailedError", "SignalException")  # torchrun's own, which name no cause


def reason(status: int, log: Path, start: int = 0) -> str:
    """Our own error, the last one of a traceback, or the signal that ended it.

    Args:
        status: exit status, negative for a signal.
        log: what it wrote to.
        start: size of the log when this attempt began; what is before is of others.
    """
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - _TAIL_BYTES))
        tail = file.read().decode(errors="replace")
    root = _ROOT.findall(tail)  # the other ranks then fail, too: at what they waited for
    ended = status if status < 0 else min(0, int(root[-1])) if root else 0
    if ended < 0:
        name = signal.Signals(-ended).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    lines = [_RANK.sub("", line.strip()) for line in tail.splitlines()]
    ours = [line.partition("stc-lmms: error: ")[2] for line in lines if "stc-lmms: error: " in line]
    errors = [line for line in lines if _is_error(line)]
    return (ours or errors or [f"exit status {status}; see {log}"])[-1][:500]


def _is_error(line: str) -> bool:
    kind, colon, text = line.partition(":")
    if not kind.endswith(("Error", "Exception")) or kind.endswith(_ENDED_OTHERS):
        return False
    return bool(text.strip()) or not colon
