"""Figures and tables in the README are those of the recorded JSON and the registry."""

import importlib.util
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def test_generated_blocks_are_up_to_date():
    spec = importlib.util.spec_from_file_location("readme_blocks", REPO / "scripts" / "readme_blocks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (REPO / "README.md").read_text(encoding="utf-8")
    assert module.fill(text) == text, "run: python scripts/readme_blocks.py"


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
