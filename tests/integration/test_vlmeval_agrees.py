"""VLMEvalKit and lmms-eval give the same answers and scores, by one process or two, in one go or resumed.

`make test` runs this in an environment that has VLMEvalKit, and where it must not be skipped.
"""

import json
import os
import subprocess
import sys
from argparse import Namespace
from importlib.util import find_spec

import pytest

if find_spec("vlmeval") is None and not os.environ.get("STC_TEST_REQUIRE_VLMEVAL"):
    pytest.skip("VLMEvalKit is not installed; make test has an environment for it", allow_module_level=True)

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from stc_lmms.cli.main import main as stc_lmms
from stc_lmms.eval.lmms_eval import LlavaOvStc
from stc_lmms.resources import tasks_root
from tests.conftest import QUIRKS
from tests.integration.vlmeval_tables import summaries, text_table
from tests.runs import recorded

pytestmark = pytest.mark.slow

MODELS = {"llava_ov_stc_demo": {}, "llava_ov_stc_demo_none": {"method": "none"}}
DATA = {"OVOBench_mini": "ovobench_stream_mini", "StreamingBench_mini": "streamingbench_mini"}
MINI = tasks_root() / "mini_data"
SCORES = ("official", "strict", "missing", "unparsed", "past_end")


def start_vlmevalkit(models, output, mini, log):
    """Recipes on both mini sets of a folder, by the command in a process of its own."""
    command = [sys.executable, "-m", "stc_lmms.eval.vlmeval.command", "--data", *DATA, "--model", *models]
    return subprocess.Popen(
        [*command, "--work-dir", str(output)],
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=output,
        env=os.environ | {"STC_MINI": str(mini)},
    )


def by_lmms_eval(models, folder, mini):
    """The same by lmms-eval: by model, records of every question and the folder with the summaries."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STC_MINI", str(mini))
        for name, args in models.items():
            results = simple_evaluate(
                model=LlavaOvStc(pretrained="demo", device="cpu", **args),
                tasks=list(DATA.values()),
                task_manager=TaskManager(include_path=str(tasks_root()), include_defaults=False),
                cli_args=Namespace(output_path=str(folder / name), process_with_media=False),
                bootstrap_iters=0,
            )
            records = {
                (task.split("_")[0], record["part"], record["qid"]): record
                for task, samples in results["samples"].items()
                for sample in samples
                for record in sample["acc"]["records"]
            }
            found[name] = records, folder / name
    return found


def both(models, folder, mini):
    """Folder with VLMEvalKit's output, and lmms-eval's. They run at the same time."""
    output, log = folder / "vlmeval", folder / "vlmeval.log"
    output.mkdir()
    with log.open("wb") as said, start_vlmevalkit(models, output, mini, said) as process:
        try:
            expected = by_lmms_eval(models, folder, mini)
            status = process.wait(timeout=900)
        finally:
            process.kill()
    assert status == 0, log.read_text(errors="replace")
    return output, expected


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """By both harnesses on the videos with every quirk."""
    return both(MODELS, tmp_path_factory.mktemp("quirks"), QUIRKS)


def agreed(evaluated, model):
    """How many questions have the same answers and scores from both harnesses: all, or it fails."""
    folder, (records, output) = evaluated[0] / model, evaluated[1][model]
    asked = 0
    for data, task in DATA.items():
        table = text_table(folder / f"{model}_{data}.xlsx")
        scored = text_table(folder / f"{model}_{data}_score.xlsx")
        assert list(table["qid"]) == list(scored["qid"]) and set(table.columns) <= set(scored.columns)
        for (_, line), (_, score) in zip(table.iterrows(), scored.iterrows(), strict=True):
            record = records[task.split("_")[0], line["part"], line["qid"]]
            assert line["prediction"].strip() == record["response"].strip() == score["prediction"].strip()
            assert [score[name] for name in SCORES] == [str(record[name]) for name in SCORES]
            assert (line["answer"], line["task"]) == (record["answer"], record["task"])
            asked += 1
    assert asked == len(records) and len({r["response"] for r in records.values()}) > 2
    assert summaries(folder) == summaries(output)
    status = json.loads((folder / "status.json").read_text())["datasets"]
    assert status["OVOBench_mini"]["metrics"]["acc"] == pytest.approx(
        100 * summaries(output)["ovobench_mini"]["total"]["official"]
    )
    return asked


@pytest.mark.parametrize("model", MODELS)
def test_answers_and_scores_are_those_of_lmms_eval(evaluated, model):
    assert agreed(evaluated, model) == 73 + 25


@pytest.mark.timeout(1500)
def test_so_they_are_on_the_sets_that_ship(tmp_path):
    model = "llava_ov_stc_demo"  # the other preset takes three minutes more
    assert agreed(both({model: MODELS[model]}, tmp_path, MINI), model) == 930


def test_every_video_is_read_once_for_a_dataset(evaluated):
    for model in MODELS:
        (record,) = recorded(evaluated[0] / model)
        assert record["failed"] == record["replayed"] == 0 and record["answered"] == 73 + 25
        assert record["efficiency"]["frames_encoded"] < 2 * 12 * 20  # 24-40 s at 0.5 fps, two datasets
        assert record["efficiency"]["llm_tokens_max"] == (36 if model.endswith("none") else 12)


def test_a_second_run_needs_no_model(evaluated, run, no_model):
    output, _ = evaluated
    arguments = ["--data", *DATA, "--model", *MODELS, "--work-dir", output]
    tables = {path: text_table(path) for path in output.glob("*/*.xlsx")}
    before = summaries(output / "llava_ov_stc_demo")
    assert run(*arguments) == 0
    for path in tables:  # as after a run that was killed: VLMEvalKit asks for everything again
        path.unlink()
    assert run(*arguments) == 0
    assert {path: text_table(path).equals(table) for path, table in tables.items()} == dict.fromkeys(
        tables, True
    )
    assert summaries(output / "llava_ov_stc_demo") == before
    assert recorded(output / "llava_ov_stc_demo")[-1]["replayed"] == 73 + 25


def test_two_processes_give_the_same(evaluated, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    model, data = "llava_ov_stc_demo", "StreamingBench_mini"
    command = [
        "-m",
        "stc_lmms.eval.vlmeval.command",
        "--model",
        model,
        "--data",
        data,
        "--work-dir",
        tmp_path,
    ]
    environ = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launch, *map(str, command)], env=environ, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = evaluated[0] / model
    for ending in ("", "_score"):  # the processes take turns in the tables
        tables = [text_table(f / f"{model}_{data}{ending}.xlsx") for f in (tmp_path / model, theirs)]
        split, whole = (t.drop(columns="index").sort_values("qid", ignore_index=True) for t in tables)
        assert split.equals(whole)
    assert summaries(tmp_path / model)["streamingbench_mini"] == summaries(theirs)["streamingbench_mini"]
    assert [path.stat().st_size > 0 for path in (tmp_path / "stc_journal").iterdir()] == [True, True]


def test_the_leaderboard_reads_it(evaluated, tmp_path):
    output, _ = evaluated
    foreign = {"metrics": {"Overall": 0.5, "Other": 1}, "primary_metric": "Overall"}
    (tmp_path / "their").mkdir()
    status = {"model_name": "Their-7B", "datasets": {"Video-MME": foreign, "broken": {"metrics": {}}}}
    (tmp_path / "their" / "status.json").write_text(json.dumps(status))
    folders = [str(output), str(tmp_path / "their")]
    assert stc_lmms(["leaderboard", *folders, "--output", str(tmp_path), "--format", "json"]) == 0
    rows = json.loads((tmp_path / "leaderboard.json").read_text())["rows"]
    shown = {(row["run"].split()[0], row["benchmark"]): row for row in rows}
    theirs = shown["Their-7B", "Video-MME"]
    assert theirs["accuracy"] == 50 and theirs["model"] == "Their-7B"
    assert set(shown) == {("Their-7B", "Video-MME")} | {
        (model, name) for model in MODELS for name in ("ovobench_stream_mini", "streamingbench_mini (real)")
    }
    assert shown["llava_ov_stc_demo_none", "ovobench_stream_mini"]["method"] == "none"
