"""`stc-lmms sweep` and `run` on a folder of finished and failed jobs."""

import json
import signal
import subprocess
import sys

import pytest

from stc_lmms.cli.main import main
from stc_lmms.sweep.folder import write_json
from tests.sweep.helpers import pretend_done


@pytest.fixture
def half(sweep):
    """A sweep whose first job is done, whose second failed, and whose third never ran."""
    found = sweep(6, shards=3)
    pretend_done(found.job(0))
    about = {"host": "there", "heartbeat": 0.0, "rows": 1, "seconds": 5.0, "attempt": 2}
    found.job(1).set_status(**about, state="failed", reason="killed by SIGKILL (out of memory?)")
    (found.job(1).path / "log.txt").write_text("".join(f"line {n}\n" for n in range(99)))
    return found


def test_status_is_a_table_with_reasons(half, capsys):
    assert main(["sweep", "status", str(half.root)]) == 0
    out = capsys.readouterr().out
    assert "plain/ovobench_stream/001: failed: killed by SIGKILL (out of memory?)" in out
    assert "1 of 3 jobs done" in out and "left" not in out
    assert main(["sweep", "status", str(half.root), "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["lines"]
    assert (line["states"]["done"], line["states"]["failed"], line["states"]["waiting"]) == (1, 1, 1)


def test_status_needs_no_slurm(half, capsys, monkeypatch):
    write_json(half.root / "slurm.json", [{"id": "7", "offset": 0}])
    monkeypatch.setenv("PATH", "")
    assert main(["sweep", "status", str(half.root)]) == 0
    assert "squeue is not installed" in capsys.readouterr().err
    assert main(["sweep", "resume", str(half.root), "--executor", "slurm"]) == 2
    assert "use --executor local or print" in capsys.readouterr().err


def test_resume_takes_what_is_not_done(half, capsys):
    assert main(["sweep", "resume", str(half.root), "--executor", "print", "--partition", "p"]) == 0
    assert capsys.readouterr().out.startswith("sbatch ")
    (script,) = (half.root / "slurm").glob("*.sbatch")
    assert "#SBATCH --array=1-2\n" in script.read_text() and "--partition=p" in script.read_text()
    for index in (1, 2):
        pretend_done(half.job(index))
    assert main(["sweep", "resume", str(half.root)]) == 0
    assert capsys.readouterr().out == "nothing is left to start\n"


def test_logs_are_those_of_failed_jobs_or_of_one(half, capsys):
    assert main(["sweep", "logs", str(half.root)]) == 0
    out = capsys.readouterr().out
    assert "001/log.txt" in out and "line 98" in out and "line 60" not in out and "000/log.txt" not in out
    assert main(["sweep", "logs", str(half.root), "plain/ovobench_stream/001"]) == 0
    assert "line 0" in capsys.readouterr().out
    assert main(["sweep", "logs", str(half.root), "plain/ovobench_stream/009"]) == 2
    assert "unknown job" in capsys.readouterr().err


def test_cancel_tells_the_process_that_runs_the_sweep(half, capsys, monkeypatch):
    code = (
        "import sys, time; from pathlib import Path; from stc_lmms.sweep.lease import Lease\n"
        "with Lease(Path(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(600)"
    )
    words = [sys.executable, "-c", code, str(half.root / "lease")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    assert main(["sweep", "cancel", str(half.root)]) == 0
    assert process.wait() == -signal.SIGTERM
    assert f"asked process {process.pid} to stop" in capsys.readouterr().out
    assert main(["sweep", "cancel", str(half.root)]) == 0, "whoever held it is gone"

    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    write_json(half.root / "slurm.json", [{"id": "7", "offset": 0}])
    monkeypatch.setenv("PATH", "")
    assert main(["sweep", "cancel", str(half.root)]) == 2, "what Slurm has is not cancelled"
    assert "squeue is not installed" in capsys.readouterr().err
    assert process.wait() == -signal.SIGTERM


def test_a_start_tells_of_videos_that_are_played_twice(sweep, sweep_file, capsys, monkeypatch):
    sweep(6, shards=3)
    monkeypatch.setattr("stc_lmms.sweep.shards.count_split", lambda order, ranks: 2 * ranks)
    assert main(["sweep", str(sweep_file()), "--executor", "print"]) == 0
    assert "6 videos are played by two processes" in capsys.readouterr().out


def test_run_lists_recipes_and_checks_them_first(capsys):
    assert main(["run", "--list"]) == 0
    assert "llava_ov_stc_64" in capsys.readouterr().out
    assert main(["run"]) == 2
    assert main(["run", "llava_ov_none", "--model_args", "token_budget=9"]) == 2
    assert "token_budget has no effect with method=none" in capsys.readouterr().err
