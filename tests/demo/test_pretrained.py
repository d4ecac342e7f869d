"""The files of a shipped checkpoint are checked before they are used."""

import pytest

from stc_lmms.demo.pretrained import CHECKSUMS, check, demo_folder, is_demo, write_checksums
from stc_lmms.errors import CheckpointError


@pytest.fixture
def written(tmp_path):
    """A folder with a list of its checksums, and that of the list."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path, write_checksums(tmp_path)


def told(folder, sha256):
    with pytest.raises(CheckpointError) as caught:
        check(folder, sha256)
    assert "\n" not in str(caught.value) and "reinstall stc-lmms" in str(caught.value)
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
