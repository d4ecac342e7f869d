"""Methods of other packages, and the table of all methods."""

import json
import sys

import pytest

from stc_lmms.cli.main import main
from stc_lmms.errors import SettingsError
from stc_lmms.methods import registry
from stc_lmms.methods.registry import METHODS, MethodSpecs
from stc_lmms.settings import resolve


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(name=target)` makes a package with these entry points; gives the registry that sees them."""

    list(METHODS)  # the real registry looks once, and must not find what is made here

    def install(modules, **points):
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        info = tmp_path / "other-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
        lines = "".join(f"{name} = {target}\n" for name, target in points.items())
        (info / "entry_points.txt").write_text(f"[stc_lmms.methods]\n{lines}")
        monkeypatch.syspath_prepend(str(tmp_path))
        found = MethodSpecs()
        monkeypatch.setattr(registry, "METHODS", found)
        return found

    yield install
    for name in [n for n in sys.modules if n.startswith("other_")]:
        del sys.modules[name]


def test_plug_ins_are_imported_only_when_somebody_looks(install):
    found = install({"other_lazy": "raise RuntimeError('imported')"}, lazy="other_lazy:METHOD")
    assert found["stc"].name == "stc" and "other_lazy" not in sys.modules
    assert "_all" not in vars(found)


def test_a_broken_plug_in_is_one_warning_line(install, caplog):
    head = "from stc_lmms.methods.spec import MethodSpec\n"
    found = install(
        {
            "other_broken": "import nothing_of_that_name",
            "other_kind": "METHOD = 'text'",
            "other_clash": head + "METHOD = MethodSpec('stc', 'mine')",
            "other_twice": head + "METHOD = MethodSpec('good', 'again')",
            "other_unbuildable": head + "METHOD = MethodSpec('bad', 'x', token=int)",
            "other_good": head + "METHOD = MethodSpec('good', 'works')",
        },
        a="other_broken:METHOD",
        b="other_kind:METHOD",
        c="other_clash:METHOD",
        d="other_good:METHOD",
        e="other_twice:METHOD",
        f="other_unbuildable:METHOD",
        g="other_good:NOTHING",
    )
    assert list(found) == [*METHODS, "good"] and found["stc"].summary == METHODS["stc"].summary
    lines = [record.getMessage() for record in caplog.records if "plug-in" in record.getMessage()]
    assert len(lines) == 6 and not any("\n" in line for line in lines)
    expected_lines = (
        "nothing_of_that_name",
        "is a str",
        "called 'stc' already",
        "called 'good' already",
        "",
        "NOTHING",
    )
    for line, expected in zip(lines, expected_lines, strict=True):
        assert "is left out" in line and expected in line


def test_a_field_that_every_model_has_is_refused(install, monkeypatch):
    text = (
        "from dataclasses import dataclass\n"
        "from stc_lmms.methods.controls import Uniform\n"
        "from stc_lmms.methods.spec import MethodSpec\n"
        "@dataclass(frozen=True)\nclass Fast(Uniform):\n    fps: float = 9.0\n"
        "METHOD = MethodSpec('fast', 'x', token=Fast)\n"
    )
    monkeypatch.setattr("stc_lmms.settings.METHODS", install({"other_fast": text}, fast="other_fast:METHOD"))
    with pytest.raises(SettingsError, match=r"method 'fast' has a field called 'fps'.*rename it"):
        resolve({"method": "fast"}, environ={})


def test_the_table_says_what_the_methods_say(capsys):
    assert main(["methods", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in printed["memories"]] == ["full", "recent", "rekv", "bounded"]
    found = {row["name"]: row for row in printed["methods"]}
    assert set(found) >= set(METHODS)
    assert found["stc"]["slots"] == ["tower", "tokens"] and found["stc"]["paper"] == "2512.00891"
    assert found["stc"]["defaults"]["token_budget"] == 64
    assert found["uniform_frames"]["memories"] == ["full", "recent", "rekv", "bounded"]
    assert [n for n, row in found.items() if row["attention_weights"]] == ["visionzip"]
    assert {n for n, row in found.items() if row["budget"] == "none"} == {"none", "stc_cacher"}
    assert all(row["causal"] for row in found.values())
    whole = METHODS["vidcom2"].build({"mode": "original"})
    assert whole.budget == "on average" and whole.token.delay_frames == 15


def test_the_table_for_people(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["method", "slots", "causal"]
    assert any(line.startswith("tome ") and "per frame" in line for line in lines)
    assert "vidcom2            token_budget=64, mode=causal, window=16" in lines
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in METHODS)
