"""The entry point of lmms-eval gets our models and tasks, without heavy imports and without exceptions."""

import importlib
import json
import subprocess
import sys
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from stc_lmms import plugin
from stc_lmms.models.registry import MODELS

SCRIPTS = Path(sysconfig.get_path("scripts"))


def python(code):
    """Standard output of a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_the_entry_point_lists_our_models():
    (found,) = (p for p in entry_points(group="lmms_eval.models") if p.name == "stc_lmms")
    assert found.load() is plugin.manifests
    manifests = list(plugin.manifests())
    assert [manifest.model_id for manifest in manifests] == [f"{name}_stc" for name in MODELS]
    for manifest in manifests:
        module, _, name = manifest.simple_class_path.rpartition(".")
        adapter = importlib.import_module(module)
        assert issubclass(getattr(adapter, name), adapter.Harness) and manifest.chat_class_path is None
    assert manifests[0].simple_class_path == "stc_lmms.eval.lmms_eval.LlavaOvStc"


def test_nothing_heavy_is_imported():
    code = (
        "import sys, json; from stc_lmms import plugin; plugin.manifests();"
        "print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    )
    loaded = set(json.loads(python(code).splitlines()[-1]))
    assert "stc_lmms" in loaded
    assert not loaded & {"torch", "transformers", "datasets", "numpy", "accelerate"}


def test_lmms_eval_lists_the_model():
    listed = subprocess.run(
        [SCRIPTS / "lmms-eval", "models"], capture_output=True, text=True, check=True, timeout=120
    )
    assert "llava_ov_stc" in listed.stdout
    assert "Failed to load" not in listed.stderr


def test_a_broken_installation_never_raises(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", None)  # importing it now fails
    assert list(plugin.manifests()) == []
    (record,) = caplog.records
    assert "stc-lmms is not available in lmms-eval: ModuleNotFoundError" in record.getMessage()


def test_the_models_and_their_options_are_light():
    code = (
        "import sys; from stc_lmms.models.registry import MODELS\n"
        "options = [model.load_options() for model in MODELS.values()]\n"
        "print({'torch', 'transformers', 'numpy'} & set(sys.modules), len(options))"
    )
    assert python(code) == f"set() {len(MODELS)}\n"


@pytest.mark.parametrize(
    ("torch", "torchvision", "requirement", "reason"),
    [
        ("2.13.0", "0.28.0", "2.13.0", None),
        ("2.13.0+cpu", "0.28.0+cpu", "2.13.0", None),
        ("2.13.0", "0.28.0", None, None),
        ("2.13.0+cpu", "0.28.0", "2.13.0", "different package indexes"),
        ("2.13.0+cpu", "0.28.0+cu130", "2.13.0", "different package indexes"),
        ("2.12.1", "0.28.0", "2.13.0", "built for torch 2.13.0"),
        ("2.12.1+cpu", "0.28.0+cpu", "2.13.0", "built for torch 2.13.0"),
    ],
)
def test_torchvision_mismatch(torch, torchvision, requirement, reason):
    found = plugin.torchvision_mismatch(torch, torchvision, requirement)
    if reason is None:
        assert found is None
    else:
        assert reason in found and torch in found and torchvision in found and "\n" not in found


@pytest.mark.parametrize("style", ["torch=={}", "torch (=={})", 'torch=={}; python_version >= "3.9"'])
@pytest.mark.parametrize(("wanted", "warned"), [("2.13.0", False), ("2.14.0", True)])
def test_the_start_up_check_reads_metadata_old_and_new(monkeypatch, capsys, style, wanted, warned):
    versions = {"torch": "2.13.0", "torchvision": "0.28.0"}
    monkeypatch.setattr(plugin.importlib.metadata, "version", versions.__getitem__)
    monkeypatch.setattr(
        plugin.importlib.metadata, "requires", lambda name: ["numpy", "torchdata==1", style.format(wanted)]
    )
    plugin.warn_about_torchvision()
    assert ("torchvision 0.28.0 do not match" in capsys.readouterr().err) is warned


def test_without_torchvision_there_is_nothing_to_check(monkeypatch, capsys):
    def version(name):
        raise plugin.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(plugin.importlib.metadata, "version", version)
    plugin.warn_about_torchvision()
    assert capsys.readouterr().err == ""


class Tasks:
    """Fake of the module `lmms_eval.tasks`, which scans 2000 YAML files for seconds."""

    def __init__(self, index=()):
        class TaskManager:
            def initialize_tasks(self, include_path=None, include_defaults=True):
                self.looked_in = include_path
                return dict(index)

        self.TaskManager = TaskManager


def test_tasks_are_found_once_however_often_the_hook_is_installed(monkeypatch):
    tasks = Tasks()
    monkeypatch.setitem(sys.modules, "lmms_eval.tasks", tasks)
    for _ in range(3):
        plugin.install_task_discovery()
    manager = tasks.TaskManager()
    manager.initialize_tasks()
    (ours,) = manager.looked_in
    assert (Path(ours) / "streamingbench_mini/_common_yaml").is_file()
    manager.initialize_tasks(include_path="/mine")
    assert manager.looked_in == ["/mine", ours]
    manager.initialize_tasks(include_path=["/mine"], include_defaults=False)
    assert manager.looked_in == ["/mine"]


def test_a_task_that_hides_ours_is_named(monkeypatch, caplog):
    tasks = Tasks({"streamingbench": {"yaml_path": "/elsewhere/sb.yaml"}, "mmmu": {"yaml_path": "/m.yaml"}})
    monkeypatch.setitem(sys.modules, "lmms_eval.tasks", tasks)
    plugin.install_task_discovery()
    tasks.TaskManager().initialize_tasks()
    (record,) = caplog.records
    assert record.getMessage() == "task streamingbench comes from /elsewhere/sb.yaml, not from stc-lmms"


def test_discovery_waits_for_the_import_of_the_tasks():
    code = (
        "import sys; from stc_lmms import plugin as p; p.install_task_discovery();"
        "p.install_task_discovery();"
        "mine = [f for f in sys.meta_path if type(f).__module__ == 'stc_lmms.plugin'];"
        "assert len(mine) == 1 and 'lmms_eval.tasks' not in sys.modules;"
        "import lmms_eval.tasks as t; assert mine[0] not in sys.meta_path;"
        "p.install_task_discovery();"
        "print(t.TaskManager.initialize_tasks.__module__)"
    )
    assert python(code).splitlines()[-1] == "stc_lmms.plugin"
