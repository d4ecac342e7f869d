"""The parser is built from the modules of the package `stc_lmms.cli`."""

import importlib
import subprocess
import sys

import pytest

from stc_lmms.cli.main import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_explains_itself(name, capsys):
    command = importlib.import_module(f"stc_lmms.cli.{name}")
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert command.DESCRIPTION[:40] in capsys.readouterr().out


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name in COMMANDS:
        assert f"{name} {importlib.import_module(f'stc_lmms.cli.{name}').HELP}" in shown


def test_the_removed_command_names_its_successor(capsys):
    assert main(["verify", "tests/golden"]) == 2
    assert "python -m parity" in capsys.readouterr().err


def test_recipes_are_listed_without_torch():
    code = (
        "import sys; from stc_lmms.cli.main import main; code = main(['run', '--list'])\n"
        "print(code, {'torch', 'transformers', 'lmms_eval'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "0 set()" and shown.startswith("demo_none ")
