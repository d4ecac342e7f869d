"""Loading a checkpoint by name when there is no network."""

import time

import pytest
import torch

from stc_lmms import compat
from stc_lmms.errors import CheckpointError


@pytest.fixture
def no_network(monkeypatch):
    """A hub that is not told to be offline, and cannot be reached."""

    def unreachable(*args, **kwargs):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(compat.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(compat.HfApi, "model_info", unreachable)


def test_a_hub_that_cannot_be_reached_is_told_at_once(no_network, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it tries again for half a minute"))
    with pytest.raises(CheckpointError) as caught:
        compat.load_config("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava_onevision")
    message = str(caught.value)
    assert "not reachable at) the model hub" in message and "Name or service not known" in message
    assert "\n" not in message and "give a folder with a llava_onevision checkpoint" in message


def test_a_local_folder_needs_no_hub(no_network, checkpoint):
    assert compat.load_config(str(checkpoint), "llava_onevision").model_type == "llava_onevision"


def test_the_models_own_attention_is_back_after_a_hook(load):
    llm = load(method="none").llm
    embeds = llm.embed(torch.arange(4))

    def broken(*args):
        raise RuntimeError("in the middle")

    with torch.no_grad():
        before = llm.hidden(embeds, None)
        with pytest.raises(RuntimeError, match="in the middle"):
            llm.hidden(embeds, None, broken)
        seen = []
        llm.hidden(embeds, None, lambda layer, q, k, v, scale: seen.append((layer, k.shape)) or q)
        assert torch.equal(llm.hidden(embeds, None), before)
    assert seen == [(0, (2, 4, 16)), (1, (2, 4, 16))]
