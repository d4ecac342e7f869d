"""A clock for the parent of decoder processes that no busy machine can disturb."""

import select
from pathlib import Path

LIMIT_S = 120  # real seconds after which a test is stuck


class Clock:
    """In place of the modules `time` and `select` in `video.process`: time passes only when a test says so.

    Args:
        hung: a file that a decoder creates when it hangs. As soon as it is there and nothing is left to
            read, the parent's whole timeout passes at once.
        step_s: how much time passes whenever the parent has waited for something and got it.
    """

    POLLIN = select.POLLIN

    def __init__(self, hung: Path | None = None, step_s: float = 0.0):
        self.hung, self.step_s, self.now_s = hung, step_s, 0.0

    def monotonic(self) -> float:
        return self.now_s

    def poll(self) -> "Poll":
        return Poll(self, select.poll())


class Poll:
    """A `select.poll` on that clock."""

    def __init__(self, clock: Clock, real: select.poll):
        self._clock, self._real = clock, real
        self.register = real.register

    def poll(self, timeout_ms: float) -> list:
        for _ in range(LIMIT_S * 50):
            hangs = self._clock.hung is not None and self._clock.hung.exists()
            ready = self._real.poll(0 if hangs else 20)  # what came before it hung is there by now
            if ready:
                self._clock.now_s += self._clock.step_s
                return ready
            if hangs:
                self._clock.hung.unlink()
                self._clock.now_s += timeout_ms / 1000
                return []
        raise AssertionError(f"a decoder neither answers nor hangs for {LIMIT_S} s")


def hang(flag: Path) -> str:
    """Statements with which a decoder hangs."""
    return f"(__import__('pathlib').Path({str(flag)!r}).touch(), __import__('time').sleep(600))"
