"""`llava_ov_stc` in the real evaluator of lmms-eval, in this process, on the mini data and the tiny model."""

import json
import os
import shutil
import signal
from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from lmms_eval.api.instance import Instance
from lmms_eval.evaluator import _clone_padding_request, simple_evaluate
from lmms_eval.tasks import TaskManager
from transformers import LlavaOnevisionForConditionalGeneration

from stc_lmms.eval import lmms_eval as module
from stc_lmms.eval.lmms_eval import LlavaOvStc
from stc_lmms.eval.recorder import current
from stc_lmms.eval.stopping import STOPPED
from stc_lmms.resources import tasks_root
from tests import media
from tests.conftest import QUIRKS
from tests.runs import recorded

REAL = "streamingbench_mini"
BACKWARD, FORWARD = (f"ovobench_stream_mini_{mode}" for mode in ("backward", "forward"))
FIRST = "sample_6_real.mp4"  # the longest video: the first row of each of these three tasks


@pytest.fixture
def model(checkpoint):
    def make(**args):
        return LlavaOvStc(**{"pretrained": str(checkpoint), "device": "cpu", "token_budget": 9} | args)

    return make


def evaluate(model, tasks, output, folder=None, limit=1, **options):
    options = {"gen_kwargs": "max_new_tokens=4", "bootstrap_iters": 0} | options
    return simple_evaluate(
        model=model,
        tasks=tasks,
        task_manager=TaskManager(include_path=str(folder or tasks_root()), include_defaults=False),
        cli_args=Namespace(output_path=str(output), process_with_media=False),
        limit=limit,
        **options,
    )


def metrics(results):
    """All numbers that do not depend on time."""
    timed = ("_ms", "stderr")
    return {
        task: {name: value for name, value in found.items() if not any(x in name for x in timed)}
        for task, found in results["results"].items()
    }


def records(results, task):
    return [record for sample in results["samples"][task] for record in sample["acc"]["records"]]


def summary_of(folder, benchmark="ovobench_mini"):
    """The newest summary in an output path."""
    return recorded(folder)[-1]["benchmarks"][benchmark]


def journal(folder):
    return [json.loads(line) for line in (folder / "rank0.jsonl").read_text().split("\n") if line]


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    lm = LlavaOvStc(pretrained=str(checkpoint), device="cpu", token_budget=9)
    return evaluate(lm, [REAL, BACKWARD, FORWARD], output), output


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """A copy of the mini data that may be damaged; its folder of videos."""
    shutil.copytree(QUIRKS, tmp_path / "mini")
    monkeypatch.setenv("STC_MINI", str(tmp_path / "mini"))
    return tmp_path / "mini" / "videos"


@pytest.fixture
def no_model(monkeypatch):
    """Fails the test when weights are loaded."""

    def forbidden(*args, **kwargs):
        pytest.fail("weights were loaded")

    monkeypatch.setattr(LlavaOnevisionForConditionalGeneration, "from_pretrained", forbidden)
    monkeypatch.setattr(module.LlavaOvStc, "load", forbidden)


def test_metrics_are_counts_accuracies_and_costs(run):
    results, _ = run
    counts = {task: results["results"][task]["n,none"] for task in (REAL, BACKWARD, FORWARD)}
    assert counts == {REAL: 5, BACKWARD: 2, FORWARD: 5}
    for task, other in ((REAL, "macro"), (BACKWARD, "micro"), (FORWARD, "micro")):
        found = {k.split(",")[0]: v for k, v in results["results"][task].items() if "stderr" not in k}
        assert found.keys() >= {"acc", "acc_strict", other, "n", "n_missing", "n_unparsed", "n_failed"}
        assert all(isinstance(value, int | float) for name, value in found.items() if name != "alias")
        assert found["n_failed"] == 0 and found["vit_ms_per_frame"] > 0 and found["ttft_ms"] > 0
        assert found["llm_tokens_per_frame"] == 9


def test_results_say_with_what_and_at_what_cost(run):
    results, _ = run
    echoed = results["config"]["resolved_cli_args"]
    settings = echoed["stc_settings"]
    assert settings["method"] == "stc" and settings["token_budget"] == 9 and settings["cache_interval"] == 4
    cost = echoed["stc_efficiency"]
    assert cost["answers"] == 12 and cost["new_tokens"] == 48 and cost["llm_tokens_max"] == 9
    assert cost["tower_tokens_recomputed"] < cost["tower_tokens"]


def test_a_video_is_encoded_once_whatever_asks_about_it(run):
    results, output = run
    assert results["config"]["resolved_cli_args"]["stc_efficiency"]["frames_encoded"] == 20  # 40 s at 0.5 fps
    (record,) = recorded(output)
    assert {answer["task"] for answer in record["answers"]} == {REAL, BACKWARD, FORWARD}
    assert sum(answer["efficiency"]["frames_encoded"] for answer in record["answers"]) == 20
    assert (record["answered"], record["failed"], record["restarts"]) == (12, 0, 0)
    assert record["settings"]["token_budget"] == 9 and record["model"]["dtype"] == "float32"
    assert record["efficiency"].items() <= results["config"]["resolved_cli_args"]["stc_efficiency"].items()


def test_every_sample_carries_its_cost(run):
    results, _ = run
    for task in (REAL, BACKWARD, FORWARD):
        asked = records(results, task)
        assert all(record["efficiency"]["frames_seen"] == -(-int(record["end_s"]) // 2) for record in asked)
        assert all(record["efficiency"]["new_tokens"] <= 4 and record["rounds"] == 1 for record in asked)


def test_the_summary_of_a_benchmark_is_of_its_own_run_only(run, model, tmp_path):
    results, output = run
    summary = summary_of(output)
    assert list(summary["parts"]) == ["backward", "forward"] and summary["n"] == 7
    assert summary["total"] is None and "realtime" in summary["absent"]
    again = [evaluate(model(journal=output / "stc_journal"), [BACKWARD], tmp_path) for _ in range(2)]
    summary = summary_of(tmp_path)
    assert list(summary["parts"]) == ["backward"] and summary["n"] == 2
    assert metrics(again[0])[BACKWARD] == metrics(results)[BACKWARD]


def test_two_runs_with_one_namespace_do_not_add_up(model, run, tmp_path):
    shared = Namespace(output_path=str(tmp_path), process_with_media=False)
    manager = TaskManager(include_path=str(tasks_root()), include_defaults=False)
    for _ in range(2):
        simple_evaluate(
            model=model(journal=run[1] / "stc_journal"),
            tasks=[BACKWARD],
            task_manager=manager,
            cli_args=shared,
            limit=1,
            bootstrap_iters=0,
            gen_kwargs="max_new_tokens=4",
        )
    assert summary_of(tmp_path)["n"] == 2


def test_a_finished_run_is_resumed_without_a_model(run, model, no_model, capsys):
    results, output = run
    again = evaluate(model(), [REAL, BACKWARD, FORWARD], output)
    assert metrics(again) == metrics(results)
    assert f"3 of 3 requests from {output / 'stc_journal'}" in capsys.readouterr().err
    assert records(again, REAL) == records(results, REAL)  # costs included
    newest = recorded(output)[-1]
    assert newest["replayed"] == newest["answered"] == 12 and newest["model"]["execution"] == "grouped"
    assert all(answer["replayed"] for answer in newest["answers"])
    assert "12 of 12 answers were timed by the run that it resumed" in newest["notes"]


def test_other_settings_are_not_resumed(run, model, no_model):
    with pytest.raises(pytest.fail.Exception, match="weights were loaded"):
        evaluate(model(token_budget=8), [BACKWARD], run[1])


@pytest.mark.parametrize("off", ["off", False])
def test_journal_off(model, mini, tmp_path, off):
    (mini / FIRST).write_bytes(b"")
    with pytest.raises(SystemExit):
        evaluate(model(journal=off), [BACKWARD], tmp_path / "out")
    assert not (tmp_path / "out" / "stc_journal").exists()


def test_the_harness_own_cache_is_refused(model, no_model, tmp_path, capsys):
    """It would keep the empty answers of a failed run for ever."""
    manager = TaskManager(include_path=str(tasks_root()), include_defaults=False)
    options = Namespace(output_path=str(tmp_path), use_cache=str(tmp_path), process_with_media=False)
    with pytest.raises(SystemExit) as caught:
        simple_evaluate(model(), tasks=[BACKWARD], task_manager=manager, cli_args=options, limit=1)
    assert caught.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
    assert line.startswith("stc-lmms: error: --use_cache would keep failed answers forever")


def test_a_context_that_is_too_long_is_counted_and_said(model, checkpoint, tmp_path, caplog):
    short = tmp_path / "short"
    shutil.copytree(checkpoint, short)
    config = json.loads((short / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 150
    (short / "config.json").write_text(json.dumps(config))
    results = evaluate(model(pretrained=str(short)), [BACKWARD], tmp_path / "out")
    cost = results["config"]["resolved_cli_args"]["stc_efficiency"]
    assert cost["beyond_context"] == 2 and cost["context_tokens"] > 150 and cost["failed"] == 0
    assert "2 answers had more context than the 150 tokens the model is made for" in caplog.text
    assert "2 answers had more context than the model is made for" in recorded(tmp_path / "out")[0]["notes"]


def test_journal_without_an_output_path_is_in_the_cache(model, mini, private_caches):
    (mini / FIRST).write_bytes(b"")
    with pytest.raises(SystemExit):
        evaluate(model(), [BACKWARD], "")
    assert any("empty (0 bytes)" in e["failed"] for e in journal(private_caches / "stc-lmms" / "journal"))


def test_a_bad_video_is_counted_and_tried_again_once_repaired(model, mini, tmp_path, capsys):
    output = tmp_path / "out"
    whole = (mini / FIRST).read_bytes()
    media.truncate(mini / FIRST, mini / FIRST, 0.02)
    results = evaluate(model(), [REAL], output, limit=2)
    found = results["results"][REAL]
    assert (found["n,none"], found["n_failed,none"], found["n_missing,none"]) == (9, 5, 5)
    bad, good = (
        [r for r in records(results, REAL) if (r["video"] == FIRST) is broken] for broken in (True, False)
    )
    assert all(r["official"] == r["strict"] == 0 and FIRST in r["failed"] for r in bad) and len(bad) == 5
    assert all(r["response"] and not r["failed"] for r in good) and len(good) == 4
    (failed,) = (entry for entry in journal(output / "stc_journal") if entry["failed"])
    assert f"cannot decode {mini / FIRST}" in failed["failed"] and len(failed["responses"]) == 5

    (mini / FIRST).write_bytes(whole)
    again = evaluate(model(), [REAL], output, limit=2)
    assert "1 of 2 requests from" in capsys.readouterr().err
    assert again["results"][REAL]["n_failed,none"] == 0
    repaired = [r for r in records(again, REAL) if r["video"] == FIRST]
    assert all(r["response"] for r in repaired)


def test_nothing_evaluated_is_an_error_not_a_score(model, mini, tmp_path, capsys):
    (mini / FIRST).unlink()
    with pytest.raises(SystemExit) as caught:
        evaluate(model(), [REAL, BACKWARD], tmp_path)
    assert caught.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("stc-lmms: error:")]
    assert "nothing could be evaluated: all 7 answers failed" in line
    assert f"{FIRST} does not exist" in line


def test_missing_data_ends_with_one_line(model, no_model, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("STC_MINI", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit) as caught:
        evaluate(model(), [REAL], tmp_path)
    assert caught.value.code == 2
    assert [x for x in capsys.readouterr().err.splitlines() if "error:" in x] == [
        f"stc-lmms: error: {tmp_path / 'nowhere'} is not a folder; unset STC_MINI or reinstall stc-lmms"
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"token_buget": 64}, "did you mean 'token_budget'?"),
        ({"token_budget": 64}, "more than the 36 tokens"),
        ({"fps": "0"}, "fps=0.0 must be a positive number"),
        ({"method": "stcc"}, "did you mean 'stc'?"),
        ({"pretrained": "/no/such/folder"}, "'/no/such/folder' is not a local folder"),
        ({"device": "gpu"}, "device='gpu'"),
        ({"device": 0.5}, "device='0.5'"),
    ],
    ids=str,
)
def test_bad_arguments_end_with_one_line_before_any_weights(model, no_model, capsys, args, message):
    with pytest.raises(SystemExit) as caught:
        model(**args)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stc-lmms: error: ") and message in line


@pytest.mark.parametrize("device", [None, "auto", "cpu"])
def test_devices(model, device):
    lm = model(device=device)
    assert lm.settings.device == str(lm.device) != "auto"


def test_a_checkpoint_without_weights_ends_with_one_line(model, checkpoint, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(SystemExit) as caught:
        evaluate(model(pretrained=str(broken)), [BACKWARD], tmp_path / "out")
    assert caught.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
    assert line.startswith(f"stc-lmms: error: cannot load the weights of '{broken}'")


def test_a_journal_that_cannot_be_written_ends_with_one_line(model, no_model, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as caught:
        evaluate(model(journal=str(tmp_path / "file" / "x")), [BACKWARD], tmp_path)
    assert caught.value.code == 2
    assert "cannot write the journal in" in capsys.readouterr().err.splitlines()[-1]


def clip_of(doc):
    """`doc_to_visual` of the task below: a whole file, or a piece of one."""
    return [doc["video"] if doc["end_s"] is None else {"path": doc["video"], "video_end": doc["end_s"]}]


def said(doc, results):
    """`process_results` of the task below."""
    return {"answered": bool(results[0])}


def own_task(folder, rows):
    """A plain `generate_until` task with the given (video, end_s)."""
    docs = [{"video": str(v), "end_s": e, "question": "What is he doing?", "answer": ""} for v, e in rows]
    (folder / "docs.json").write_text(json.dumps(docs))
    functions = {"doc_to_visual": "clip_of", "process_results": "said"}
    config = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "docs.json"}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": 24},
        "metric_list": [{"metric": "answered", "aggregation": "mean", "higher_is_better": True}],
    }
    lines = [f"{key}: !function {__name__}.{name}" for key, name in functions.items()]
    (folder / "own.yaml").write_text("\n".join([yaml.safe_dump(config), *lines]))
    return folder


@pytest.mark.parametrize("method", ["none", "stc"])
def test_a_stream_answers_as_the_chunk_that_was_cut_from_it(model, tmp_path, method):
    """Lossless files, so that a chunk has the very frames of the video it comes from."""
    frames = list(media.moving_square_frames(100, noise=40))
    lossless = {"codec_options": {"preset": "ultrafast", "qp": "0"}}
    whole = media.encode_video(tmp_path / "whole.mp4", frames, 5, **lossless)
    ends = (4, 7, 13)
    rows = [(whole, float(end)) for end in ends]
    for end in ends:
        rows.append((media.encode_video(tmp_path / f"{end}.mp4", frames[: 5 * end], 5, **lossless), None))
    task = own_task(tmp_path, rows)
    results = evaluate(model(method=method), ["own"], tmp_path / "out", task, 6, gen_kwargs=None)
    answers = [sample["resps"][0][0] for sample in results["samples"]["own"]]
    assert answers[:3] == answers[3:] and len(set(answers)) > 1
    assert results["results"]["own"]["answered,none"] == 1


def test_padding_requests_cost_nothing_and_results_keep_their_order(model, tmp_path):
    video = media.encode_video(tmp_path / "v.mp4", media.moving_square_frames(50), 5)
    docs = [{"video": str(video), "end_s": end_s} for end_s in (9, 3, 6)]
    lm = model(journal="off")
    lm.task_dict["own"] = {"test": docs}

    def request(index):
        args = ("Q?", {"max_new_tokens": 3, "until": ["\n\n"]}, clip_of, index, "own", "test")
        return Instance("generate_until", args, 0, {"task": "own", "doc_id": index, "repeats": 1})

    requests = [request(index) for index in range(3)]
    padding = _clone_padding_request(requests[-1])
    answers = lm.generate_until([padding, *requests, padding])
    assert answers[0] == answers[4] == ""
    costs = {each["doc_id"]: each["efficiency"] for each in current().answers}
    assert [costs[index]["frames_seen"] for index in range(3)] == [5, 2, 3]
    assert sum(cost["frames_encoded"] for cost in costs.values()) == 5
    assert all(type(answer) is str for answer in answers)
    padding.request_type = "generate_until_multi_round"
    assert lm.generate_until_multi_round([padding]) == [[""]]
    assert lm.generate_until([]) == []
    with pytest.raises(NotImplementedError, match="not loglikelihood"):
        lm.loglikelihood(requests)


def test_told_to_stop_it_finishes_the_question_and_goes_on_with_the_next(run, model, tmp_path, monkeypatch):
    results, _ = run
    asked, answer = [], module.Harness._answer

    def counted(self, player, job):
        if len(asked) == 4:  # in the midst of the first video, which all three tasks ask about
            os.kill(os.getpid(), signal.SIGTERM)
        asked.append((job.request.task_name, len(job.answered)))
        return answer(self, player, job)

    monkeypatch.setattr(module.Harness, "_answer", counted)
    with pytest.raises(SystemExit) as stopped:
        evaluate(model(), [REAL, BACKWARD, FORWARD], tmp_path)
    assert stopped.value.code == STOPPED and len(asked) == 5
    entries = journal(tmp_path / "stc_journal")
    assert sum(len(entry["responses"]) for entry in entries) == 5
    assert any(entry["state"] == "begun" for entry in entries)
    again = evaluate(model(), [REAL, BACKWARD, FORWARD], tmp_path)
    assert len(asked) == len(set(asked)) == 12, "no question is asked twice"
    assert metrics(again) == metrics(results)
    said = [[r["response"] for r in records(each, FORWARD)] for each in (again, results)]
    assert said[0] == said[1]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_shard_of_broken_videos_only_counts_them_as_failed(model, mini, tmp_path, monkeypatch):
    for video in mini.iterdir():
        video.write_bytes(b"")
    with pytest.raises(SystemExit):
        evaluate(model(), [BACKWARD], tmp_path / "all")
    rows = json.loads(Path(mini.parent, "ovo_bench_mini.json").read_text())
    videos = [row["video"] for row in rows]
    shard = tmp_path / "shard.json"
    shard.write_text(json.dumps({"rows": {"ovobench/backward": videos[:1]}}))
    monkeypatch.setenv("STC_SHARD", str(shard))
    results = evaluate(model(), [BACKWARD], tmp_path / "shard", limit=None)["results"][BACKWARD]
    assert results["n,none"] == results["n_failed,none"] > 0
