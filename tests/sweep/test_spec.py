"""A sweep's file: what it expands to, and one line for everything that is wrong with it."""

import json

import pytest
import yaml

from stc_lmms.cli.main import main
from stc_lmms.errors import SettingsError, StcError
from stc_lmms.sweep import folder, spec, tasks
from stc_lmms.sweep.slurm import SlurmOptions


def test_jobs_are_recipes_x_tasks_x_shards(sweep, checkpoint):
    found = sweep(
        7,
        recipes=["plain.yaml", "llava_ov_stc"],
        tasks=["ovobench_stream"],
        model_args={"pretrained": str(checkpoint), "fps": 1, "token_budget": 9},
    )
    jobs = list(found.jobs)
    assert [job.name for job in jobs[2:5]] == [
        "plain/ovobench_stream/002",
        "llava_ov_stc/ovobench_stream/000",
        "llava_ov_stc/ovobench_stream/001",
    ]
    args = found.plan["recipes"]["plain"]["model_args"], found.plan["recipes"]["llava_ov_stc"]["model_args"]
    assert args[0]["fps"] == args[1]["fps"] == "1"
    assert "token_budget" not in args[0] and args[1]["token_budget"] == "9", "where the method uses it"


def test_every_video_is_in_one_shard_with_all_its_rows(sweep):
    found = sweep(9, shards=4)
    videos = [{video for listed in job.videos.values() for video in listed} for job in found.jobs]
    assert sorted(video for inside in videos for video in inside) == [f"v{n:04d}.mp4" for n in range(9)]
    order = found.plan["tasks"]["ovobench_stream"]
    for leaf in tasks.find("ovobench_stream").leaves:
        rows = [video for job in found.jobs for video in job.videos.get(leaf.key, ())]
        assert sorted(rows) == sorted(order[leaf.name])
    (with_forward,) = (job for job in found.jobs if "ovobench_stream_forward" in job.leaves)
    assert with_forward.videos["ovobench/forward"] == ["v0000.mp4"]
    costs = [job.cost for job in found.jobs]
    assert max(costs) < 1.5 * min(costs)


def test_more_shards_than_videos_are_not_made(sweep):
    assert len(list(sweep(2, shards=50).jobs)) == 2


def test_the_same_file_opens_the_same_sweep_and_another_is_refused(sweep, sweep_file):
    first = sweep(5)
    again = spec.make_plan(spec.read(sweep_file()))
    assert folder.create(first.root, again).plan == first.plan
    other = spec.make_plan(spec.read(sweep_file(shards=2)))
    with pytest.raises(StcError, match="holds another sweep \\(its shards, jobs differ\\)"):
        folder.create(first.root, other)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"shard": 2}, "unknown sweep key 'shard'; did you mean 'shards'?"),
        ({"shards": 0}, "shards=0 must be at least 1"),
        ({"shards": "2"}, "shards='2' must be of type int"),
        ({"shards": True}, "shards=True must be of type int"),
        ({"recipes": []}, "recipes must be a list of names, got []"),
        ({"recipes": None}, "recipes must be a list of names, got None"),
        ({"recipes": ["llava_ov_stcc"]}, "unknown recipe 'llava_ov_stcc'; did you mean 'llava_ov_stc'?"),
        ({"recipes": ["no.yaml"]}, "there is no recipe file"),
        ({"tasks": ["ovobench_streams"]}, "unknown task of this package 'ovobench_streams'"),
        ({"output": None}, "output must name the sweep's folder"),
        ({"model_args": {"fpss": 1}}, "unknown model argument 'fpss'; did you mean 'fps'?"),
        ({"model_args": {"token_budget": 9}}, "model_args: no recipe uses token_budget"),
        ({"slurm": {"partitions": "a"}}, "slurm: unknown key 'partitions'; did you mean 'partition'?"),
        ({"slurm": {"time": 14400}}, "time=14400 must be in quotes"),
        ({"slurm": {"time": "soon"}}, "time='soon' is not a time limit of sbatch"),
        ({"slurm": {"nodes": 0}}, "nodes=0 must be a whole number of 1 or more"),
        ({"slurm": {"account": "a b"}}, "account='a b' must be a string without spaces"),
        ({"slurm": {"account": "x\n#SBATCH"}}, "must be a string without spaces"),
        ({"gpus_per_job": 8, "slurm": {"gpus_per_node": 4}}, "gpus_per_job=8 is more than the 4 of a node"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(sweep_file, tmp_path, capsys, keys, message):
    assert main(["sweep", str(sweep_file(**keys))]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert message in line and not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"modle": "x"}, "unknown recipe key 'modle'; did you mean 'model'?"),
        ({"model": None}, "model must be a string, got None"),
        ({"limit": 4}, "recipe plain: limit=4 cannot be used in a sweep"),
        ({"model": "llava_ov"}, "model='llava_ov' must be 'llava_ov_stc'"),
        ({"model_args": "method"}, "model_args: 'method' is not of the form name=value"),
        (
            {"model_args": "pretrained={c},method=none,token_budget=9"},
            "token_budget has no effect with method=none",
        ),
        ({"model_args": "pretrained={c},method=stc,token_budget=37"}, "more than the 36 tokens a frame has"),
    ],
)
def test_a_recipe_is_checked_before_anything_is_written(
    sweep_file, tmp_path, checkpoint, capsys, recipe, message
):
    path = sweep_file(tasks=["streamingbench_mini"])
    plain = yaml.safe_load((tmp_path / "plain.yaml").read_text()) | recipe
    if plain["model_args"]:
        plain["model_args"] = plain["model_args"].replace("{c}", str(checkpoint))
    (tmp_path / "plain.yaml").write_text(json.dumps(plain))
    assert main(["sweep", str(path)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert message in line and not (tmp_path / "sweep").exists()


def test_missing_data_is_told_before_anything_starts(sweep_file, capsys):
    assert main(["sweep", str(sweep_file())]) == 2
    assert "STC_OVOBENCH_ROOT is not set" in capsys.readouterr().err


def test_jobs_at_once_follow_from_nodes_and_gpus():
    assert SlurmOptions().at_once(1) is None
    assert SlurmOptions(nodes=3, gpus_per_node=8).at_once(2) == 12
    assert SlurmOptions(nodes=3, gpus_per_node=8, array_limit=5).at_once(2) == 5


def test_the_second_sweep_in_a_folder_is_refused_with_the_holders_name(sweep, sweep_file, capsys):
    from stc_lmms.sweep.lease import Lease

    root = sweep(3).root
    with Lease(root / "lease", "x"):
        # a second descriptor of the same process is a stranger to the lock
        assert main(["sweep", str(sweep_file())]) == 2
    assert f"{root} is in use by process " in capsys.readouterr().err


def test_plan_tells_hours_memory_and_disk(sweep, sweep_file, capsys):
    sweep(5)
    capsys.readouterr()
    assert main(["plan", str(sweep_file()), "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    assert len(jobs) == 3 and all(job["hours"] > 0 and job["memory_bytes"] > 0 for job in jobs)
    assert sum(job["disk_bytes"] for job in jobs) == 6000 * sum(job["rounds"] for job in jobs)
    assert main(["plan", str(sweep_file()), "--json", "--tflops", "1"]) == 0
    slower = json.loads(capsys.readouterr().out)["jobs"]
    assert slower[0]["hours"] > 10 * jobs[0]["hours"]
    assert main(["plan", str(sweep_file())]) == 0
    assert "plain   ovobench_stream     3" in capsys.readouterr().out
    assert main(["plan", str(sweep_file()), "--jobs"]) == 0
    assert "ovobench_stream/002" in capsys.readouterr().out
    assert main(["plan", str(sweep_file()), "--tflops", "0"]) == 2
    assert main(["plan", "ovobench"]) == 2


@pytest.mark.parametrize(
    ("memory", "tokens"),
    [
        ({"memory": "recent", "recent_frames": 2}, 2 * 36),
        ({"memory": "rekv", "n_local": 40, "retrieve_size": 1}, 40 + 36),
        ({"memory": "bounded", "active_tokens": 50}, 50),
        ({"memory": "recent", "recent_frames": 9999}, None),
    ],
)
def test_planned_memory_is_what_the_memory_keeps(sweep, sweep_file, capsys, memory, tokens):
    sweep(5)

    def planned(**keys):
        capsys.readouterr()
        assert main(["plan", str(sweep_file(**keys)), "--json"]) == 0
        return json.loads(capsys.readouterr().out)["jobs"]

    full, bounded = planned(), planned(model_args=memory)
    if tokens is None:
        assert bounded == full, "not more than the stream has"
        return
    assert not any(job["memory_bound"] for job in bounded)
    (held,) = {job["memory_bytes"] for job in bounded}
    settings = {"memory": "recent", "recent_frames": 1}
    one = planned(model_args=settings)[0]["memory_bytes"]
    two = planned(model_args=settings | {"recent_frames": 2})[0]["memory_bytes"]
    per_token = (two - one) // 36
    assert held == one + (tokens - 36) * per_token < max(job["memory_bytes"] for job in full)


def test_recipe_errors_are_settings_errors():
    with pytest.raises(SettingsError):
        spec.read(spec.Path("/nowhere/sweep.yaml"))


@pytest.mark.slow
def test_plan_with_a_card_uses_what_was_measured(sweep, sweep_file, checkpoint, tmp_path, capsys):
    sweep(5)
    card = tmp_path / "card.json"
    options = ["--device", "cpu", "--threads", "1", "--frames", "1,4", "--repeats", "2", "--warmup", "1"]
    given = ["--pretrained", str(checkpoint), "--method", "none", "--output", str(card)]
    assert main(["bench", *given, *options]) == 0
    row = json.loads(card.read_text())["rows"][-1]
    capsys.readouterr()
    assert main(["plan", str(sweep_file()), "--card", str(card), "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    per_frame_ms = sum(row["summary_ms"]["method"][stage]["median"] for stage in ("vit_ms", "prefill_ms")) / 4
    least_h = sum(job["frames"] for job in jobs) * per_frame_ms / 3.6e6
    assert least_h < sum(job["hours"] for job in jobs) < 20 * least_h
    card.write_text("{}")
    assert main(["plan", str(sweep_file()), "--card", str(card)]) == 2
    assert "is not a card of stc-lmms bench" in capsys.readouterr().err
