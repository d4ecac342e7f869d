"""On SIGTERM or SIGUSR1 a run stops after its current question; the next run resumes from its journal.

Cluster schedulers send one of these signals before they end a job.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from stc_lmms.eval.shard import VARIABLE

STOPPED = 75  # exit status "try again later" (EX_TEMPFAIL): the run was stopped, not broken
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stop:
    """Whether the run has been asked to stop."""

    asked = False

    def ask(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Signal handler; the run checks `asked` between two questions."""
        self.asked = True


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Handle the signals within the block; restore the previous handlers after it."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield stop
        return
    before = {number: signal.signal(number, stop.ask) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when its parent dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG


def end_with_launcher(environ: Mapping[str, str] = os.environ) -> None:
    """In a rank that torchrun started for a sweep, die at once when torchrun is killed.

    torchrun's ranks do not hold the job's lease, so the job may be started again immediately.
    """
    if VARIABLE in environ and "TORCHELASTIC_RUN_ID" in environ:
        end_with_parent(signal.SIGKILL)
