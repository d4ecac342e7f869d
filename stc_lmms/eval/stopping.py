"""A run that receives SIGTERM or SIGUSR1 finishes its current question, so that nothing is lost.

Clusters send one of these before they take a machine away. The journal then holds every answer, including
those about a video that is only partly played, and the next run resumes from there.
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
        """Signal handler: sets `asked`, which the run checks between two questions."""
        self.asked = True


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within the block, the signals ask for a stop; then the previous handlers are restored."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # others cannot set handlers
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
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, number)


def end_with_launcher(environ: Mapping[str, str] = os.environ) -> None:
    """In a rank that torchrun started for a sweep, die at once when torchrun is killed.

    torchrun does not pass the job's lease on to its ranks, so the job may be started again immediately. When
    torchrun is asked to stop, it waits for its ranks, see `sweep/worker.py`.
    """
    if VARIABLE in environ and "TORCHELASTIC_RUN_ID" in environ:
        end_with_parent(signal.SIGKILL)
