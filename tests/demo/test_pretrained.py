"""The files of a shipped checkpoint are checked before they are used."""

import dataclasses
import json
import shutil

import pytest

from stc_lmms.demo import pretrained
from stc_lmms.demo.pretrained import CARD, CHECKSUMS, NAME, check, demo_folder, is_demo
from stc_lmms.engine.api import checkpoint
from stc_lmms.errors import CheckpointError
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.settings import resolve
from training.demo.export import write_checksums


@pytest.fixture
def written(tmp_path):
    """A folder with a list of its checksums, and that of the list."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path, write_checksums(tmp_path)


def told(folder, sha256, cure="reinstall stc-lmms"):
    with pytest.raises(CheckpointError) as caught:
        check(folder, sha256)
    assert "\n" not in str(caught.value) and cure in str(caught.value)
    return str(caught.value)


def test_whole_files_pass(written):
    folder, sha256 = written
    check(folder, sha256)
    assert write_checksums(folder) == sha256  # does not list itself
    assert len((folder / CHECKSUMS).read_text().splitlines()) == 2


@pytest.mark.parametrize("content", [b"", b"weight", b"Weights", b"weights and more"])
def test_a_damaged_or_swapped_file_is_named(written, content):
    folder, sha256 = written
    (folder / "model.safetensors").write_bytes(content)
    assert f"{folder / 'model.safetensors'} is damaged or not the shipped file" in told(folder, sha256)


@pytest.mark.parametrize("change", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b + b"\xff\n"])
def test_a_damaged_list_is_no_way_around(written, change):
    folder, sha256 = written
    path = folder / CHECKSUMS
    path.write_bytes(change(path.read_bytes()))
    assert f"{path} is damaged or not the shipped file" in told(folder, sha256)


def test_a_missing_file_is_named(written):
    folder, sha256 = written
    (folder / "config.json").unlink()
    assert f"lacks {folder / 'config.json'}" in told(folder, sha256)
    assert f"lacks {folder / 'nowhere' / CHECKSUMS}" in told(folder / "nowhere", sha256)


@pytest.mark.parametrize("name", ["adapter_config.json", "a.txt", ".hidden", "z/additional.jinja"])
def test_a_file_that_is_not_listed_is_named(written, name):
    folder, sha256 = written
    (folder / CARD).write_text("the card may be there")
    check(folder, sha256)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    wanted = f"{folder / name.split('/')[0]} is not part of the demo checkpoint"
    assert wanted in told(folder, sha256, "delete it")


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the shipped folder that `pretrained=demo` now means."""
    folder = shutil.copytree(demo_folder(), tmp_path / "copy")
    # an absolute path is joined to nothing
    variant = dataclasses.replace(pretrained.VARIANTS[NAME], folder=str(folder))
    monkeypatch.setattr(pretrained, "VARIANTS", {NAME: variant})
    demo_folder.cache_clear()
    yield folder
    demo_folder.cache_clear()


def flip_a_weight(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap_the_tokenizer(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content), encoding="utf-8")  # says the same in other bytes, and would load


def add_a_file(folder):
    (folder / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip_a_weight, "model.safetensors is damaged or not the shipped file"),
        (swap_the_tokenizer, "tokenizer.json is damaged or not the shipped file"),
        (add_a_file, "adapter_config.json is not part of the demo checkpoint"),
    ],
)
def test_loading_a_model_checks_the_files(copied, change, message):
    settings = resolve({"pretrained": NAME, "method": "none", "device": "cpu"}, environ={})
    assert checkpoint(settings) == str(copied)  # whole as yet
    demo_folder.cache_clear()
    change(copied)
    with pytest.raises(CheckpointError) as caught:
        LlavaOnevision(settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_variant_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"unknown demo variant 'demo-gpu'.*demo"):
        demo_folder("demo-gpu")
    assert is_demo("demo") and is_demo("demo-gpu")
    assert not is_demo("democracy/model") and not is_demo("./demo")
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "demo-mine"):
        (tmp_path / name).mkdir()
    assert not is_demo("demo-mine")  # a folder of the user's
    assert is_demo("demo") and not is_demo("./demo")
