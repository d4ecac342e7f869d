"""The key of a request: what decides an answer changes it, and nothing else does."""

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

import stc_lmms
from stc_lmms.eval.fingerprint import (
    DECIDING,
    NOT_DECIDING,
    checkpoint_identity,
    code_digest,
    decides,
    file_identity,
    normalised,
    plugin_digest,
    request_key,
    versions,
)
from stc_lmms.models.registry import MODELS
from tests.imports import PACKAGE, files, module_graph, reachable


def short(module):
    return module.removeprefix(PACKAGE).removeprefix(".") or "__init__"


def test_every_module_that_answers_are_made_with_is_declared():
    starts = {f"{PACKAGE}.{name}" for name in ("eval.evaluation", "eval.lmms_tasks", "video.worker")}
    starts |= {model.path.rpartition(".")[0] for model in MODELS.values()}
    starts |= {model.options.rpartition(".")[0] for model in MODELS.values() if model.options}
    used = {short(module) for module in reachable(starts, module_graph())}
    unknown = {module for module in used if decides(module) is None}
    assert not unknown, f"declare in eval/fingerprint.py whether these decide answers: {sorted(unknown)}"


def test_only_modules_that_exist_are_declared():
    known = {short(module) for module in files()}
    assert {*DECIDING, *NOT_DECIDING} <= known and not set(DECIDING) & set(NOT_DECIDING)
    assert all(NOT_DECIDING.values())


def test_the_longest_declared_name_counts():
    assert decides("methods.stc_pruner") and decides("models.qwen_vl.model") and decides("settings")
    assert decides("nothing.of.ours") is None


def test_the_request_and_its_files_are_part_of_the_key(tmp_path):
    video = tmp_path / "v.mp4"
    video.write_bytes(b"1234")
    parts = {
        "settings": {"method": "stc", "fps": 0.5},
        "doc": {"id": 1, "questions": [{"end_s": 3.0}]},
        "video": file_identity(str(video)),
    }
    keys = [request_key(**parts)]
    assert request_key(**dict(reversed(parts.items()))) == keys[0]
    keys.append(request_key(**parts | {"settings": {"method": "stc", "fps": 1.0}}))
    keys.append(request_key(**parts | {"doc": {"id": 1, "questions": [{"end_s": 4.0}]}}))
    os.utime(video, ns=(1, 1))
    keys.append(request_key(**parts | {"video": file_identity(str(video))}))
    video.write_bytes(b"12345")
    os.utime(video, ns=(1, 1))
    keys.append(request_key(**parts | {"video": file_identity(str(video))}))
    video.unlink()
    keys.append(request_key(**parts | {"video": file_identity(str(video))}))
    assert len(set(keys)) == len(keys)


CODE = (
    'import os\n\n\nclass A:\n    """Doc."""\n\n    x = "text"  # why\n\n    def f(self):\n        return 1\n'
)
SAME = [
    CODE.replace("Doc.", "Another."),
    CODE.replace('    """Doc."""\n', ""),
    CODE.replace("  # why", "").replace("\n\n", "\n"),
    CODE.replace("x = ", "x=").replace("return 1", '"""Also a doc."""\n        return (1)'),
    CODE + '"""At the end."""\n',
]
OTHER = [
    CODE.replace("return 1", "return 2"),
    CODE.replace('"text"', '"another"'),
    CODE.replace("import os", "import sys"),
    CODE.replace("def f", "def g"),
    CODE.replace("class A", "class A(int)"),
    "not Python",
]


def test_comments_docstrings_and_layout_do_not_count(tmp_path):
    def of(text):
        (tmp_path / "x.py").write_text(text)
        return normalised(tmp_path / "x.py")

    assert {of(text) for text in SAME} == {of(CODE)}
    assert len({of(text) for text in [CODE, *OTHER]}) == len(OTHER) + 1


def with_code(text):
    return text + "\nADDED = 1\n"


def with_words(text):
    return text.replace('"""', '"""More about it. ', 1) + "\n# More.\n"


@pytest.mark.parametrize(
    ("file", "edit", "counts"),
    [
        ("methods/stc_pruner.py", with_code, True),
        ("methods/stc_pruner.py", with_words, False),
        ("video/worker.py", with_code, True),
        ("benchmarks/base.py", with_code, True),
        ("benchmarks/ovobench.py", with_code, False),
        ("settings.py", with_code, True),
        ("results/page.py", with_code, False),
        ("models/dispider/bench.py", with_code, False),
        ("cli/run.py", with_code, False),
    ],
)
def test_code_that_decides_answers_counts_and_other_code_does_not(tmp_path, monkeypatch, file, edit, counts):
    copy = tmp_path / PACKAGE
    shutil.copytree(Path(stc_lmms.__file__).parent, copy, ignore=shutil.ignore_patterns("checkpoints"))
    monkeypatch.setattr(stc_lmms, "__file__", str(copy / "__init__.py"))
    digest = code_digest.__wrapped__
    before = digest()
    assert before == code_digest()
    (copy / file).write_text(edit((copy / file).read_text()))
    assert (digest() != before) is counts


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """`plugin(**modules)` writes a package `other_plugin` anew and gives the digest of its class."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def forget():
        for name in [name for name in sys.modules if name.startswith("other_plugin")]:
            del sys.modules[name]

    def write(**changed):
        modules = {
            "__init__": "",
            "method": "from abc import ABC\nfrom .base import Base\n\n\nclass Mine(Base, ABC):\n    x = 1\n",
            "base": "from other_plugin import helper\n\n\nclass Base:\n    y = helper.Y\n",
            "helper": "Y = 1\n\n\ndef late():\n    from . import lazy\n",
            "lazy": "Z = 1\n",
            "unused": "U = 1\n",
        }
        folder = tmp_path / "other_plugin"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, text in (modules | changed).items():
            (folder / f"{name}.py").write_text(text)
        forget()
        importlib.invalidate_caches()
        cls = importlib.import_module("other_plugin.method").Mine
        digest = plugin_digest([cls])
        importlib.import_module("other_plugin.unused")
        importlib.import_module("other_plugin.lazy")
        assert plugin_digest([cls]) == digest  # whatever else has been imported
        return digest

    yield write
    forget()


def test_the_code_of_a_plug_in_counts_with_what_it_imports_of_its_package(plugin):
    before = plugin()
    assert plugin() == before
    assert plugin(helper='"""Doc."""\n\nY = 1\n\n\ndef late():\n    from . import lazy  # why\n') == before
    assert plugin(unused="U = 2\n") == before
    changes = [
        plugin(method="from .base import Base\n\n\nclass Mine(Base):\n    x = 2\n"),
        plugin(base="from other_plugin import helper\n\n\nclass Base:\n    y = helper.Y + 1\n"),
        plugin(helper="Y = 2\n"),
        plugin(lazy="Z = 2\n"),
    ]
    assert len({before, *changes}) == 5


def test_our_own_classes_and_those_of_a_prompt_are_no_plug_ins():
    assert plugin_digest([Path, type("Odd", (), {"__module__": "stc_lmms.methods.base"})]) == ""
    assert plugin_digest([type("Typed", (), {"__module__": "typed_at_a_prompt"})])


def test_a_hub_checkpoint_is_known_by_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert checkpoint_identity("org/name", None) == ["org/name", None]
    assert checkpoint_identity("org/name", "v1") == ["org/name", "v1"]
    folder, found = tmp_path / "models--org--name", []
    (folder / "refs").mkdir(parents=True)
    for commit in ("a" * 40, "b" * 40):
        (folder / "refs" / "main").write_text(commit)
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "config.json").write_text("{}")
        found.append(checkpoint_identity("org/name", None))
    assert found == [["org/name", "a" * 40], ["org/name", "b" * 40]]
    assert checkpoint_identity("org/name", "a" * 40) == found[0]
    assert checkpoint_identity("not a/hub id/at all", None) == ["not a/hub id/at all", None]


def test_a_local_checkpoint_is_known_by_its_files(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = checkpoint_identity(str(tmp_path), None)
    (tmp_path / "model.safetensors").write_bytes(b"1")
    assert checkpoint_identity(str(tmp_path), None) != before


def test_a_library_that_is_missing_has_no_version():
    assert versions(["torch", "no-such-thing"]) == {
        "torch": importlib.metadata.version("torch"),
        "no-such-thing": None,
    }


# Answers a few rows, as far as the journal has no answers, and prints how many it answered. In argv: the
# checkpoint, the journal's folder, the method, how many answers until it kills itself (0: never).
ANSWER = """
import os, signal, sys
from pathlib import Path
import torch
from stc_lmms.benchmarks.registry import find
from stc_lmms.eval.dialogue import RowDialogue
from stc_lmms.eval.evaluation import Evaluation, open_journal, resume, write_entry
from stc_lmms.eval.fingerprint import dialogue_key, run_identity
checkpoint, folder, method, limit = sys.argv[1:]
run = Evaluation()
run.registered = "llava_ov"
run.open_run({"pretrained": checkpoint, "method": method, "token_budget": 9}, "cpu")
identity, journal = run_identity(run.settings, torch.device("cpu")), open_journal(Path(folder), 0, "")
rows = find("ovobench").load_rows("backward", "mini")[:4]
dialogues = [RowDialogue(row, number) for number, row in enumerate(rows)]
keys = {dialogue: dialogue_key(dialogue, identity) for dialogue in dialogues}
todo = [dialogue for dialogue in keys if resume(journal, keys[dialogue], dialogue) is None]
for number, dialogue in enumerate(run.play(todo), 1):
    write_entry(journal, keys[dialogue], dialogue, None)
    if number == int(limit):
        os.kill(os.getpid(), signal.SIGKILL)
print("answered", len(todo))
"""
PLUGIN = """
from dataclasses import dataclass
from stc_lmms.methods.spec import MethodSpec
from stc_lmms.methods.stc_pruner import STCPruner
@dataclass(frozen=True)
class Mine(STCPruner):
    pass
METHOD = MethodSpec("mine", "of another package", token=Mine)
"""


@pytest.fixture
def site(tmp_path):
    """A folder with a copy of this package and with a plug-in, `mine`."""
    repo = Path(stc_lmms.__file__).parents[1]
    for name in (PACKAGE, "tasks", "model_configs"):
        shutil.copytree(repo / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "other_mine.py").write_text(PLUGIN)
    for name, version in (("other", "1.0"), ("decord", "98.0")):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (tmp_path / "other-1.0.dist-info" / "entry_points.txt").write_text(
        "[stc_lmms.methods]\nmine = other_mine:METHOD\n"
    )
    return tmp_path


@pytest.mark.slow
def test_a_killed_run_goes_on_over_changes_that_decide_nothing(site, checkpoint):
    def answered(method, limit=0):
        command = [sys.executable, "-c", ANSWER, str(checkpoint), str(site / "journal"), method, str(limit)]
        environ = dict(os.environ) | {"PYTHONPATH": str(site)}
        done = subprocess.run(command, cwd=site, env=environ, capture_output=True, text=True)
        assert done.returncode == (-9 if limit else 0), done.stderr
        return None if limit else int(done.stdout.split()[-1])

    def edit(file, change):
        before = (site / file).read_text()
        (site / file).write_text(change(before))
        assert (site / file).read_text() != before

    answered("mine", limit=2)
    assert answered("mine") == 2  # the other two
    edit(f"{PACKAGE}/results/page.py", with_code)
    edit(f"{PACKAGE}/methods/stc_pruner.py", with_words)
    edit("other_mine.py", lambda text: text + "# More.\n")
    assert answered("mine") == 0
    edit("other_mine.py", with_code)
    assert answered("mine") == 4
    edit(f"{PACKAGE}/methods/stc_pruner.py", with_code)
    assert answered("mine") == 4
    edit("decord-98.0.dist-info/METADATA", lambda text: text.replace("98.0", "98.1"))
    assert answered("mine") == 4
    assert answered("mine") == 0
