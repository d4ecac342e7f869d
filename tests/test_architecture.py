"""The direction of imports: no circles, and nothing heavy where a listing or a table is all that is wanted.

Every import counts, wherever it stands: at the top of a file, in a function, or under TYPE_CHECKING. Only
names that are resolved from text, such as the class paths in `models/registry.py`, are free.
"""

import json
import subprocess
import sys

import pytest

from tests.imports import PACKAGE, circles, files, imported, module_graph, package_graph
from tests.results.helpers import answer, question, write_run

# Nothing imports a leaf but the packages named with it; `models/<name>/bench.py` is a card entry.
_ENTRIES = tuple(f"models.{name}" for name in ("dispider", "llava_onevision", "qwen_vl", "streamforest"))
LEAVES = {"cli": (), "bench": ("cli", "sweep", *_ENTRIES), "sweep": ("cli",)}


def short(name):
    return name.removeprefix(f"{PACKAGE}.")


@pytest.mark.parametrize("graph", [module_graph, package_graph])
def test_no_circles(graph):
    assert not circles(graph())


def test_nothing_imports_the_leaves():
    pairs = {
        (short(package), short(target)) for package, targets in package_graph().items() for target in targets
    }
    found = {(who, leaf) for who, leaf in pairs if leaf in LEAVES and who not in LEAVES[leaf]}
    assert not found


def test_the_package_imports_nothing_of_the_repository_around_it():
    outside = {"parity", "training", "tests", "scripts", "benchmarks", "examples"}
    for path in files().values():
        assert not outside & {name.partition(".")[0] for name in imported(path)}, path


@pytest.mark.parametrize("module", ["models.registry", "methods.registry", "memory.registry", "settings"])
def test_registries_import_no_torch(module):
    code = f"import sys, {PACKAGE}.{module}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


COMMANDS = [
    "run --list",
    "methods",
    "methods --json",
    "leaderboard runs --output board",
    "report runs/stc",
    "data verify ovobench_mini --parts forward",
    "plan ovobench --annotations rows.json",
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a finished run in `runs` and annotations in `rows.json`."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "runs").mkdir()
    write_run(folder / "runs" / "stc", [question("EPM", 1)], [answer(10)], pretrained="demo")
    row = {"id": 0, "video": "a.mp4", "realtime": 9, "task": "EPM", "question": "?", "answer": "b"}
    row |= {"options": ["a", "b"], "gt": 1}
    (folder / "rows.json").write_text(json.dumps([row]))
    return folder


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_that_need_no_model_import_no_torch(line, workplace):
    code = (
        f"import sys; from {PACKAGE}.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print('HEAVY', sorted({'torch', 'transformers', 'lmms_eval'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, *line.split()]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True)
    assert done.stdout.endswith("HEAVY []\n"), done.stdout[-300:] + done.stderr[-800:]
