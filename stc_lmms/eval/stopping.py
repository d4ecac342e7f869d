"""A run that is told to stop (SIGTERM, SIGUSR1) finishes the question it is at, so that nothing is lost.

Clusters send one of these before they take a machine away. The journal then holds every answer, also those
of the video that was being played, and the next run goes on from there.
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
    """Whether the run was told to stop."""

    asked = False

    def ask(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Signal handler: remember it; the run looks between two questions."""
        self.asked = True


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within it the signals ask for a stop; afterwards they do what they did before."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread do this
        yield stop
        return
    before = {number: signal.signal(number, stop.ask) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Have the kernel send this process the signal when its parent dies (Linux only)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, number)


def end_with_launcher(environ: Mapping[str, str] = os.environ) -> None:
    """In a rank that torchrun started for a sweep: end when torchrun is killed.

    At once, because the job's lease goes with torchrun, which does not hand it on, and the job may be started
    again. One that is told to stop waits for its ranks, see `worker.py`.
    """
    if VARIABLE in environ and "TORCHELASTIC_RUN_ID" in environ:
        end_with_parent(signal.SIGKILL)
