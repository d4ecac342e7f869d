"""Fixtures for `stc-vlmeval`."""

import sys

import pytest

from stc_lmms.eval.vlmeval import command as vlmeval


@pytest.fixture
def run(monkeypatch, tmp_path):
    """`run(*arguments)`: the command in this process, in a folder of its own; its exit status."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["stc-vlmeval", *map(str, arguments)])
        return vlmeval.main()

    return run


@pytest.fixture
def no_model(monkeypatch):
    """Fails the test when weights are loaded."""
    vlmeval.import_vlmeval()  # first, for it sees to the certificate checks
    from stc_lmms.eval.vlmeval.model import StcVLM

    monkeypatch.setattr(StcVLM, "load", lambda self: pytest.fail("weights were loaded"))
