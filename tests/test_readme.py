"""Figures and tables in the README are those of the recorded JSON and the registry."""

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("script", ["readme_blocks", "demo_results"])
def test_generated_text_and_figures_are_up_to_date(script):
    done = subprocess.run([sys.executable, f"scripts/{script}.py", "--check"], cwd=REPO, check=False)
    assert done.returncode == 0, f"run: python scripts/{script}.py"


def test_every_model_argument_is_documented():
    from stc_lmms.memory.registry import MEMORIES, fields
    from stc_lmms.methods.registry import RECIPES
    from stc_lmms.models.registry import MODELS
    from stc_lmms.settings import option_fields, resolve

    text = (REPO / "README.md").read_text(encoding="utf-8")
    names = {name for recipe in RECIPES.values() for name in recipe.fields} | set(resolve({}, {}).flat())
    names |= {name for memory in MEMORIES for name in fields(memory)}
    names |= {name for model in MODELS.values() for name in option_fields(model)}
    undocumented = {name for name in names if f"`{name}`" not in text}
    assert not undocumented
