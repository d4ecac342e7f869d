"""Tiny Qwen-VL models; one set of weights per family."""

import pytest
import transformers

from stc_lmms.models.registry import model
from stc_lmms.settings import resolve
from tests.models.qwen_checkpoint import SMALL, build_checkpoint


@pytest.fixture(scope="session")
def qwen_checkpoint(tmp_path_factory):
    """`qwen_checkpoint(family, layers=3)` is the folder of a random checkpoint."""
    made = {}

    def folder(family, layers=3):
        if not hasattr(transformers, "Qwen3VLForConditionalGeneration") and family == "qwen3_vl":
            pytest.skip("Qwen3-VL needs transformers 4.57")
        if (family, layers) not in made:
            path = tmp_path_factory.mktemp(f"{family}-{layers}")
            made[family, layers] = build_checkpoint(path, family, layers=layers)
        return made[family, layers]

    return folder


@pytest.fixture(scope="session")
def load_qwen(qwen_checkpoint):
    """`load_qwen(name, layers=3, **args)` gives a loaded model; those of a family share their weights."""
    loaded = {}

    def load(name, layers=3, **args):
        family = "qwen2_vl" if name == "livecc" else name
        own = {"pretrained": str(qwen_checkpoint(family, layers)), "device": "cpu", "dtype": "float32"}
        settings = resolve(own | SMALL | args, {}, name)
        if (name, layers) not in loaded:
            loaded[name, layers] = model(name).load_class()(settings)
        return loaded[name, layers].with_settings(settings)

    return load
