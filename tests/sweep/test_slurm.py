"""Slurm: what is submitted, and what is known of it afterwards; small programs stand in for Slurm's."""

import pytest

from stc_lmms.sweep import slurm
from stc_lmms.sweep.spec import SlurmOptions


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
