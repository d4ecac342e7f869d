"""The real `lmms-eval` and `stc-lmms` commands with Dispider, on a tiny checkpoint and real videos."""

import json

import pytest

from stc_lmms.cli.main import main
from tests.conftest import QUIRKS
from tests.integration.test_cli import results, run, samples, scores
from tests.media import encode_video, moving_square_frames
from tests.runs import recorded
from training.demo.dispider_checkpoint import build_dispider

TASKS = ["ovobench_stream_mini_backward", "streamingbench_mini_proactive"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_dispider(tmp_path_factory.mktemp("dispider"), layout="v2")


@pytest.mark.slow
def test_lmms_eval_runs_mini_tasks(folder, tmp_path):
    args = ["--model", "dispider_stc", "--model_args", f"pretrained={folder},frames_per_clip=4"]
    args += ["--tasks", ",".join(TASKS), "--device", "cpu", "--output_path", tmp_path, "--log_samples"]
    args += ["--limit", "2"]
    code, log = run(args, STC_MINI=QUIRKS)
    assert code == 0, log
    table = scores(tmp_path)
    assert all(table[task]["n,none"] > 0 and table[task]["n_failed,none"] == 0 for task in TASKS)
    settings = results(tmp_path)["config"]["resolved_cli_args"]["stc_settings"]
    wanted = {
        "model": "dispider",
        "method": "stc_cacher",
        "memory": "clips",
        "fps": 1.0,
        "frames_per_clip": 4,
    }
    assert wanted.items() <= settings.items()
    (record,) = recorded(tmp_path)
    assert record["model"]["checkpoint_layout"] == "v2" and record["efficiency"]["archive_bytes"] > 0
    assert record["efficiency"]["tower_tokens_recomputed"] < 0.6 * record["efficiency"]["tower_tokens"]
    # The decision head answers polls, at the end of every clip of 4 s; this random one always wants to speak.
    polled = [said for (task, _), said in samples(tmp_path).items() if task.startswith(TASKS[1])]
    assert polled and all(said[:4] == ["No", "No", "No", "Yes"] and len(said) % 5 == 0 for said in polled)


def stream(video, folder, *options):
    args = ["--model", "dispider", "--model_args", f"pretrained={folder},device=cpu,frames_per_clip=4"]
    return main(["stream", str(video), *args, "--max-new-tokens", "4", *options])


def test_the_stream_command_speaks_by_itself(folder, tmp_path, capsys):
    video = encode_video(tmp_path / "v.mp4", moving_square_frames(72), 4)  # 18 s
    assert stream(video, folder, "--proactive", "Say when.", "--ask", "What?", "--json") == 0
    *spoken, asked = map(json.loads, capsys.readouterr().out.splitlines())
    assert (asked["question"], asked["time_s"]) == ("What?", None)
    # The head of this random checkpoint always decides to answer, whenever a clip of 4 s is complete.
    assert [(told["question"], told["time_s"]) for told in spoken] == [
        ("Say when.", t) for t in (3, 7, 11, 15)
    ]
    assert [told["efficiency"]["frames_seen"] for told in spoken] == [4, 8, 12, 16]


def test_what_the_stream_command_cannot_do_is_one_line(folder, tmp_path, capsys):
    video = encode_video(tmp_path / "v.mp4", moving_square_frames(8), 4)

    def refusal(*args):
        assert main(["stream", str(video), *args]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "no question was given; use --ask, --proactive or --comment" in refusal()
    assert "llava_ov does not decide by itself when to answer" in refusal("--proactive", "Say when.")
    assert "give --ask, too" in refusal("--proactive", "Say when.", "--every", "2")
