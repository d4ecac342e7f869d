"""The decoder process: `python -m stc_lmms.video.worker JOB`, started by `process.DecoderProcess`.

Decoders hang and abort on broken files; neither can be caught, but a process can be killed. JOB is a JSON
object (backend, path, fps, start_s, avg_fps or null, exact, first_k, times_s or null; for `live` also the
fields of `describe_source`), or, to only read the packets, (backend: "scan", path). Messages go to standard
output: the length of a JSON header as 4 bytes, the header, then `n_bytes` of pixels:

- info: duration_s, n_frames, avg_fps
- frame: k, height, width, n_damaged, and height x width x 3 bytes of RGB
- busy: nothing to deliver yet, but decoding advances (at most once per second)
- end: n_damaged, claimed_s, delivered_s, damaged_at_end (see `Delivery`); the only message of a scan
- error: reason

A full pipe blocks the worker, so it decodes about one frame ahead. It must start fast: no torch here.
"""

import contextlib
import json
import os
import signal
import struct
import sys
import threading
import time
from dataclasses import asdict

from stc_lmms.errors import VideoError
from stc_lmms.video.backends import SOURCES, PyAVSource, delivery_of
from stc_lmms.video.live_input import LiveInput
from stc_lmms.video.sampling import FixedTimes, Sampling

_BUSY_EVERY_S = 1.0


class Messages:
    """The writing end of the pipe to the parent."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._last_s = time.monotonic()

    def send(self, kind: str, pixels: memoryview | None = None, **fields: object) -> None:
        """Write one message, waiting while the pipe is full; fails if the parent has closed its end."""
        fields |= {"kind": kind, "n_bytes": pixels.nbytes if pixels is not None else 0}
        header = json.dumps(fields).encode()
        self._write(memoryview(struct.pack("<I", len(header)) + header))
        if pixels is not None:
            self._write(pixels)
        self._last_s = time.monotonic()

    def tick(self) -> None:
        """Tell the parent regularly that decoding advances."""
        if time.monotonic() - self._last_s > _BUSY_EVERY_S:
            self.send("busy")

    def _write(self, data: memoryview) -> None:
        while data.nbytes:
            data = data[os.write(self._descriptor, data) :]


def decode(job: dict, messages: Messages) -> None:
    """Do one job, from the first message to the last."""
    try:
        if job["backend"] == "scan":
            source = PyAVSource(job["path"], messages.tick)
            messages.send("end", **asdict(source.scan()), n_damaged=source.n_damaged)
            return
        if job["backend"] == "live":
            source = LiveInput(job, messages.tick)
        else:
            source = SOURCES[job["backend"]](job["path"], messages.tick)
        messages.send("info", **asdict(source.info))
        # After a fallback, keep sampling by the first decoder's rate, or frames would repeat or go missing.
        avg_fps = job["avg_fps"] or source.info.avg_fps
        sampling = Sampling.of(avg_fps, job["fps"], job["start_s"], job["exact"])
        if job.get("times_s") is not None:
            sampling = FixedTimes(tuple(job["times_s"]))
        for k, image_HWC in source.frames(sampling, job["first_k"]):
            height, width, _ = image_HWC.shape
            pixels = memoryview(image_HWC).cast("B")
            messages.send("frame", pixels, k=k, height=height, width=width, n_damaged=source.n_damaged)
        if job["backend"] == "live":  # it cannot be opened a second time
            messages.send("end", n_damaged=source.n_damaged)
            return
        delivery = delivery_of(job["path"], source, messages.tick)
        messages.send("end", **asdict(delivery), n_damaged=source.n_damaged)
    except VideoError as error:
        messages.send("error", reason=str(error))
    except ImportError as error:
        messages.send("error", reason=f"{job['backend']} is not installed ({error})")


def _exit_with_parent() -> None:
    """Exit as soon as standard input closes (the parent closed it or died), even if a decoder hangs."""
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    """Run the job given on the command line; the exit status only matters after a crash."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    messages = Messages(os.dup(1))
    os.dup2(2, 1)  # prints of C libraries must not mix with the messages
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        decode(json.loads(sys.argv[1]), messages)
    os._exit(0)  # decoders may hang in their destructors


if __name__ == "__main__":
    main()
