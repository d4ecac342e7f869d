"""The tables of `stc-lmms report`: what stands in them, and one line where there is no run."""

import json

import pytest

from stc_lmms.benchmarks import ovobench
from stc_lmms.cli.main import main
from stc_lmms.results.tables import render
from stc_lmms.engine.timers import Efficiency

MODEL = {
    "execution": "grouped",
    "attention": "tower sdpa, llm sdpa",
    "dtype": "float32",
    "environment": {"device": "cpu (x86_64)", "threads": "2", "torch": "2.13.0", "transformers": "5.0.0"},
}


def question(task, official, strict=None, **flags):
    flags = {"missing": False, "unparsed": False, "failed": "", "past_end": False} | flags
    part = ovobench.MODE_OF[task]
    return {
        "part": part,
        "task": task,
        "official": official,
        "strict": official if strict is None else strict,
    } | flags


def answer(frames, recomputed=0.25, **cost):
    cost = {"kv_bytes": 3 * 2**20, "state_bytes": 4 * 2**20, "ttft_ms": 10.0, "llm_tokens_mean": 64.0} | cost
    counts = {"tower_tokens": 100 * frames, "tower_tokens_recomputed": int(100 * frames * recomputed)}
    times = {"vit_ms": 8.0 * frames, "prefill_ms": 2.0 * frames}
    return {
        "task": "t",
        "doc_id": 0,
        "efficiency": Efficiency(frames_encoded=frames, **counts, **times, **cost).to_dict(),
    }


def write_run(folder, questions, answers, method="stc", model=MODEL, rank=0, world_size=1, **options):
    """What a run leaves in its output path."""
    folder.mkdir(exist_ok=True)
    stamp, settings = options.pop("stamp", "20260101_000000_000"), {"method": method} | options
    run = f"{stamp}_{method}"
    if questions:
        content = {"benchmark": "ovobench", "run": run, "settings": settings}
        content["summary"] = ovobench.BENCHMARK.summarise(questions)
        (folder / f"stc_summary_ovobench_{run}.json").write_text(json.dumps(content))
    record = {
        "run": run,
        "settings": settings,
        "model": model,
        "world_size": world_size,
        "replayed": sum(bool(a.get("replayed")) for a in answers),
        "beyond_context": 0,
        "answers": answers,
    }
    path = folder / f"stc_efficiency_{run}_rank{rank}.json"
    path.write_text(json.dumps(record))
    return path


def cells(text, table):
    """{first cell: [cells]} of one of the two tables; no cell here has two spaces in it."""
    lines = text[text.index(table) :].split("\n\n")[0].splitlines()[1:]
    rows = [line.split() for line in lines if "---" not in line and "): " not in line]
    return {row[0]: row for row in rows}


@pytest.fixture
def runs(tmp_path):
    asked = [
        question("EPM", 1),
        question("EPM", 1),
        question("EPM", 1, strict=0, unparsed=True),
        question("ASI", 0, missing=True, failed="x"),
    ]
    stc = write_run(tmp_path / "stc", asked, [answer(8), answer(2), {"failed": "x"}]).parent
    none = write_run(tmp_path / "dense", asked[:1], [answer(4, 1.0, per_token_ms=5.0)], method="none").parent
    return stc, none


def test_accuracy_has_counts_and_both_averages_and_the_strict_score(runs):
    table = cells(render(runs), "Accuracy")
    # official: EPM 3 of 3, ASI 0 of 1; the macro average is of the one part that is there
    assert " ".join(table["stc"]) == "stc stc ovobench (some parts) 4 1 1 1 50.00 75.00 33.33"
    assert " ".join(table["dense"]) == "dense none ovobench (some parts) 1 0 0 0 100.00 100.00 100.00"
    assert list(table) == ["run", "stc", "dense", "macro:", "strict:"]


def test_a_complete_benchmark_is_not_called_partial(tmp_path):
    asked = [
        question(task, int(mode == "forward")) for mode, tasks in ovobench.MODES.items() for task in tasks
    ]
    folder = write_run(tmp_path / "all", asked, [answer(1)]).parent
    assert (
        " ".join(cells(render([folder]), "Accuracy")["all"]) == "all stc ovobench 12 0 0 0 33.33 25.00 33.33"
    )


def test_efficiency_is_per_frame_and_per_answer(runs):
    table = cells(render(runs), "Efficiency")
    assert table["stc"] == [
        "stc",
        "stc",
        "10",
        "25.00",
        "64.00",
        "8.00",
        "2.00",
        "10.00",
        "-",
        "3.00",
        "4.00",
    ]
    assert table["dense"][2:4] == ["4", "100.00"] and table["dense"][8] == "5.00"
    assert render(runs).splitlines()[-1] == (
        "cpu (x86_64), 2 threads, float32, tower sdpa, llm sdpa; torch 2.13.0, transformers 5.0.0"
    )


def test_the_newest_run_counts_with_its_own_ranks(tmp_path):
    folder = tmp_path / "run"
    for rank, frames in enumerate((1, 2, 4)):  # an older run, on more ranks
        asked = [] if rank else [question("EPM", 0)]
        write_run(folder, asked, [answer(frames)], rank=rank, world_size=3)
    newer = {"world_size": 2, "stamp": "20260101_000001_000"}
    for rank, frames in enumerate((10, 20)):
        asked = [] if rank else [question("EPM", 1)]
        write_run(folder, asked, [answer(frames, kv_bytes=frames * 2**20)], rank=rank, **newer)
    text = render([folder])
    row = cells(text, "Efficiency")["run"]
    assert row[2] == "30" and row[-2] == "20.00"
    assert cells(text, "Accuracy")["run"][-1] == "100.00" and "ranks only" not in text
    (folder / "stc_efficiency_20260101_000001_000_stc_rank1.json").unlink()
    assert "run (stc): efficiency of 1 of 2 ranks only" in render([folder])


def test_two_methods_in_one_output_path_are_two_runs(tmp_path):
    folder = tmp_path / "run"
    write_run(folder, [question("EPM", 1)], [answer(4)], method="none")
    write_run(folder, [question("EPM", 0)], [answer(8)], method="stc", stamp="20260101_000001_000")
    interrupted = [answer(16)]
    write_run(folder, [], interrupted, method="stc_pruner", stamp="20260101_000002_000")
    accuracy, efficiency = (
        [line.split() for line in part.splitlines() if line.startswith("run  ")]
        for part in render([folder]).split("\n\n")
    )
    assert [(row[1], row[-1]) for row in accuracy[1:]] == [("none", "100.00"), ("stc", "0.00")]
    assert [(row[1], row[2]) for row in efficiency[1:]] == [("none", "4"), ("stc", "8")]


def test_another_models_run_on_our_tasks_has_scores_only(tmp_path):
    content = {"benchmark": "ovobench", "run": None, "settings": None}
    content["summary"] = ovobench.BENCHMARK.summarise([question("EPM", 1)])
    (tmp_path / "stc_summary_ovobench.json").write_text(json.dumps(content))
    text = render([tmp_path])
    assert cells(text, "Accuracy")[tmp_path.name][1] == "-"
    assert cells(text, "Efficiency")[tmp_path.name][2] == "-"


def test_a_resumed_run_says_so_and_a_failed_one_has_no_costs(tmp_path):
    resumed = [answer(4) | {"replayed": True}]
    write_run(tmp_path / "resumed", [question("EPM", 1)], resumed, model=None)
    write_run(tmp_path / "failed", [question("EPM", 0, failed="x")], [{"failed": "x"}], model=None)
    text = render([tmp_path / "resumed", tmp_path / "failed"])
    table = cells(text, "Efficiency")
    assert table["resumed"][2] == "4" and table["failed"][2:4] == ["-", "-"]
    assert "threads" not in text
    assert "resumed (stc): 1 of 1 answers were timed by the run that it resumed" in text


def test_the_command_prints_them(runs, capsys, monkeypatch):
    assert main(["report", *map(str, runs)]) == 0
    assert capsys.readouterr().out == render(runs) + "\n"
    monkeypatch.chdir(runs[0])
    assert main(["report", "."]) == 0
    assert "\nstc  stc  " in capsys.readouterr().out  # a run has a name, however it was given


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("missing", None, "missing holds no finished run; give the --output_path"),
        ("empty", {}, "empty holds no finished run"),
        ("half", {"stc_efficiency_1_stc_rank0.json": "{}"}, "half holds no finished run"),
        (
            "torn",
            {"stc_summary_x.json": '{"a"'},
            "stc_summary_x.json cannot be read",
        ),
    ],
)
def test_a_folder_without_a_run_is_one_line_and_status_2(tmp_path, capsys, name, content, told):
    folder = tmp_path / name
    if content is not None:
        folder.mkdir()
        for file, text in content.items():
            (folder / file).write_text(text)
    assert main(["report", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stc-lmms: error: ") and told in line
