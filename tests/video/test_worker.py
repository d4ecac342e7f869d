"""The worker process: decoders that hang or die, nothing left behind, nothing mixed up."""

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stc_lmms.errors import VideoError
from stc_lmms.video import iter_frames, open_video, process
from tests import media
from tests.video.reading import expected, numbers


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")


def replace_decord(monkeypatch, script: str) -> None:
    """Run `script` instead of the decord worker; PyAV stays real."""
    real = process.worker_command

    def command(backend):
        return [sys.executable, "-c", script] if backend == "decord" else real(backend)

    monkeypatch.setattr(process, "worker_command", command)


# A worker that decodes properly and then, before frame 3, does something else.
AFTER_THREE_FRAMES = """
import json, os, sys, time
from stc_lmms.video import worker
send = worker.Messages.send
def broken(self, kind, pixels=None, **fields):
    if fields.get("k") == 3:
        {then}
    send(self, kind, pixels, **fields)
worker.Messages.send = broken
worker.main()
"""


@linux
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import time; time.sleep(60)", "no progress for 0.5 s"),
        ("raise SystemExit('the disk is on fire')", "status 1: the disk is on fire"),
        ("import os; os.abort()", r"crashed \(SIGABRT\)"),
        (AFTER_THREE_FRAMES.format(then="time.sleep(60)"), "no progress for 0.5 s"),
        (AFTER_THREE_FRAMES.format(then="os.abort()"), r"crashed \(SIGABRT\)"),
    ],
)
def test_pyav_takes_over_from_a_decoder_that_hangs_or_dies(ok, monkeypatch, script, reason):
    replace_decord(monkeypatch, script)
    before = children()
    timeout_s = 0.5 if "0.5" in reason else 30
    with open_video(ok, fps=1, timeout_s=timeout_s) as stream:
        got = [(t, media.read_number(image)) for t, image in stream.read()]
        assert stream.backend == "pyav" and stream.fallback_reason.startswith("decord: ")
        assert len(stream.warnings) == 1
        with pytest.raises(VideoError, match=reason):
            raise VideoError(stream.fallback_reason)
    assert got == expected(100, 10, 10)  # nothing twice, nothing missing
    with pytest.raises(VideoError, match=reason):
        list(iter_frames(ok, decoder="decord", fps=1, timeout_s=timeout_s))
    assert children() == before


def test_slow_is_not_hung_as_long_as_it_advances(ok, monkeypatch):
    slow = """
import time
from stc_lmms.video import backends, worker
worker._BUSY_EVERY_S = 0.1
on_screen = backends.on_screen
def slow(frames, *rest):
    def delayed():
        for frame in frames:
            time.sleep(0.03)
            messages.tick()
            yield frame
    return on_screen(delayed(), *rest)
backends.on_screen = slow
init = worker.Messages.__init__
def remember(self, descriptor):
    global messages
    messages = self
    init(self, descriptor)
worker.Messages.__init__ = remember
worker.main()
"""
    replace_decord(monkeypatch, slow)
    with open_video(ok, fps=0.25, timeout_s=0.8) as stream:  # 1.2 s of decoding between two frames
        assert len(list(stream.read())) == 3
        assert stream.backend == "decord" and stream.decode_ms > 1500


@linux
def test_nothing_is_left_behind(ok, tmp_path):
    broken = media.damage(ok, tmp_path / "d.mp4")
    list(iter_frames(ok))
    gc.collect()
    before = children(), len(os.listdir("/proc/self/fd"))
    stream = open_video(ok, fps=10)
    next(stream.read())
    stream.close()  # half way
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        list(stream.read())
    list(iter_frames(broken, fps=10))  # with a fallback
    abandoned = open_video(ok, fps=10)
    next(abandoned.read())
    assert len(children()) == len(before[0]) + 1
    del abandoned  # no close at all
    with pytest.raises(VideoError):
        open_video(media.encode_audio_only(tmp_path / "a.mp4"))
    gc.collect()
    assert (children(), len(os.listdir("/proc/self/fd"))) == before


@linux
@pytest.mark.parametrize("hangs", [False, True])
def test_the_worker_dies_with_its_parent(ok, hangs):
    script = f"""
import os, sys, time
from stc_lmms.video import open_video, process
if {hangs}:
    hung = "import threading, time\\nfrom stc_lmms.video import worker\\n"
    hung += "worker.decode = lambda *_: time.sleep(60)\\nworker.main()"
    process.worker_command = lambda backend: [sys.executable, "-c", hung]
    stream = process.DecoderProcess({{"backend": "decord"}}, 60)
    worker = stream._process
    time.sleep(0.5)
else:
    stream = open_video({str(ok)!r}, fps=10)
    worker = stream._worker._process
print(worker.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    status = Path(f"/proc/{int(done.stdout)}/status")
    for _ in range(100):
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.05)
    pytest.fail("the worker outlives its parent")


def test_streams_in_several_threads_do_not_mix(clips, ok):
    other = media.encode_video(clips / "other.mp4", media.numbered_frames(100, first=2000), 10)
    results = {}

    def work(name, path):
        results[name] = [n for _, n in numbers(path, fps=5)]

    jobs = [("a", ok), ("b", other), ("c", ok), ("d", other)]
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = list(range(0, 100, 2))
    assert results == {"a": first, "c": first, "b": [2000 + n for n in first], "d": [2000 + n for n in first]}


@linux
def test_the_worker_waits_instead_of_running_ahead(tmp_path):
    path = media.encode_video(
        tmp_path / "large.mp4",
        media.numbered_frames(60, 720, 1280),
        10,
        codec_options={"preset": "ultrafast"},
    )
    with open_video(path, fps=10) as stream:
        next(stream.read())
        time.sleep(1.0)
        statistics = Path(f"/proc/{stream._worker._process.pid}/io").read_text().splitlines()
        written = next(int(line.split()[1]) for line in statistics if line.startswith("wchar"))
        assert written < 3 * 720 * 1280 * 3


def test_the_worker_imports_nothing_heavy():
    code = (
        "import sys, stc_lmms.video.worker; "
        "print(sorted({'torch', 'transformers', 'decord', 'av', 'torchcodec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
