"""The files of a shipped checkpoint are checked before they are used."""

import pytest

from stc_lmms.demo.pretrained import CHECKSUMS, check, demo_folder, is_demo, write_checksums
from stc_lmms.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    write_checksums(tmp_path)
    return tmp_path


def told(folder):
    with pytest.raises(CheckpointError) as caught:
        check(folder)
    assert "\n" not in str(caught.value) and "reinstall stc-lmms" in str(caught.value)
    return str(caught.value)


def test_whole_files_pass(folder):
    check(folder)
    write_checksums(folder)  # does not list itself
    check(folder)
    assert len((folder / CHECKSUMS).read_text().splitlines()) == 2


@pytest.mark.parametrize("content", [b"", b"weight", b"Weights", b"weights and more"])
def test_a_damaged_or_swapped_file_is_named(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    assert f"{folder / 'model.safetensors'} is damaged or not the shipped file" in told(folder)


def test_a_missing_file_is_named(folder):
    (folder / "config.json").unlink()
    assert f"lacks {folder / 'config.json'}" in told(folder)
    assert "is not in" in told(folder / "nowhere")


def test_an_unknown_variant_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"unknown demo variant 'demo-gpu'.*demo"):
        demo_folder("demo-gpu")
    assert is_demo("demo") and is_demo("demo-gpu")
    assert not is_demo("democracy/model") and not is_demo("./demo")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo-mine").mkdir()
    assert not is_demo("demo-mine")  # a folder of the user's
