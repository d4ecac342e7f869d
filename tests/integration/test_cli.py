"""The real `lmms-eval` command, in processes of its own, on the tiny checkpoint and real videos."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import QUIRKS
from tests.integration.builtin import lay_out_ovobench
from tests.runs import recorded

pytestmark = pytest.mark.slow

LMMS_EVAL = [sys.executable, "-m", "lmms_eval"]
MINI = "ovobench_stream_mini,streamingbench_mini"


def start(args, command=LMMS_EVAL, cwd=None, **environ):
    environ = dict(os.environ) | environ
    return subprocess.Popen(
        [*command, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=environ,
    )


def run(args, command=LMMS_EVAL, cwd=None, **environ):
    process = start(args, command, cwd, **environ)
    out, _ = process.communicate(timeout=500)
    return process.returncode, out


def evaluate(checkpoint, output, tasks, model_args="method=stc,token_budget=9", extra=(), **options):
    args = [
        "--model",
        "llava_ov_stc",
        "--model_args",
        f"pretrained={checkpoint},{model_args}",
        "--tasks",
        tasks,
    ]
    return run([*args, "--device", "cpu", "--output_path", output, "--log_samples", *extra], **options)


def results(output):
    (path,) = Path(output).glob("*/[0-9]*_results.json")
    return json.loads(path.read_text())


def scores(output):
    """All metrics that do not measure time."""
    found = results(output)["results"]
    timed = ("ms", "stderr", "alias", "samples", " ")
    return {t: {k: v for k, v in m.items() if not any(x in k for x in timed)} for t, m in found.items()}


def samples(output):
    """Responses of every task, by row."""
    found = {}
    for path in Path(output).glob("*/*_samples_*.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found[path.name.split("_samples_")[1], row["doc_id"]] = row["filtered_resps"]
    return found


@pytest.fixture(scope="module")
def uninterrupted(checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    code, log = evaluate(checkpoint, output, MINI)
    assert code == 0, log
    return output, log


def test_mini_benchmarks_end_to_end(uninterrupted):
    output, log = uninterrupted
    table = scores(output)
    assert table["ovobench_stream_mini_forward"]["n,none"] == 44
    assert table["streamingbench_mini"]["n,none"] == 25
    assert table["streamingbench_mini"]["n_failed,none"] == 0
    modes = [table[f"ovobench_stream_mini_{m}"]["acc,none"] for m in ("backward", "realtime", "forward")]
    assert table["ovobench_stream_mini"]["acc,none"] == pytest.approx(sum(modes) / 3)
    for words in ("total: macro (mean of parts) *", "total: micro (pooled)", "missing", "unparsed"):
        assert words in log
    echoed = results(output)["config"]["resolved_cli_args"]
    assert echoed["stc_settings"]["token_budget"] == 9 and echoed["stc_settings"]["cache_interval"] == 4
    assert echoed["stc_efficiency"]["llm_tokens_mean"] == 9
    (record,) = recorded(output)
    # 24-40 s at 0.5 fps: at most 20 frames of each of the twelve videos, though four tasks ask about them
    assert record["failed"] == 0 and record["efficiency"]["frames_encoded"] < 12 * 20
    assert record["model"]["execution"] == "grouped"


def test_killed_run_resumes(checkpoint, uninterrupted, tmp_path):
    args = ["--model", "llava_ov_stc", "--model_args", f"pretrained={checkpoint},method=stc,token_budget=9"]
    args += ["--tasks", MINI, "--device", "cpu", "--output_path", tmp_path, "--log_samples"]
    process = start(args)
    journal = tmp_path / "stc_journal" / "rank0.jsonl"
    finished = 0
    while process.poll() is None and finished < 4:
        time.sleep(0.01)
        finished = journal.read_text().count("\n") if journal.exists() else 0
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run was over before it could be killed"
    done = [json.loads(line)["key"] for line in journal.read_text().split("\n")[:-1]]
    assert 4 <= len(done) < 30

    code, log = run(args)
    assert code == 0, log
    assert f"{len(done)} of 30 requests from" in log
    keys = [json.loads(line)["key"] for line in journal.read_text().split("\n") if line.endswith("}")]
    assert len(keys) == len(set(keys)) == 30 and keys[: len(done)] == done
    assert scores(tmp_path) == scores(uninterrupted[0])
    assert samples(tmp_path) == samples(uninterrupted[0])


def test_builtin_ovobench_runs_unchanged(checkpoint, tmp_path):
    answered = lay_out_ovobench(tmp_path)
    code, log = evaluate(checkpoint, tmp_path / "out", "ovobench", cwd=tmp_path, HF_HOME=str(tmp_path / "hf"))
    assert code == 0, log
    found = results(tmp_path / "out")["results"]
    assert {"ovo_backward", "ovo_realtime", "ovo_forward"} <= set(found)
    (record,) = recorded(tmp_path / "out")
    assert record["answered"] == answered and record["failed"] == 1
    assert "chunk path does not exists" in next(a["failed"] for a in record["answers"] if a.get("failed"))


def test_tasks_are_found_without_a_flag():
    code, log = run(["--tasks", "list"])
    assert code == 0
    code, listed = run(["tasks", "list"], command=[sys.executable, "-m", "stc_lmms.cli"])
    assert code == 0
    for name in (
        "ovobench_stream",
        "ovobench_stream_forward",
        "streamingbench_proactive",
        "mlvu_stream",
        MINI.split(",")[0],
    ):
        assert f" {name}\n" in log and f" {name}\n" in listed


def two_ranks(args, **environ):
    """The command under torchrun on this machine's CPU."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environ = {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"} | environ
    return run(args, [*torchrun, "-m", "lmms_eval"], **environ)


def test_two_ranks_give_the_metrics_of_one(checkpoint, uninterrupted, tmp_path):
    args = ["--model", "llava_ov_stc", "--model_args", f"pretrained={checkpoint},method=stc,token_budget=9"]
    args += ["--tasks", MINI, "--output_path", tmp_path, "--log_samples"]
    code, log = two_ranks(args)
    assert code == 0, log
    assert scores(tmp_path) == scores(uninterrupted[0])
    assert samples(tmp_path) == samples(uninterrupted[0])
    (run,), (whole,) = recorded(tmp_path), recorded(uninterrupted[0])
    assert run["world_size"] == 2 and {answer["rank"] for answer in run["answers"]} == {0, 1}
    assert run["answered"] == whole["answered"] == len(run["answers"]) and run["failed"] == 0
    assert run["benchmarks"] == whole["benchmarks"] and len(run["benchmarks"]) == 2


def test_two_ranks_without_any_answer_fail_with_one_line(checkpoint, tmp_path):
    shutil.copytree(QUIRKS, tmp_path / "mini")
    for video in (tmp_path / "mini" / "videos").iterdir():
        video.write_bytes(b"")
    args = ["--model", "llava_ov_stc", "--model_args", f"pretrained={checkpoint},token_budget=9"]
    args += ["--tasks", "ovobench_stream_mini_backward", "--output_path", tmp_path / "out"]
    code, log = two_ranks(args, STC_MINI=str(tmp_path / "mini"))
    errors = [line for line in log.splitlines() if "stc-lmms: error:" in line]
    assert code != 0 and len(errors) == 1 and "nothing could be evaluated: all " in errors[0]
    assert not list((tmp_path / "out").glob("*/*_results.json"))


def test_ranks_that_are_not_connected_are_refused(checkpoint, tmp_path):
    args = ["--model", "llava_ov_stc", "--model_args", f"pretrained={checkpoint}", "--tasks", MINI]
    code, log = run([*args, "--output_path", tmp_path / "out"], WORLD_SIZE="2")
    assert code == 2
    assert "2 processes were launched but are not connected; on CPUs set ACCELERATE_USE_CPU=true" in log


def test_our_command_reports_what_lmms_eval_swallows(checkpoint):
    args = ["--model", "llava_ov_stc", "--model_args", f"pretrained={checkpoint}", "--tasks", "nosuchtask"]
    code, log = run(args, command=[sys.executable, "-m", "stc_lmms.cli"])
    assert code == 1 and "Tasks not found: nosuchtask" in log


@pytest.mark.parametrize(
    ("model_args", "tasks", "message"),
    [
        ("method=stc,token_budget=37", MINI, "token_budget=37 is more than the 36 tokens a frame has"),
        ("method=none", "ovobench_stream", "STC_OVOBENCH_ROOT is not set"),
    ],
)
def test_user_errors_are_one_line_and_a_status(checkpoint, tmp_path, model_args, tasks, message):
    code, log = evaluate(checkpoint, tmp_path, tasks, model_args)
    errors = [line for line in log.splitlines() if line.startswith("stc-lmms: error:")]
    assert code == 2 and len(errors) == 1 and message in errors[0]
    assert "Traceback" not in log
