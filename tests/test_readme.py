"""Figures and tables in the documents match the recorded JSON and the registries."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("script", ["readme_blocks", "demo_results"])
def test_generated_text_and_figures_are_up_to_date(script):
    done = subprocess.run([sys.executable, f"scripts/{script}.py", "--check"], cwd=REPO, check=False)
    assert done.returncode == 0, f"run: python scripts/{script}.py"


def test_configurations_without_a_result_are_named_under_the_table(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPO / "scripts")
    import demo_results

    ran = {"name": "none", "method": "none", "budget": None, "varied": {}, "n": 1}
    ran |= {"llm_tokens_mean": 36.0, "llm_tokens_max": 36, "recomputed": 100.0}
    no_fit = {"name": "a_18", "method": "a", "budget": 18, "varied": {}, "trouble": "no fit", "skipped": True}
    broke = no_fit | {"method": "b", "budget": None, "varied": {"k": "2"}, "trouble": "it broke"}
    monkeypatch.setattr(demo_results, "RESULTS", tmp_path)
    monkeypatch.setattr(demo_results, "headline", lambda: ("OCR",))
    (tmp_path / "methods").mkdir()
    asked = [["ovobench", f"{i}.mp4", "1", "OCR"] for i in range(2)]
    scores = {"questions": asked, "scores": {"none": [1.0, 1.0]}}
    (tmp_path / "methods" / "scores.json").write_text(json.dumps(scores))

    def last_line(*rows):
        (tmp_path / "methods" / "compare.json").write_text(json.dumps({"rows": rows}))
        return demo_results.methods_block().splitlines()[-1]

    assert last_line(ran).startswith("| `none` |")
    omitted = last_line(no_fit, ran, broke | {"skipped": False})
    assert omitted == "Not in the table: `a` at 18 tokens (skipped: no fit); `b` at k=2 (failed: it broke)."


def test_every_model_argument_is_documented():
    from stc_lmms.memory.registry import MEMORIES, fields
    from stc_lmms.methods.registry import METHODS
    from stc_lmms.models.registry import MODELS
    from stc_lmms.settings import resolve

    text = (REPO / "README.md").read_text(encoding="utf-8")
    names = {name for method in METHODS.values() for name in method.fields} | set(resolve({}, {}).flat())
    names |= {name for memory in MEMORIES for name in fields(memory)}
    names |= {name for model in MODELS.values() for name in model.option_fields}
    undocumented = {name for name in names if f"`{name}`" not in text}
    assert not undocumented
