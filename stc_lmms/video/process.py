"""The parent's end of a decoder process: start it, wait for it with a timeout, kill it.

`subprocess` rather than `multiprocessing`: a spawned child would import the caller's main module (and torch
with it), and a forked one would inherit CUDA state and other threads' locks.
"""

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import IO, Any

from stc_lmms.errors import VideoError

_PIPE_BYTES = 1 << 20
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])


def worker_command(backend: str) -> list[str]:
    """Command that runs a decoder; the job is appended as the last argument."""
    return [sys.executable, "-P", "-m", "stc_lmms.video.worker"]


class DecoderProcess:
    """One running worker. Killed by `close`, by garbage collection, and when this process ends."""

    def __init__(self, job: dict[str, Any], timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _stop
        # The worker must import this very package, also from a checkout.
        search_path = os.pathsep.join(filter(None, [_PACKAGE_PARENT, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [*worker_command(job["backend"]), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            pipesize=_PIPE_BYTES,
            env=os.environ | {"PYTHONPATH": search_path},
        )
        self._finalizer = weakref.finalize(self, _stop, self._process, self._log, os.getpid())
        self._pipe = self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)

    def receive(self) -> tuple[dict[str, Any], bytearray]:
        """Wait for the next message that is not "busy": its header, and the pixels of a frame.

        Raises:
            VideoError: The worker reported an error, died, or made no progress for `timeout_s`; gives the
                reason without the path.
        """
        while True:
            deadline_s = time.monotonic() + self._timeout_s
            (size,) = struct.unpack("<I", self._read(4, deadline_s))
            header = json.loads(self._read(size, deadline_s))
            pixels = self._read(header["n_bytes"], deadline_s)
            if header["kind"] == "error":
                raise VideoError(header["reason"])
            if header["kind"] != "busy":
                return header, pixels

    def close(self) -> None:
        """Kill the worker and free everything; safe to call twice."""
        self._finalizer()

    def _read(self, n_bytes: int, deadline_s: float) -> bytearray:
        data = bytearray(n_bytes)
        missing = memoryview(data)
        while missing.nbytes:
            wait_s = deadline_s - time.monotonic()
            if wait_s <= 0 or not self._poll.poll(wait_s * 1000):
                raise VideoError(f"the decoder made no progress for {self._timeout_s:g} s and was stopped")
            n_read = os.readv(self._pipe, [missing])
            if n_read == 0:
                raise VideoError(self._cause_of_death())
            missing = missing[n_read:]
        return data

    def _cause_of_death(self) -> str:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "the decoder closed its output without an error message"
        if status < 0:
            return f"the decoder crashed ({signal.Signals(-status).name})"
        self._log.seek(0)
        last_line = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
        return ": ".join([f"the decoder stopped with status {status}", *last_line])


def _stop(process: subprocess.Popen, log: IO[bytes], owner_pid: int) -> None:
    if os.getpid() != owner_pid:  # a fork of the process that owns the worker
        return
    process.kill()
    process.stdin.close()
    process.stdout.close()
    log.close()
    # If it is stuck in the kernel (a dead network disk), subprocess reaps it later.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
