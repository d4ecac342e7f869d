"""One attempt at a job: how it ends, what it leaves, and what it never does twice.

A small program stands in for lmms-eval, whose start takes seconds; `tests/integration/test_sweep.py` has the
real one.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stc_lmms.errors import StcError
from stc_lmms.results.journal import Journal
from stc_lmms.results.schema import Run
from stc_lmms.sweep import worker
from stc_lmms.sweep.folder import LOST_S, SweepJob
from stc_lmms.sweep.lease import Lease, is_free, me
from stc_lmms.sweep.reason import reason
from stc_lmms.sweep.status import as_json, status, text, unfinished
from stc_lmms.sweep.worker import DONE, FAILED, STOPPED, Progress, Worker
from tests.sweep.helpers import pretend_done

ANSWER = (
    "import json, os, sys, pathlib; out = pathlib.Path(sys.argv[1]); j = out / 'stc_journal'\n"
    "from stc_lmms.results.journal import Journal\n"
    "journal = Journal(j); shard = json.load(open(os.environ['STC_SHARD']))\n"
    "def put(key, begun=False, **more): journal.put(key, more, begun)\n"
)
WRITE = f"RUN = {Run(run='1', harness='lmms-eval').model_dump()!r}\n"
WRITE += "(out / 'm').mkdir(exist_ok=True)\nfor leaf, n in json.loads(sys.argv[2]).items():\n"
WRITE += "    (out / 'm' / f'1_samples_{leaf}.jsonl').write_text('{}\\n' * n)\n"
WRITE += "(out / 'stc_run_1').mkdir(exist_ok=True)\n"
WRITE += "(out / 'stc_run_1' / 'run.json').write_text(json.dumps(RUN))\n"
WAIT = "import signal, time\nsignal.signal(15, lambda *_: os._exit(75)); os.write(1, b'ready\\n')\n"
WAIT += "time.sleep(600)\n"


@pytest.fixture
def job(sweep, monkeypatch):
    """`job(code)` has this code run in place of lmms-eval; gives (sweep, its first job)."""
    found = sweep(6, shards=2)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}

    def make(code=ANSWER + "put('a'); put('b', failed='x')\n" + WRITE):
        stand_in = [sys.executable, "-c", code]
        monkeypatch.setattr(
            worker, "command", lambda sweep, job: [*stand_in, str(job.out), json.dumps(rows(job))]
        )
        return found, found.job(0)

    yield make
    for number, handler in before.items():
        signal.signal(number, handler)


def rows(job):
    return {leaf: len(job.videos[key]) for leaf, key in job.leaves.items()}


def signal_when_ready(job, number):
    """Send this process the signal once the stand-in has said that it is ready."""

    def send():
        log = job.path / "log.txt"
        while not (log.exists() and b"ready" in log.read_bytes()):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_the_command_is_lmms_eval_with_the_recipe(sweep):
    found = sweep(3)
    words = worker.command(found, found.job(0))
    assert words[1:5] == ["-m", "stc_lmms.cli", "--model", "llava_ov_stc"]
    assert words[words.index("--tasks") + 1] == ",".join(found.job(0).leaves)
    assert words[words.index("--device") + 1] == "cpu"
    found.plan["gpus_per_job"] = 4
    assert worker.command(found, found.job(0))[1:5] == [
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"),
    ]


def test_a_job_that_ends_well_is_done_and_never_started_again(job):
    sweep, first = job()
    assert Worker(sweep, first).run() == DONE
    found = first.status()
    assert (found["state"], found["rows"], found["failed_rows"], found["attempt"]) == ("done", 2, 1, 1)
    assert json.loads((first.path / "shard.json").read_text())["rows"] == first.videos
    job("raise SystemExit('started again')")
    assert Worker(sweep, first).run() == DONE and first.status()["attempt"] == 1
    assert is_free(first.path / "lease")
    next(first.out.glob("m/*_samples_*")).unlink()
    job()
    assert Worker(sweep, first).run() == DONE and first.status()["attempt"] == 2, "it lost its samples"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "import sys; sys.exit('stc-lmms: error: token_budget=0 is too small')",
            "token_budget=0 is too small",
        ),
        ("raise OSError(28, 'No space left on device')", "OSError: [Errno 28] No space left on device"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL (out of memory?)"),
        ("raise SystemExit(3)", "exit status 3"),
        (ANSWER + "put('a')", "0 of "),
    ],
)
def test_a_job_that_fails_says_why_in_one_line(job, code, reason):
    sweep, first = job(code)
    assert Worker(sweep, first).run() == FAILED
    found = first.status()
    assert found["state"] == "failed" and reason in found["reason"] and "\n" not in found["reason"]
    job()
    assert Worker(sweep, first).run() == DONE and first.status()["attempt"] == 2


def test_told_to_stop_it_lets_lmms_eval_end_and_goes_on_later(job):
    sweep, first = job(ANSWER + "put('a')\n" + WAIT)
    thread = signal_when_ready(first, signal.SIGTERM)
    assert Worker(sweep, first).run() == STOPPED
    thread.join()
    assert first.status()["state"] == "stopped" and first.status()["reason"] == "stopped by SIGTERM"
    assert [each.index for each in unfinished(sweep)] == [0, 1]


def test_a_job_that_gets_nowhere_within_its_time_limit_is_given_up(job):
    sweep, first = job(ANSWER + WAIT)
    for attempt, state in enumerate(("stopped", "failed"), 1):
        (first.path / "log.txt").unlink(missing_ok=True)
        thread = signal_when_ready(first, signal.SIGUSR1)
        assert Worker(sweep, first).run() == (STOPPED if state == "stopped" else FAILED)
        thread.join()
        assert (first.status()["state"], first.status()["stalls"] if attempt == 1 else 1) == (state, 1)
    assert "give more time" in first.status()["reason"]


def test_a_job_that_answers_something_each_time_is_never_given_up(job):
    sweep, first = job(ANSWER + "put(str(os.getpid()))\n" + WAIT)
    for _ in range(3):
        (first.path / "log.txt").unlink(missing_ok=True)
        thread = signal_when_ready(first, signal.SIGUSR1)
        assert Worker(sweep, first).run() == STOPPED
        thread.join()
    assert first.status()["stalls"] == 0 and first.status()["rows"] == 3


@pytest.mark.parametrize(
    ("environ", "asked"),
    [
        ({"SLURM_JOB_ID": "8"}, "requeue 8"),
        # the last element of an array has its number, with which scontrol means all elements
        ({"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "3"}, "requeue 8_3"),
    ],
)
def test_before_a_time_limit_slurm_requeues_this_job_alone(
    job, program, tmp_path, monkeypatch, environ, asked
):
    program("scontrol", f'echo "$*" >> {tmp_path}/asked')
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    sweep, first = job(ANSWER + "put('a')\n" + WAIT)
    attempt = Worker(sweep, first)
    ask = attempt.ask_to_stop

    def twice(number, frame):  # as Slurm does: the notice, and SIGTERM at the limit itself
        ask(number, frame)
        ask(signal.SIGTERM, frame)

    monkeypatch.setattr(attempt, "ask_to_stop", twice)
    thread = signal_when_ready(first, signal.SIGUSR1)
    assert attempt.run() == STOPPED
    thread.join()
    assert first.status()["reason"] == "stopped by SIGUSR1"
    assert (tmp_path / "asked").read_text() == f"{asked}\n"


def test_a_rank_ends_with_a_killed_torchrun():
    rank = (
        "import os, time; from stc_lmms.eval.stopping import end_with_launcher, stoppable\n"
        "end_with_launcher()\nwith stoppable(): os.write(1, b'ready\\n'); time.sleep(600)"
    )
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}])"
    environ = dict(os.environ) | {"STC_SHARD": "x", "TORCHELASTIC_RUN_ID": "none"}
    process = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, env=environ)
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    assert process.stdout.read() == b"", "the pipe ends with the rank"
    process.wait()


def test_torchrun_gives_its_ranks_all_the_time(job):
    sweep, first = job("import os; raise SystemExit(os.environ['TORCH_ELASTIC_SHUTDOWN_TIMEOUT'])")
    Worker(sweep, first).run()
    assert "86400" in (first.path / "log.txt").read_text()
    api = pytest.importorskip("torch.distributed.launcher.api")
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" in Path(api.__file__).read_text(), "this torch has another way"


def test_a_job_that_is_held_is_left_alone(job, monkeypatch, capfd):
    sweep, first = job()
    monkeypatch.setattr(worker, "LEASE_WAIT_S", 0.0)
    with Lease(first.path / "lease", "x"):
        assert worker.main([str(sweep.root), "0"]) == STOPPED
    assert "job plain/ovobench_stream/000 is in use by process" in capfd.readouterr().err
    assert first.status()["state"] == "waiting"


def test_a_killed_worker_takes_lmms_eval_with_it_and_is_lost_at_once(job):
    sweep, first = job()
    stand_in = ANSWER + "print(os.getpid(), flush=True)\n" + WAIT
    code = (
        "import sys; from pathlib import Path; from stc_lmms.sweep import folder, worker\n"
        "sweep = folder.Sweep(Path(sys.argv[1]))\n"
        f"worker.command = lambda *_: [sys.executable, '-c', {stand_in!r}, str(sweep.job(0).out)]\n"
        "worker.Worker(sweep, sweep.job(0)).run()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(sweep.root)])
    log = first.path / "log.txt"
    while not (log.exists() and b"ready" in log.read_bytes()) or first.status()["state"] != "running":
        time.sleep(0.02)
    child = int(log.read_text().split()[-2])
    process.send_signal(signal.SIGKILL)
    process.wait()
    while not is_free(first.path / "lease"):
        time.sleep(0.02)
    stat = Path(f"/proc/{child}/stat")  # nobody may be there to reap it
    assert not stat.exists() or stat.read_text().split()[2] == "Z"
    assert first.status()["state"] == "lost"


def test_a_running_job_without_a_heartbeat_is_lost(job):
    _, first = job()
    about = me() | {"host": "elsewhere", "state": "running", "heartbeat": time.time(), "rows": 1}
    first.set_status(**about)
    assert first.status()["state"] == "running"
    first.set_status(**about | {"heartbeat": time.time() - LOST_S - 1})
    assert first.status()["state"] == "lost" and "elsewhere is gone" in first.status()["reason"]


def test_a_full_disk_is_one_line_and_keeps_the_last_status(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; from stc_lmms.sweep.folder import write_json\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "write_json(Path(sys.argv[1]), {'a': 1}); write_json(Path(sys.argv[1]), 'x' * 1000)"
    )
    path = tmp_path / "status.json"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert f"cannot write {path} (File too large)" in done.stderr
    assert json.loads(path.read_text()) == {"a": 1} and os.listdir(tmp_path) == ["status.json"]


def test_a_heartbeat_that_cannot_be_written_ends_nothing(job, monkeypatch):
    written = SweepJob.set_status

    def full_while_running(self, **content):
        if content["state"] == "running":
            raise StcError("cannot write status.json (No space left on device)")
        written(self, **content)

    monkeypatch.setattr(SweepJob, "set_status", full_while_running)
    sweep, first = job("raise SystemExit(1)")
    assert Worker(sweep, first).run() == FAILED
    assert first.status()["reason"] == "cannot write status.json (No space left on device)"
    job()
    assert Worker(sweep, first).run() == DONE and first.status()["reason"] == ""


def test_a_full_disk_at_the_beginning_is_one_line(job, monkeypatch, capfd):
    class Full:
        def open(self, *_, **__):
            raise OSError(28, os.strerror(28))

        def __str__(self):
            return "log.txt"

    sweep, first = job()
    attempt = Worker(sweep, first)
    attempt.log = Full()
    with pytest.raises(StcError, match=r"cannot write log.txt \(No space left on device\); make room"):
        attempt.run()
    assert is_free(first.path / "lease")


TORCHRUN = """
[rank1]: Traceback (most recent call last):
[rank1]: torch.distributed.DistBackendError: connection closed by peer
Traceback (most recent call last):
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
Failures:
[1]:
  exitcode  : 1 (pid: 8)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  exitcode  : {} (pid: 7)
============================================================
"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TORCHRUN.format(-9), "killed by SIGKILL (out of memory?)"),
        (TORCHRUN.format(1), "torch.distributed.DistBackendError: connection closed by peer"),
        ("stc-lmms: error: bad\n" + TORCHRUN.format(2), "bad"),
        ("AssertionError\n", "AssertionError"),
    ],
)
def test_the_cause_is_found_in_what_torchrun_says(tmp_path, text, why):
    (tmp_path / "log.txt").write_text(text)
    assert reason(1, tmp_path / "log.txt") == why


def test_a_second_failure_does_not_give_the_reason_of_the_first(job):
    for code, why in (
        ("import sys; sys.exit('stc-lmms: error: the first')", "the first"),
        ("raise ValueError('the second')", "ValueError: the second"),
        ("raise SystemExit(3)", "exit status 3"),
    ):
        sweep, first = job(code)
        assert Worker(sweep, first).run() == FAILED
        assert first.status()["reason"].startswith(why)


def test_progress_reads_only_what_is_new(tmp_path):
    progress = Progress(tmp_path)
    assert progress.read() == (0, 0)
    journal = Journal(tmp_path)
    journal.put("a", {"failed": "why"})
    journal.put("b", {"responses": ["x", "y"]}, begun=True)
    journal.put("c", {"failed": ""})
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-5])
    assert progress.read() == (1, 2) and progress.failed == 1
    journal.path.write_bytes(whole)
    journal.put("b", {"failed": ""})
    with journal.path.open("a") as file:
        file.write("[]\n")
    other = Journal(tmp_path, rank=1)
    other.put("a", {"failed": ""})
    assert progress.read() == (3, 0) and progress.failed == 0
    journal.close()
    other.close()


def test_a_status_table_counts_rates_and_tells_why(job):
    sweep, first = job()
    second = sweep.job(1)
    pretend_done(first)
    second.set_status(
        **me()
        | {"host": "there", "state": "running", "reason": "", "heartbeat": time.time(), "attempt": 1}
        | {"rows": second.rows // 2, "seconds": 10.0, "failed_rows": 0}
    )
    found = status(sweep)
    share = (second.rows // 2) / second.rows
    rate = (first.cost + share * second.cost) / 20
    assert found.left_s == pytest.approx((1 - share) * second.cost / rate)
    assert not found.done and "1 of 2 jobs done; about " in text(found)
    second.set_status(**second.status() | {"state": "failed", "reason": "the disk is full"})
    shown = text(status(sweep))
    assert "plain/ovobench_stream/001: failed: the disk is full" in shown and "left" not in shown
    assert status(sweep, {1: "PENDING"}).count("queued") == 1
    json.dumps(as_json(found))
