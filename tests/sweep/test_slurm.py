"""Slurm: what is submitted, and what is known of it afterwards; small programs stand in for Slurm's."""

import time

import pytest

from stc_lmms.cli.main import main
from stc_lmms.sweep import slurm
from stc_lmms.sweep.lease import me
from stc_lmms.sweep.slurm import SlurmOptions
from tests.sweep.helpers import pretend_done


@pytest.fixture
def cluster(program, tmp_path):
    """A cluster whose queue is the file `queue`, and whose `calls` are written down."""
    for name, code in {
        "squeue": f"cat {tmp_path}/queue",
        "sinfo": "echo debug",
        "scancel": f': > {tmp_path}/queue; echo "scancel $*" >> {tmp_path}/calls',
        "sbatch": f'echo "$*" >> {tmp_path}/calls; wc -l < {tmp_path}/calls',
    }.items():
        program(name, code)
    (tmp_path / "queue").write_text("")
    return tmp_path


def test_scripts_submitted_by_hand_are_seen_and_cancelled(sweep, cluster, capsys):
    found = sweep(6, shards=3)
    root = found.root.resolve()
    assert main(["sweep", "resume", str(root), "--executor", "print"]) == 0
    (script,) = (root / "slurm").glob("*.sbatch")
    comment = f"stc-lmms 0 {root}"
    assert f'#SBATCH --comment="{comment}"\n' in script.read_text()
    queue = [f"41 {n} PENDING {comment}" for n in (0, 2)] + [
        f"42 1 RUNNING {comment}2",
        "43 1 RUNNING (null)",
    ]
    (cluster / "queue").write_text("\n".join(queue) + "\n")
    assert slurm.queued(found) == {0: ("41", "PENDING"), 2: ("41", "PENDING")}
    capsys.readouterr()
    assert main(["sweep", "resume", str(root), "--executor", "slurm"]) == 0
    assert "submitted 1 jobs" in capsys.readouterr().out
    assert main(["sweep", "cancel", str(root)]) == 0
    assert "cancelled Slurm array 41" in capsys.readouterr().out
    assert "scancel 41\n" in (cluster / "calls").read_text()


def test_arrays_with_a_limit_run_in_turn(sweep, cluster, monkeypatch):
    found = sweep(5, shards=5)
    monkeypatch.setattr(slurm, "ARRAY", 2)
    scripts = slurm.write_scripts(found, range(5), SlurmOptions(array_limit=2))
    assert slurm.submit(found, scripts, in_sequence=True) == ["1", "2", "3"]
    calls = (cluster / "calls").read_text().splitlines()
    assert [call.split()[1].partition("=")[2] for call in calls[1:]] == ["afterany:1", "afterany:2"]
    slurm.submit(found, scripts, in_sequence=False)
    assert "afterany" not in "".join((cluster / "calls").read_text().splitlines()[3:])
    assert "--dependency=afterany:${id%%;*} " in slurm.commands(scripts, in_sequence=True)[1]
    assert slurm.commands(scripts, in_sequence=False) == [f"sbatch {path}" for path in scripts]


@pytest.mark.parametrize(("limit", "in_turn"), [("4", True), ("5", False)])
def test_arrays_wait_only_where_the_limit_can_be_reached(sweep, capsys, monkeypatch, limit, in_turn):
    found = sweep(5, shards=5)
    monkeypatch.setattr(slurm, "ARRAY", 2)
    assert main(["sweep", "resume", str(found.root), "--executor", "print", "--array-limit", limit]) == 0
    assert ("afterany" in capsys.readouterr().out) == in_turn


def test_resume_waits_for_what_slurm_is_ending(sweep, cluster, capsys, monkeypatch):
    found = sweep(3, shards=1)
    slurm.submit(found, slurm.write_scripts(found, [0], SlurmOptions()), in_sequence=False)
    (cluster / "queue").write_text("1 0 COMPLETING (null)\n")
    monkeypatch.setattr(slurm.settled, "__defaults__", (0.0,))
    assert main(["sweep", "resume", str(found.root), "--executor", "slurm"]) == 0
    assert "1 jobs are still ending; resume again in a moment" in capsys.readouterr().out
    monkeypatch.setattr(slurm.settled, "__defaults__", (20.0,))
    monkeypatch.setattr(time, "sleep", lambda _: (cluster / "queue").write_text(""))
    assert main(["sweep", "resume", str(found.root), "--executor", "slurm"]) == 0
    assert "submitted 1 jobs" in capsys.readouterr().out


def test_a_killed_job_that_still_seems_to_run_is_told(sweep, capsys):
    found = sweep(3, shards=1)
    about = {"host": "there", "state": "running", "reason": "", "heartbeat": time.time(), "attempt": 1}
    found.job(0).set_status(**me() | about | {"rows": 0, "seconds": 1.0})
    assert main(["sweep", "resume", str(found.root)]) == 0
    assert "1 jobs seem to run and are left alone" in capsys.readouterr().out


def test_a_job_whose_setup_failed_has_a_reason_and_a_log(sweep, cluster, capsys):
    found = sweep(6, shards=3)
    slurm.submit(found, slurm.write_scripts(found, range(3), SlurmOptions()), in_sequence=False)
    (found.root / "slurm" / "00000_9_1.log").write_text("an older one\n")
    (found.root / "slurm" / "00000_10_1.log").write_text("Loading\nmodule: command not found\n\n")
    assert main(["sweep", "status", str(found.root)]) == 0
    out = capsys.readouterr().out
    assert "001: lost: ended before it started (module: command not found); see " in out
    assert main(["sweep", "logs", str(found.root)]) == 0
    out = capsys.readouterr().out
    assert "00000_10_1.log" in out and "Loading\nmodule" in out and out.count("==") == 1
    (cluster / "queue").write_text("10 1 PENDING (null)\n1 1 PENDING (null)\n")
    assert main(["sweep", "status", str(found.root)]) == 0
    assert "ended before" not in capsys.readouterr().out, "it is queued again"


def test_without_slurm_a_sweep_goes_on_here(sweep, capsys, monkeypatch):
    found = sweep(3, shards=2)
    slurm.write_json(found.root / "slurm.json", [{"id": "7", "offset": 0}])
    monkeypatch.setenv("PATH", "")
    assert main(["sweep", "resume", str(found.root), "--executor", "print"]) == 0
    said = capsys.readouterr()
    assert "squeue is not installed" in said.err and said.out.startswith("sbatch ")
    for job in found.jobs:
        pretend_done(job)
    assert main(["sweep", "resume", str(found.root)]) == 0
    assert main(["sweep", "start", str(found.root.parent / "sweep.yaml")]) == 0
    assert "nothing is left to start" in capsys.readouterr().out
    assert main(["sweep", "resume", str(found.root), "--executor", "slurm"]) == 2


def test_a_script_has_one_element_per_job(sweep):
    found = sweep(5)
    options = SlurmOptions(
        partition="gpu", time="4:00:00", nodes=2, gpus_per_node=4, setup="module load cuda"
    )
    lines = slurm.script(found, [1000, 1001, 1005], 1000, options).splitlines()
    assert "#SBATCH --array=0-1,5%8" in lines and "#SBATCH --signal=B:USR1@120" in lines
    assert "#SBATCH --requeue" in lines and "#SBATCH --partition=gpu" in lines and "module load cuda" in lines
    assert not any("gpus" in line for line in lines), "its only recipe runs on the CPU"
    assert lines[-1].startswith("exec ") and lines[-1].endswith("$((1000 + SLURM_ARRAY_TASK_ID))")
    found.plan["recipes"]["plain"]["device"] = "auto"
    assert "#SBATCH --gpus-per-node=1" in slurm.script(found, [0], 0, options)
    paths = slurm.write_scripts(found, [0, 2, 1999], options)
    assert [path.stem.rpartition("_")[2] for path in paths] == ["00000", "01000"]
    assert "--array=999%8" in paths[1].read_text()


@pytest.mark.parametrize(
    ("numbers", "written"), [([3], "3"), ([0, 1, 2, 5, 7, 8], "0-2,5,7-8"), ([2, 0], "0,2")]
)
def test_ranges(numbers, written):
    assert slurm.ranges(numbers) == written
