"""LLaVA-OneVision beyond the shared matrix (`tests/methods/test_matrix.py`), on real-layout checkpoints."""

import json

import numpy as np
import pytest

from stc_lmms.engine.decoding import truncate_at_stop
from stc_lmms.errors import CheckpointError, SettingsError, StcError
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.settings import resolve
from tests.methods.streams import QUESTION, SHORT, logits, play, prompt_embeds


def test_no_cacher_interval_one_and_full_ratio_agree(load, clip):
    frames, times = clip(5)
    dense = logits(play(load(method="none"), frames, times))
    for args in ({"cache_interval": 1}, {"update_ratio": 1.0}):
        assert (logits(play(load(method="stc_cacher", **args), frames, times)) - dense).abs().max() < 1e-5


def test_rekv_prompt_has_no_newline(load, clip):
    frames, times = clip(2)
    stream = play(load(method="none", prompt="rekv"), frames, times)
    prefix, suffix = stream.model.prompt_parts("Q?")
    assert prefix == "<|im_start|>system \nYou are a helpful assistant.<|im_end|><|im_start|>user "
    assert suffix == "\nQ?<|im_end|><|im_start|>assistant\n"
    assert prompt_embeds(stream, "Q?").shape[0] == stream.model.embed_text(suffix).shape[0]
    assert stream.memory.length == 2 * 36 + stream.model.embed_text(prefix).shape[0]


def test_efficiency_counts(load, clip):
    frames, times = clip(9)
    model = load(method="stc", token_budget=9, cache_interval=4, update_ratio=0.25)
    stream = play(model, frames[:5], times[:5])
    first = stream.ask(QUESTION, SHORT).efficiency
    stream.observe(frames[5:], times[5:])
    second = stream.ask(QUESTION, SHORT).efficiency
    assert (first.frames_seen, first.frames_encoded) == (5, 5)
    assert (second.frames_seen, second.frames_encoded) == (9, 4)
    assert first.tower_tokens == 5 * 144 and first.tower_tokens_recomputed == 2 * 144 + 3 * 36
    assert second.tower_tokens_recomputed == 144 + 3 * 36
    assert first.llm_tokens_mean == first.llm_tokens_max == 9
    assert all(
        getattr(first, name) > 0 for name in ("vit_ms", "project_ms", "method_ms", "prefill_ms", "ttft_ms")
    )
    assert second.kv_bytes > first.kv_bytes and second.state_bytes > second.kv_bytes
    assert second.new_tokens == 6 and second.per_token_ms > 0


def test_max_frames_refuses_in_one_line(load, clip):
    with pytest.raises(StcError, match="max_frames=3"):
        play(load(method="none", max_frames=3), *clip(4))


def test_time_never_goes_back(load, clip):
    frames, times = clip(3)
    stream = play(load(method="none"), frames, times)
    with pytest.raises(ValueError, match="only goes forward"):
        stream.observe(frames[:1], [4.0])
    with pytest.raises(ValueError, match="uint8"):
        stream.observe(frames[:1].astype(np.float32), [9.0])
    with pytest.raises(ValueError, match="1 frames but 2 time stamps"):
        stream.observe(frames[:1], [9.0, 10.0])


def test_budget_above_the_tokens_of_a_frame_fails_before_weights(checkpoint):
    settings = resolve({"pretrained": str(checkpoint), "token_budget": 64}, environ={})
    with pytest.raises(SettingsError, match="token_budget=64 is more than the 36 tokens"):
        LlavaOnevision.check(settings)


def test_merge_groups_are_refused_before_weights(checkpoint):
    args = {"pretrained": str(checkpoint), "token_budget": 9, "granularity": "group"}
    with pytest.raises(SettingsError, match="granularity=group needs a tower that merges"):
        LlavaOnevision.check(resolve(args, environ={}))


def test_tower_references_are_reused_after_reset(load, clip):
    frames, times = clip(3)
    stream = play(load(method="stc_cacher"), frames, times)
    first = [block.v.data_ptr() for block in stream.encoder.state.references]
    stream.reset()
    stream.observe(frames, times)
    assert [block.v.data_ptr() for block in stream.encoder.state.references] == first


def test_missing_and_foreign_checkpoints_are_told_in_one_line(tmp_path):
    def message(pretrained):
        with pytest.raises(CheckpointError) as caught:
            LlavaOnevision.check(resolve({"pretrained": str(pretrained)}, environ={}))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "nobody/nothing" in message("nobody/nothing") and "pretrained=demo" in message("nobody/nothing")
    assert "no usable config.json" in message(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert "'qwen2' checkpoint, not 'llava_onevision'" in message(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_qwen"}))  # not in transformers
    assert "'llava_qwen' checkpoint, not 'llava_onevision'" in message(tmp_path)


def test_incomplete_weights_are_refused(checkpoint, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    weights = load_file(broken / "model.safetensors")
    weights.pop(next(name for name in weights if "multi_modal_projector.linear_1.weight" in name))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights.*linear_1"):
        LlavaOnevision(resolve({"pretrained": str(broken), "method": "none", "device": "cpu"}, environ={}))
    (broken / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot load the weights"):
        LlavaOnevision(resolve({"pretrained": str(broken), "method": "none", "device": "cpu"}, environ={}))


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("A\n\nbecause", ("\n\n",), ("A", True)),
        ("\n\nA", ("\n\n",), ("\n\nA", False)),  # leading white space is no answer yet
        ("A. B;", (";", "."), ("A", True)),
        ("A", (), ("A", False)),
    ],
)
def test_stop_strings(text, stop, expected):
    assert truncate_at_stop(text, stop) == expected
