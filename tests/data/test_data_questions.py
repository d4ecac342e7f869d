import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stc_lmms.benchmarks.ovobench import BENCHMARK, hub_annotations
from stc_lmms.errors import DataError

CHOICE = {"question": "What?", "answer": "b", "options": ["a", "b"], "gt": 1}
ROWS: dict[str, list[dict[str, Any]]] = {
    "backward": [{"id": 0, "task": "EPM", "video": "COIN/a.mp4", "realtime": 12, **CHOICE}],
    "realtime": [
        {"id": 2, "task": "FPD", "video": "COIN/b.mp4", "realtime": 0.03, **CHOICE},
        {"id": 1, "task": "STU", "video": "COIN/a.mp4", "realtime": 4.0, **CHOICE},
    ],
    "forward": [
        {
            "id": 3,
            "task": "REC",
            "video": "COIN/c.mp4",
            "activity": "jump",
            "test_info": [{"realtime": 3, "count": 0}, {"realtime": 5, "count": 2}],
        },
        {
            "id": 4,
            "task": "SSR",
            "video": "COIN/d.mp4",
            "tutorial": "tea",
            "test_info": [{"realtime": 7, "step": "boil", "type": 1}],
        },
    ],
}
HEADER = "---\nconfigs:\n" + "".join(
    f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}.jsonl\n" for name in ROWS
)


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the dataset's relative path: `load_dataset` takes it before the hub."""
    folder = tmp_path / "kcz358" / "OVOBench"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(HEADER + "---\n")
    write(folder, ROWS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return folder


def write(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    for name, entries in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_hub_rows_equal_the_original(local_hub: Path, tmp_path: Path) -> None:
    expected = sorted((row for rows in ROWS.values() for row in rows), key=lambda row: row["id"])
    assert hub_annotations(tmp_path) == expected
    (tmp_path / "root").mkdir()
    assert BENCHMARK.annotations(tmp_path / "root", "backward") == expected  # the fallback

    (tmp_path / "root" / "ovo_bench_new.json").write_text(json.dumps(expected[:2]))
    assert BENCHMARK.annotations(tmp_path / "root", "backward") == expected[:2]  # the file comes first


@pytest.mark.parametrize("field", ["video", "realtime"])
def test_hub_rows_without_source_fields(local_hub: Path, tmp_path: Path, field: str) -> None:
    write(local_hub, {"backward": [{k: v for k, v in row.items() if k != field} for row in ROWS["backward"]]})
    with pytest.raises(DataError) as error:
        hub_annotations(tmp_path)
    message = str(error.value)
    assert f"field '{field}' is missing" in message
    assert f"ovo_bench_new.json and put it at {tmp_path}" in message
    assert "\n" not in message


def test_hub_without_a_config(local_hub: Path, tmp_path: Path) -> None:
    (local_hub / "README.md").write_text(HEADER.replace("forward\n", "else\n") + "---\n")
    with pytest.raises(DataError, match="cannot load 'forward'"):
        hub_annotations(tmp_path)


@pytest.mark.parametrize("variables", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_no_network_is_one_quick_line(tmp_path: Path, variables: dict[str, str]) -> None:
    code = (
        "import sys, time, datasets\nfrom pathlib import Path\n"
        "from stc_lmms.benchmarks.ovobench import BENCHMARK\n"
        "from stc_lmms.errors import DataError\n"
        "time.sleep = lambda seconds: sys.exit('it waits, to try again')\n"
        "try: BENCHMARK.annotations(Path('.'), 'backward')\n"
        "except DataError as error: print(error)\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    (message,) = done.stdout.splitlines()
    assert "kcz358/OVOBench" in message
    assert "ovo_bench_new.json" in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON"),
        ("{}", "must be a non-empty list"),
        ("[]", "must be a non-empty list"),
        ("[3]", "must be an object"),
        (json.dumps([{**ROWS["backward"][0], "realtime": "12"}]), "field 'realtime' must be int or float"),
        (json.dumps([{**ROWS["forward"][0], "test_info": [{"count": 1}]}]), "field 'realtime' is missing"),
        (json.dumps([{**ROWS["forward"][0], "test_info": []}]), "field 'test_info' is empty"),
        (json.dumps([ROWS["backward"][0]] * 2), "twice"),
    ],
)
def test_malformed_question_file(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "ovo_bench_new.json").write_text(content)
    with pytest.raises(DataError, match=problem):
        BENCHMARK.annotations(tmp_path, "backward")


def test_no_stand_in_for_other_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ovo_bench_mini\.json is not in"):
        BENCHMARK.annotations(tmp_path, "backward", "mini")
