"""Leases: one process at a time starts a sweep's jobs, and one at a time runs a job.

A lease is a file lock, which the kernel releases when its holder (or a child that inherited it) dies. The
file names the holder. Where file locks do not exist, or do not reach other machines, the modification time is
a heartbeat: a file that was touched recently is held.
"""

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Self

from stc_lmms.errors import StcError

STALE_S = 120  # a holder without a visible lock that has not touched its lease for so long is gone


class Held(StcError):
    """Another process holds the lease; the message names it."""


class Lease:
    """A lease on a file, held within a `with` block.

    Args:
        path: the file, created if needed.
        what: what is leased, for the message.
        wait_s: how long to wait for another holder.
    """

    def __init__(self, path: Path, what: str, wait_s: float = 0.0):
        self.path, self.what, self.wait_s = path, what, wait_s
        self.fd = -1  # passed to child processes that inherit the lease

    def __enter__(self) -> Self:
        """Take the lease.

        Raises:
            Held: another process has it.
            StcError: the file cannot be written.
        """
        end = time.monotonic() + self.wait_s
        while True:
            try:
                self._take()
                return self
            except Held:
                if time.monotonic() >= end:
                    raise
                time.sleep(0.5)

    def __exit__(self, *_: object) -> None:
        os.ftruncate(self.fd, 0)
        os.close(self.fd)

    def touch(self) -> None:
        """Update the heartbeat."""
        os.utime(self.fd)

    def _take(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StcError(f"cannot write {self.path} ({error.strerror})") from None
        lock = _lock(fd, fcntl.LOCK_EX)
        holder = holder_of(self.path)
        lock_says_nothing = lock == "none" or (bool(holder) and holder["host"] != me()["host"])
        # If the holder is this very Slurm job before it was requeued, it is gone.
        requeued = bool(holder and me()["slurm"]) and holder["slurm"] == me()["slurm"]
        if lock == "held" or (lock_says_nothing and _has_heartbeat(self.path, holder) and not requeued):
            os.close(fd)
            raise Held(f"{self.what} is in use by {_describe(holder)}; wait for it, or cancel it")
        try:
            os.ftruncate(fd, 0)
            os.write(fd, json.dumps(me() | {"since": time.time()}).encode())
        except OSError as error:
            os.close(fd)
            raise StcError(f"cannot write {self.path} ({error.strerror}); make room, then resume") from None
        self.fd = fd


def me() -> dict[str, Any]:
    """This process, as leases and status files name it."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "slurm": os.environ.get("SLURM_JOB_ID", "")}


def holder_of(path: Path) -> dict[str, Any]:
    """The holder that a lease's file names; empty if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_free(path: Path) -> bool:
    """Whether no process of this machine holds the lease."""
    try:
        with path.open("rb") as file:
            lock = _lock(file.fileno(), fcntl.LOCK_SH)  # shared: two that only look do not collide
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return lock == "taken" or (lock == "none" and not _has_heartbeat(path, holder_of(path)))


def _lock(fd: int, kind: int) -> str:
    """`taken`, `held` by another process, or `none` where the file system has no locks."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return "held"
    except OSError:
        return "none"
    return "taken"


def _has_heartbeat(path: Path, holder: dict[str, Any]) -> bool:
    return bool(holder) and time.time() - path.stat().st_mtime < STALE_S


def _describe(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    slurm = f" (Slurm job {holder['slurm']})" if holder.get("slurm") else ""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    return f"process {holder['pid']} on {holder['host']}{slurm} since {since}"
