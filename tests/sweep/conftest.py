"""Sweeps over a made-up benchmark with the tiny checkpoint."""

import os

import pytest
import yaml

from stc_lmms.sweep import folder, spec
from tests.sweep.helpers import TASK, made_up_ovobench


@pytest.fixture
def sweep_file(tmp_path, checkpoint):
    """`sweep_file(**keys)` writes a SWEEP.yaml of one recipe; a key that is None is left out."""

    def make(**keys):
        (tmp_path / "plain.yaml").write_text(
            yaml.safe_dump(
                {"model": "llava_ov_stc", "model_args": f"pretrained={checkpoint},method=none", "tasks": TASK}
                | {"device": "cpu"}
            )
        )
        content = {"output": str(tmp_path / "sweep"), "recipes": ["plain.yaml"], "shards": 3} | keys
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
        return path

    return make


@pytest.fixture
def sweep(sweep_file, tmp_path, monkeypatch):
    """`sweep(videos, **keys)` plans a sweep over so many made-up videos."""

    def make(videos=7, **keys):
        monkeypatch.setenv("STC_OVOBENCH_ROOT", str(made_up_ovobench(tmp_path / "data", videos)))
        wanted = spec.read(sweep_file(**keys))
        return folder.create(wanted.output, spec.make_plan(wanted))

    return make


@pytest.fixture
def program(tmp_path, monkeypatch):
    """`program(name, code)` puts a shell script of that name first in PATH."""
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name, code):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{code}\n")
        (folder / name).chmod(0o755)

    return make
