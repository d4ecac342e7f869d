"""`stc-lmms report`: what its tables say, and one line for every file that is no run."""

import csv
import json

import pytest

from stc_lmms.benchmarks import ovobench
from stc_lmms.cli.main import main
from tests.results.helpers import answer, question, write_run


def tables(text):
    """The cells of each table by row name; no cell here has two spaces in it."""
    found = {}
    for part in ("Accuracy", "Efficiency"):
        head, _, *lines = text[text.index(part) :].splitlines()[1:]
        names = [name for name in head.split("  ") if name]
        cells = [[cell.strip() for cell in line.split("  ") if cell] for line in lines]
        rows = (row for row in cells if len(row) == len(names))
        found[part] = {row[0]: dict(zip(map(str.strip, names), row, strict=True)) for row in rows}
    return found


@pytest.fixture
def report(capsys):
    def report(*arguments, status=0):
        assert main(["report", *map(str, arguments)]) == status
        return capsys.readouterr()

    return report


@pytest.fixture
def runs(tmp_path):
    asked = [
        question("EPM", 1),
        question("EPM", 1),
        question("EPM", 1, strict=0, unparsed=True),
        question("ASI", 0, missing=True, failed="x"),
    ]
    write_run(tmp_path / "stc", asked, [answer(8), answer(2), {"failed": "x"}])
    write_run(tmp_path / "dense", asked[:1], [answer(4, 1.0, per_token_ms=5.0)], method="none")
    return tmp_path


def test_accuracy_has_counts_and_both_averages_and_the_strict_score(runs, report):
    table = tables(report(runs).out)["Accuracy"]
    # official: EPM 3 of 3, ASI 0 of 1; the macro average is of the one part that is there
    assert " ".join(table["stc"].values()) == (
        "stc stc ovobench_stream (backward) 4 1 1 1 50.00 33.33 50.00 75.00"
    )
    assert " ".join(list(table["dense"].values())[3:]) == "1 0 0 0 100.00 100.00 100.00 100.00"


def test_a_complete_benchmark_is_not_called_partial(tmp_path, report):
    asked = [
        question(task, int(mode == "forward")) for mode, tasks in ovobench.MODES.items() for task in tasks
    ]
    write_run(tmp_path / "all", asked, [answer(1)])
    assert tables(report(tmp_path).out)["Accuracy"]["all"]["benchmark"] == "ovobench_stream"


def test_efficiency_is_per_frame_and_per_answer(runs, report):
    out = report(runs).out
    table = tables(out)["Efficiency"]
    assert table["stc"] == {
        "run": "stc",
        "method": "stc",
        "frames": "10",
        "recomputed %": "25.00",
        "tokens/frame": "64.00",
        "tokens/frame max": "0",
        "ms/frame": "10.00",
        "ViT ms/frame": "8.00",
        "prefill ms/frame": "2.00",
        "TTFT ms": "10.00",
        "ms/token": "-",
        "KV MiB": "3.00",
        "state MiB": "4.00",
        "peak MiB": "0.00",
    }
    assert table["dense"]["recomputed %"] == "100.00" and table["dense"]["ms/token"] == "5.00"
    assert out.splitlines()[-1] == (
        "cpu (x86_64), 2 threads, float32, tower sdpa, llm sdpa; torch 2.13.0, transformers 5.0.0"
    )


def test_two_methods_in_one_output_path_are_two_runs(tmp_path, report):
    folder = tmp_path / "run"
    write_run(folder, [question("EPM", 1)], [answer(4)], method="none")
    write_run(folder, [question("EPM", 0)], [answer(8)], method="stc", stamp="20260101_000001_000")
    write_run(folder, [], [answer(16)], method="stc_pruner", stamp="20260101_000002_000")  # interrupted
    said = report(folder)
    found = tables(said.out)
    assert {name: row["accuracy %"] for name, row in found["Accuracy"].items()} == {
        "run [method=none]": "100.00",
        "run [method=stc]": "0.00",
    }
    assert {name: row["frames"] for name, row in found["Efficiency"].items()} == {
        "run [method=none]": "4",
        "run [method=stc]": "8",
    }
    (line,) = said.err.splitlines()
    assert "20260101_000002_000_stc_pruner has no scores; start the run again" in line


def test_a_resumed_run_says_so_and_a_failed_one_has_no_costs(tmp_path, report):
    resumed = [answer(4) | {"replayed": True}]
    write_run(tmp_path / "resumed", [question("EPM", 1)], resumed, model=None)
    write_run(tmp_path / "failed", [question("EPM", 0, failed="x")], [{"failed": "x"}], model=None)
    text = report(tmp_path).out
    table = tables(text)["Efficiency"]
    assert table["resumed"]["frames"] == "4" and table["failed"]["frames"] == "-"
    assert "threads" not in text
    assert "resumed (stc): 1 of 1 answers were timed by the run that it resumed" in text


def test_a_run_has_a_name_however_it_was_given(runs, report, monkeypatch):
    monkeypatch.chdir(runs / "stc")
    assert set(tables(report(".").out)["Accuracy"]) == {"stc"}


def test_json_and_csv_have_the_rows_of_the_leaderboard(runs, report):
    found = json.loads(report(runs, "--json").out)
    assert {row["run"]: row["recomputed"] for row in found["rows"]} == {"stc": 25.0, "dense": 100.0}
    assert {run["run"]: run["failures"] for run in found["runs"]} == {"stc": {"x": 1}, "dense": {}}
    lines = {line["run"]: line for line in csv.DictReader(report(runs, "--csv").out.splitlines())}
    assert lines["stc"]["n_failed"] == "1" and lines["dense"]["token_ms"] == "5.0"


def test_a_sweep_is_reported_by_its_merged_runs(tmp_path, report):
    (tmp_path / "sweep" / "jobs").mkdir(parents=True)
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    write_run(tmp_path / "sweep" / "jobs" / "000" / "out", [question("EPM", 0)], [answer(1)])
    said = report(tmp_path, status=2)
    assert f"stc-lmms sweep merge {tmp_path / 'sweep'}" in said.err
    write_run(tmp_path / "sweep" / "merged" / "plain", [question("EPM", 1)], [answer(2)])
    said = report(tmp_path)
    assert set(tables(said.out)["Accuracy"]) == {"plain"} and not said.err


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text[: len(text) // 2], "cut off or not JSON"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "upgrade stc-lmms"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": "a"'), "'a' is unknown"),
        (lambda text: text.replace('"world_size": 1', '"world_size": "many"'), "world_size"),
        (lambda text: text.replace('"official": 1.0', '"official": NaN'), "finite number"),
    ],
)
def test_a_bad_record_is_one_line_and_the_other_runs_are_shown(runs, report, change, why):
    path = write_run(runs / "bad", [question("EPM", 1)], [answer(1)])
    path.write_text(change(path.read_text()))
    said = report(runs)
    assert set(tables(said.out)["Accuracy"]) == {"stc", "dense"}
    (line,) = said.err.splitlines()
    assert line.startswith(f"stc-lmms: skipped {path}: ") and why in line
    assert report(runs / "bad", status=2).err.splitlines()[-1].startswith("stc-lmms: error: no finished run")


@pytest.mark.parametrize("content", [None, {}, {"package.json": "{}"}])
def test_a_folder_without_a_run_is_skipped_and_alone_an_error(runs, tmp_path, report, content):
    folder = tmp_path / "nothing"
    if content is not None:
        folder.mkdir()
        for file, text in content.items():
            (folder / file).write_text(text)
    assert set(tables(report(runs / "stc", folder).out)["Accuracy"]) == {"stc"}
    *_, line = report(folder, status=2).err.splitlines()
    assert line.startswith("stc-lmms: error: no finished run below") and str(folder) in line
