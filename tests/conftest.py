"""Fixtures for all tests: tiny checkpoints in the real layout, no network, a cache of their own."""

import os

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # a mistaken hub access fails at once

from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: a second thread only waits
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: its kernels then run on a CPU

for _name in [n for n in os.environ if n.startswith("STC_") and not n.startswith("STC_TEST_")]:
    del os.environ[_name]  # a developer's own settings must not change what tests see

# The mini tasks run on twelve hand-made videos with every quirk of the real annotations.
QUIRKS = Path(__file__).parent / "quirks_data"
os.environ["STC_MINI"] = str(QUIRKS)


def pytest_collection_modifyitems(items):
    """GPU tests are skipped without a GPU, unless STC_TEST_REQUIRE_GPU says that there must be one."""
    if torch.cuda.is_available() or os.environ.get("STC_TEST_REQUIRE_GPU"):
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def private_caches(tmp_path_factory):
    """Nothing is read from or left in the user's caches."""
    root = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root))
        patch.setenv("HF_HOME", str(root / "hf"))
        yield root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of a random LLaVA-OneVision: 12 x 12 patches, 36 tokens per frame."""
    from training.demo.checkpoint import build_checkpoint

    return build_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def load(checkpoint):
    """`load(method=..., **args)` gives a loaded model, one per distinct arguments."""
    from stc_lmms.models.llava_onevision.model import LlavaOnevision
    from stc_lmms.settings import resolve

    loaded = {}

    def load(**args):
        key = tuple(sorted(args.items()))
        if key not in loaded:
            defaults = {"pretrained": str(checkpoint), "device": "cpu", "dtype": "float32"}
            loaded[key] = LlavaOnevision(resolve(defaults | args, environ={}))
        return loaded[key]

    return load


@pytest.fixture
def clip():
    """`clip(n)`: n frames uint8 [n,60,80,3] of a drifting noisy scene, and their times every 2 s."""

    def make(count, seed=0):
        rng = np.random.default_rng(seed)
        scene = rng.integers(40, 200, (60, 120, 3))
        frames = [scene[:, i : i + 80] + rng.normal(0, 6, (60, 80, 3)) for i in range(count)]
        return np.clip(np.stack(frames), 0, 255).astype(np.uint8), [2.0 * i for i in range(count)]

    return make
