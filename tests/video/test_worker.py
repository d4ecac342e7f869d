"""The worker process: decoders that hang or die, nothing left behind, nothing mixed up."""

import gc
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stc_lmms.errors import VideoError
from stc_lmms.video import iter_frames, open_video, process, worker
from tests import media
from tests.video.clock import Clock, hang
from tests.video.reading import expected, numbers


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")


def replace_worker(monkeypatch, script: str, replaced: str = "decord") -> None:
    """Run `script` instead of one decoder's worker; the others stay real."""
    real = process.worker_command

    def command(backend):
        return [sys.executable, "-c", script] if backend == replaced else real(backend)

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


HANG = "{hang}"  # filled in by the test, which owns the clock


@linux
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (HANG, "no progress for 5 s"),
        ("raise SystemExit('the disk is on fire')", "status 1: the disk is on fire"),
        ("import os; os.abort()", r"crashed \(SIGABRT\)"),
        (AFTER_THREE_FRAMES.format(then=HANG), "no progress for 5 s"),
        (AFTER_THREE_FRAMES.format(then="os.abort()"), r"crashed \(SIGABRT\)"),
    ],
)
def test_pyav_takes_over_from_a_decoder_that_hangs_or_dies(ok, tmp_path, monkeypatch, script, reason):
    clock = Clock(hung=tmp_path / "hung")
    monkeypatch.setattr(process, "time", clock)
    monkeypatch.setattr(process, "select", clock)
    replace_worker(monkeypatch, script.replace(HANG, hang(clock.hung)))
    before = children()
    with open_video(ok, fps=1, timeout_s=5) as stream:
        got = [(t, media.read_number(image)) for t, image in stream.read()]
        assert stream.backend == "pyav"
        (warning,) = stream.warnings
        assert re.search(f"decoding with pyav from .*{reason}", warning)
    assert got == expected(100, 10, 10)  # nothing twice, nothing missing
    with pytest.raises(VideoError, match=reason):
        list(iter_frames(ok, decoder="decord", fps=1, timeout_s=5))
    assert children() == before


def test_a_decoder_says_that_it_is_busy_at_most_once_a_second(monkeypatch):
    read, write = os.pipe()
    clock = Clock()
    monkeypatch.setattr(worker, "time", clock)
    messages = worker.Messages(write)
    for _ in range(100):
        clock.now_s += 0.125
        messages.tick()
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read().count(b'"busy"') == 11  # in 12.5 s, each more than a second after the last


def test_slow_is_not_hung_as_long_as_it_advances(ok, monkeypatch):
    slow = """
import itertools, types
from stc_lmms.video import worker
seconds = itertools.count(step=2)
worker.time = types.SimpleNamespace(monotonic=lambda: next(seconds))
worker.main()
"""
    replace_worker(monkeypatch, slow, "pyav")
    clock = Clock(step_s=1.0)
    monkeypatch.setattr(process, "time", clock)
    monkeypatch.setattr(process, "select", clock)
    with open_video(ok, decoder="pyav", fps=0.25, timeout_s=30) as stream:
        assert len(list(stream.read())) == 3
        assert clock.now_s > 2 * 40  # 40 frames are decoded between two, each with a message


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
def test_the_worker_dies_with_its_parent(ok, tmp_path, hangs):
    decoder = f"""
from stc_lmms.video import worker
if {hangs}:
    worker.decode = lambda *_: {hang(tmp_path / "hung")}
worker.main()
"""
    script = f"""
import os, pathlib, sys
from stc_lmms.video import open_video, process
process.worker_command = lambda backend: [sys.executable, "-c", {decoder!r}]
if {hangs}:
    stream = process.DecoderProcess({{"backend": "decord"}}, 600)
    while not pathlib.Path({str(tmp_path / "hung")!r}).exists():
        pass
else:
    stream = open_video({str(ok)!r}, fps=10)
print(pathlib.Path(f"/proc/self/task/{{os.getpid()}}/children").read_text(), flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    status = Path(f"/proc/{int(done.stdout)}/status")
    while status.exists() and "State:\tZ" not in status.read_text():  # pytest's own timeout ends a failure
        time.sleep(0.02)


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
    before = children()
    with open_video(path, fps=10) as stream:
        next(stream.read())
        time.sleep(1.0)  # in which it would run ahead
        (pid,) = children() - before
        statistics = Path(f"/proc/{pid}/io").read_text().splitlines()
        written = next(int(line.split()[1]) for line in statistics if line.startswith("wchar"))
        assert written < 3 * 720 * 1280 * 3


def test_the_worker_imports_nothing_heavy():
    code = (
        "import sys, stc_lmms.video.worker; "
        "print(sorted({'torch', 'transformers', 'decord', 'av', 'torchcodec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
