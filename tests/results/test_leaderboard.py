"""`stc-lmms leaderboard`: which runs are found, what stands in the files, and that the page is safe."""

import builtins
import csv
import json
import re

import pytest

from stc_lmms.benchmarks import ovobench, streamingbench
from stc_lmms.cli.main import main
from stc_lmms.results.charts import ticks
from stc_lmms.results.leaderboard import build, pareto
from stc_lmms.results.page import to_html
from stc_lmms.results.published import PUBLISHED, comparison
from stc_lmms.results.read import find_runs
from stc_lmms.results.scores import of_results
from tests.results.helpers import answer, question, write_old_run, write_run

CHECKPOINT = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
ALL_TASKS = [task for tasks in ovobench.MODES.values() for task in tasks]


def plain_results(folder, results, name="org__other", **also):
    """What lmms-eval leaves of a model that is not ours."""
    path = folder / name / "20260102_030405_results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {"model": "llava_vid", "model_args": "pretrained=org/other,conv=qwen", "limit": None}
    path.write_text(json.dumps({"results": results, "config": config, "model_name": name} | also))
    return path


def write(folders, output, *options):
    status = main(["leaderboard", *map(str, folders), "--output", str(output), *options])
    return status, {path.suffix[1:]: path.read_text() for path in output.glob("leaderboard.*")}


@pytest.fixture
def results(tmp_path):
    """Dense and two methods on the same eight questions, and another model's file."""
    folder = tmp_path / "results"
    folder.mkdir()
    for method, right, tokens, ms in (
        ("none", 8, 196.0, 1.0),
        ("stc", 6, 64.0, 0.5),
        ("random", 5, 64.0, 1.0),
    ):
        asked = [question("EPM", int(i < right)) for i in range(8)]
        cost = answer(10, llm_tokens_mean=tokens, llm_tokens_max=int(tokens))
        cost["efficiency"]["vit_ms"] *= ms
        write_run(folder / method, asked, [cost], method=method, pretrained="demo")
    plain_results(folder, {"mmbench": {"alias": "mmbench", "acc,none": 0.5, "acc_stderr,none": 0.1}})
    return folder


def test_runs_are_found_at_any_depth_and_once(results):
    runs = find_runs([results, results / "stc"], pytest.fail)
    assert {run.name for run in runs} == {"none", "stc", "random", "org__other"}
    assert [len(run.scores) for run in runs] == [1, 1, 1, 1]
    other = next(run for run in runs if run.name == "org__other")
    assert other.record.settings == {"model": "llava_vid", "pretrained": "org/other", "conv": "qwen"}
    assert (other.scores[0].benchmark, other.scores[0].accuracy, other.hardware) == (
        "mmbench",
        50.0,
        "unknown",
    )


def test_pareto_front():
    points = [(1, 5), (2, 4), (2, 9), (3, 9), (4, 10), (1, 5)]
    assert pareto(points) == [True, False, True, False, True, True]
    assert pareto([]) == []


def test_the_front_is_among_runs_that_may_be_compared(results):
    # one question more: another set of questions, so alone on its front
    write_run(results / "more", [question("EPM", 0)] * 9, [answer(1)], method="uniform")
    slower = json.loads(json.dumps(answer(10)))
    asked = [question("EPM", int(i < 2)) for i in range(8)]
    model = {"environment": {"device": "cpu (other)", "threads": "2"}}
    write_run(results / "elsewhere", asked, [slower], method="uniform", model=model)
    rows = {row.run.name: row.cells for row in build(find_runs([results], pytest.fail))}
    on = {name for name, cells in rows.items() if cells["front_tokens"]}
    assert on == {"none", "stc", "more"}
    assert {name for name, cells in rows.items() if cells["front_ms"]} == on | {"elsewhere"}
    assert rows["org__other"]["front_ms"] is False and rows["org__other"]["tokens_mean"] is None


def test_the_files_say_the_same(results, tmp_path, capsys):
    status, found = write([results], tmp_path / "out")
    assert status == 0 and set(found) == {"md", "csv", "json", "html"}
    assert capsys.readouterr().out.startswith("4 runs, 4 scores\n")
    lines = {line["run"]: line for line in csv.DictReader(found["csv"].splitlines())}
    assert (lines["stc"]["accuracy"], lines["stc"]["tokens_mean"], lines["stc"]["n"]) == ("75.0", "64.0", "8")
    assert float(lines["stc"]["frame_ms"]) == 4.0 + 2.0  # tower and prefill
    assert lines["org__other"]["tokens_mean"] == ""
    rows = {row["run"]: row for row in json.loads(found["json"])["rows"]}
    assert rows["stc"]["tasks"] == {"backward / EPM": {"accuracy": 75.0, "n": 8}}
    assert rows["stc"]["benchmark"] == "ovobench_stream (backward)" and rows["stc"]["front_tokens"]
    (line,) = (line for line in found["md"].splitlines() if line.startswith("| stc |"))
    assert "| 75.00 |" in line and line.endswith("| tokens, time |")
    assert '<td data-value="75.0">75.00</td>' in found["html"]
    for text in found.values():
        assert "None" not in text.replace('"none"', "")


def test_only_the_formats_that_were_asked_for(results, tmp_path, capsys):
    assert set(write([results], tmp_path / "out", "--format", "csv,json")[1]) == {"csv", "json"}
    assert write([results], tmp_path / "none", "--format", "csv,htm")[0] == 2
    assert "unknown format 'htm'; did you mean 'html'?" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_names_of_runs_are_text_wherever_they_stand(results, tmp_path):
    bad = '"><img src=x onerror=alert(1)> | `{{ 7*7 }}'
    write_run(results / bad, [question("EPM", 1)] * 8, [answer(1)], pretrained="<script>alert(2)</script>")
    _, found = write([results], tmp_path / "out")
    assert "<img" not in found["html"] and "<script>alert" not in found["html"]
    assert "&#34;&gt;&lt;img src=x" in found["html"] and "{{ 7*7 }}" in found["html"]
    assert "<img" not in found["md"] and "\\|" in found["md"]
    assert bad in {row["run"] for row in json.loads(found["json"])["rows"]}


def test_the_page_asks_for_nothing(results):
    runs = find_runs([results], pytest.fail)
    page = to_html(build(runs), runs)
    assert not re.search(r"https?://|@import|url\(", page)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) <= {"data:,"} | set(
        re.findall(r'href="(#\w+)"', page)
    )
    assert "default-src 'none'" in page and len(page) < 100_000


def test_broken_and_foreign_files_are_skipped_with_a_line_each(results, tmp_path, capsys):
    write_old_run(tmp_path / "old", [question("EPM", 1)], [answer(1)])
    summary = json.loads(next((tmp_path / "old").glob("stc_summary_*")).read_text())
    bad = {
        "stc_summary_x.json": '{"a"',
        "stc_summary_y.json": '{"benchmark": "y", "run": null}',
        "stc_efficiency_z_rank0.json": '{"answers": 3}',
        "a_results.json": '{"results": {"t": {"alias": "t", "acc,none": NaN}}}',
        "list_results.json": "[1]",
        "package.json": '{"name": "foreign"}',
        "bytes.json": b"\xff\xfe\x00",
        "stc_summary_text.json": json.dumps(summary | {"settings": "method=stc"}),
        "stc_summary_nan.json": json.dumps(summary).replace('"official": 1.0', '"official": NaN'),
        "stc_summary_number.json": json.dumps(summary | {"run": 3}),
        "odd_results.json": '{"results": {"t": {"acc": 0.5}}, "config": "text"}',
        "deep_results.json": '{"results": {"t": 7}, "group_subtasks": []}',
    }
    for name, text in bad.items():
        (results / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    (results / "leaderboard.json").write_text("{}")  # our own output, from last time
    status, found = write([results], tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    assert status == 0 and len(json.loads(found["json"])["rows"]) == 4
    assert len(lines) == len(bad) and all(line.startswith("stc-lmms: skipped ") for line in lines)
    for name in bad:
        assert sum(f"/{name}: " in line for line in lines) == 1


@pytest.mark.parametrize("content", [None, {}, {"package.json": "{}"}])
def test_no_run_is_one_line_and_status_2(tmp_path, capsys, content):
    folder = tmp_path / "nothing"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    assert main(["leaderboard", str(folder), "--output", str(tmp_path / "out")]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1 and str(folder) in errors[0] and not (tmp_path / "out").exists()


def test_one_name_and_different_settings_are_told_apart(tmp_path):
    for place, budget in (("a", 32), ("b", 64)):
        (tmp_path / place).mkdir()
        write_run(tmp_path / place / "stc", [question("EPM", 1)], [answer(1)], token_budget=budget)
    labels = [run.label for run in find_runs([tmp_path], pytest.fail)]
    assert labels == ["stc [token_budget=32]", "stc [token_budget=64]"]


def test_a_label_has_no_more_settings_than_tell_runs_apart(tmp_path):
    for method, also in (("stc", {"cache_interval": 4}), ("dycoke", {"merge_ratio": None}), ("none", {})):
        write_run(tmp_path / "run", [question("EPM", 1)], [answer(1)], method=method, **also)
    labels = {run.label for run in find_runs([tmp_path], pytest.fail)}
    assert labels == {"run [method=stc]", "run [method=dycoke]", "run [method=none]"}


def test_equal_runs_are_told_apart_by_time_or_number(tmp_path):
    for place, stamp in (
        ("a", "20260101_000000_000"),
        ("b", "20260102_000000_000"),
        ("c", "20260102_000000_000"),
    ):
        (tmp_path / place).mkdir()
        write_run(tmp_path / place / "stc", [question("EPM", 1)], [answer(1)], stamp=stamp)
    labels = [run.label for run in find_runs([tmp_path], pytest.fail)]
    assert len(set(labels)) == 3 and all(label.startswith("stc 2026010") for label in labels)


def test_of_a_repeated_run_the_newest_score_counts(tmp_path):
    folder = tmp_path / "stc"
    write_run(folder, [question("EPM", 0)], [answer(1)])
    write_run(folder, [question("EPM", 1)], [answer(1)], stamp="20260102_000000_000")
    (run,) = find_runs([tmp_path], pytest.fail)
    assert run.scores[0].accuracy == 100.0 and run.record.run.startswith("20260102")


def test_our_model_on_a_task_of_lmms_eval_has_its_cost(tmp_path):
    write_run(tmp_path / "run", [], [answer(4)])
    told = {"resolved_cli_args": {"stc_run": "20260101_000000_000_stc", "stc_settings": {"method": "stc"}}}
    plain_results(tmp_path / "run", {"mvbench": {"acc,none": 41.0}}, config=told)
    (run,) = find_runs([tmp_path], pytest.fail)
    assert (run.name, run.method, run.scores[0].accuracy) == ("run", "stc", 41.0)
    assert run.record.efficiency["frames_encoded"] == 4


@pytest.mark.parametrize("limit", [None, 8])
def test_the_chunk_task_of_lmms_eval_is_compared_too(tmp_path, limit):
    write_run(tmp_path / "run", [], [answer(4)], pretrained=CHECKPOINT, memory="rekv")
    told = {"resolved_cli_args": {"stc_run": "20260101_000000_000_stc"}, "limit": limit}
    plain_results(tmp_path / "run", {"ovobench": {"overall,none": 50.0}}, config=told)
    found = [own for line in comparison(find_runs([tmp_path], pytest.fail)) for own in line["ours"]]
    if limit:
        assert found == []
    else:
        assert (found[0]["gap"], found[0]["differs"]) == (-2.0, "prompt and scoring of lmms-eval's own task")


def test_another_models_run_on_our_tasks_is_one_score(tmp_path):
    content = {"benchmark": "ovobench", "run": None, "settings": None}
    content["summary"] = ovobench.BENCHMARK.summarise([question("EPM", 1)])
    (tmp_path / "stc_summary_ovobench.json").write_text(json.dumps(content))
    plain_results(tmp_path, {"ovobench_stream_backward": {"acc,none": 100.0, "acc_strict,none": 100.0}})
    (run,) = find_runs([tmp_path], pytest.fail)
    assert (run.model_name, run.method, [score.n for score in run.scores]) == ("org__other", "-", [1])


def status(folder, **datasets):
    """What VLMEvalKit leaves for a model."""
    folder.mkdir(exist_ok=True)
    content = {"model_name": "Their-7B", "updated_at": "2026-01-02", "datasets": datasets}
    (folder / "status.json").write_text(json.dumps(content))


def test_results_of_vlmevalkit_are_found(tmp_path):
    fraction = {"primary_metric": "Overall", "metrics": {"Overall": 0.5, "sub|a": 70}}
    percent = {"primary_metric": ["a", "b"], "metrics": {"a": 61.5, "b": 3}}
    unfinished = {"status": "infer"}, {"metrics": {"a": 1}}, {"primary_metric": "a", "metrics": {"a": "much"}}
    status(
        tmp_path / "their", fraction=fraction, percent=percent, **dict(zip("xyz", unfinished, strict=True))
    )
    (run,) = find_runs([tmp_path], pytest.fail)
    assert (run.name, run.model_name, run.method, run.record.run) == (
        "Their-7B",
        "Their-7B",
        "-",
        "2026-01-02",
    )
    found = {score.benchmark: (score.accuracy, score.average, score.n, score.ours) for score in run.scores}
    assert found == {"fraction": (50, "Overall", None, False), "percent": (61.5, "a", None, False)}


def test_what_our_summaries_tell_is_not_told_again_by_vlmevalkit(tmp_path):
    ours = {"primary_metric": "acc", "metrics": {"acc": 0.75, "acc_strict": 0.5, "n": 8}}
    theirs = {"primary_metric": "acc", "metrics": {"acc": 0.75}}
    status(tmp_path / "m", OVOBench_mini=ours, MMBench=theirs)
    (alone,) = find_runs([tmp_path], pytest.fail)
    found = {score.benchmark: (score.accuracy, score.n, score.ours) for score in alone.scores}
    assert found == {"OVOBench_mini": (0.75, 8, True), "MMBench": (75, None, False)}
    write_run(tmp_path / "m", [question("EPM", 1)] * 8, [answer(1)], method="stc")
    told = [score.benchmark for run in find_runs([tmp_path], pytest.fail) for score in run.scores]
    assert sorted(told) == ["MMBench", "ovobench_stream (backward)"]


@pytest.mark.parametrize("content", ["3", "[]", '{"datasets": {}}', '{"datasets": {"a": 1}}', '{"x": 1}'])
def test_other_status_files_are_skipped_with_a_line(results, content):
    (results / "status.json").write_text(content)
    lines = []
    find_runs([results], lines.append)
    assert len(lines) == 1 and lines[0].startswith(f"skipped {results / 'status.json'}: ")


def test_groups_of_lmms_eval_are_one_score_with_sub_tasks():
    content = {
        "results": {
            "videos": {"alias": "videos", " ": ""},
            "short": {"acc,none": 0.5, "loss,none": 3.0},
            "long": {"acc,none": 1.0, "loss,none": 1.0},
        },
        "group_subtasks": {"videos": ["short", "long"]},
        "higher_is_better": {"short": {"acc": True, "loss": False}},
        "n-samples": {"short": {"effective": 10}, "long": {"effective": 30}},
    }
    (score,) = of_results(content)
    assert (score.benchmark, score.accuracy, score.average, score.n) == ("videos", 75.0, "mean acc", 40)
    assert score.tasks == {"short": (50.0, 10), "long": (100.0, 30)}


def test_published_numbers_stand_beside_the_same_whole_benchmark_only(tmp_path):
    settings = {"pretrained": CHECKPOINT, "memory": "rekv", "prompt": "chat", "token_budget": 64}
    some = [question(task, int(task != "EPM")) for task in ALL_TASKS]
    whole = some + [question("EPM", 0)] * (3035 - len(some))
    write_run(tmp_path / "whole", whole, [answer(1)], **settings)
    write_run(tmp_path / "limited", some, [answer(1)], **settings)
    write_run(tmp_path / "part", whole[:1], [answer(1)], **settings)
    write_run(tmp_path / "demo", whole, [answer(1)], pretrained="demo")
    lines = comparison(find_runs([tmp_path], pytest.fail))
    (line,) = (line for line in lines if line["ours"])
    assert (line["benchmark"], line["method"], line["published"]) == ("OVO-Bench", "STC", 52.0)
    (own,) = line["ours"]
    assert own["run"] == "whole" and own["gap"] == pytest.approx(100 * 8 / 9 - 52.0)  # the mean of its parts
    assert own["gap_parts"]["backward"] == pytest.approx(200 / 3 - 45.3)
    assert own["differs"] == "prompt=chat"


def test_streamingbench_is_compared_in_its_real_time_part(tmp_path):
    record = {
        "missing": False,
        "unparsed": False,
        "failed": "",
        "past_end": False,
        "official": 1,
        "strict": 1,
    }
    tasks = [{"part": "real", "task": task} | record for task in streamingbench.TASKS["real"]] * 250
    content = {"benchmark": "streamingbench", "run": "20260101_000000_000_none"}
    content |= {
        "settings": {"method": "none", "pretrained": CHECKPOINT},
        "summary": streamingbench.BENCHMARK.summarise(tasks),
    }
    (tmp_path / "stc_summary_streamingbench_1.json").write_text(json.dumps(content))
    (line,) = (line for line in comparison(find_runs([tmp_path], pytest.fail)) if line["ours"])
    assert (line["method"], line["published"]) == ("ReKV", 69.1) and "no published answer file" in line[
        "caveat"
    ]


def test_published_overall_scores_are_the_mean_of_their_parts_or_say_so():
    for row in (row for row in PUBLISHED if row.published_parts):
        off = abs(sum(row.published_parts.values()) / 3 - row.published)
        assert off < 0.1 or "mean of its three parts" in row.caveat, row.method


def test_ticks_reach_around_the_values():
    assert ticks(0, 196) == [0, 50, 100, 150, 200]
    assert ticks(61.2, 64.9) == [61, 62, 63, 64, 65]
    assert ticks(0, 0)[-1] > 0 and ticks(50, 50)[0] <= 50 < ticks(50, 50)[-1]


def test_without_jinja_the_line_names_the_extra(results, tmp_path, capsys, monkeypatch):
    load = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "jinja2":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert write([results], tmp_path / "out") == (2, {})
    assert "pip install 'stc-lmms[report]'" in capsys.readouterr().err
    assert set(write([results], tmp_path / "out", "--format", "md,csv,json")[1]) == {"md", "csv", "json"}
