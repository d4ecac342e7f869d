"""The streaming invariants (a) to (e) of `models/base.py`, for every method, on real-layout checkpoints."""

import itertools
import json

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration

from stc_lmms.errors import CheckpointError, SettingsError, StcError
from stc_lmms.methods.registry import RECIPES
from stc_lmms.models.base import Generation
from stc_lmms.models.decoding import cut
from stc_lmms.models.llava_onevision import LlavaOnevision, check_settings
from stc_lmms.settings import resolve

QUESTION, SHORT = "What is the man doing now?", Generation(max_new_tokens=6)
# One row per method: the arguments that fit the tiny model (36 tokens per frame).
METHODS = {
    "none": {},
    "stc": {"token_budget": 9},
    "stc_cacher": {"cache_interval": 2},
    "stc_pruner": {"token_budget": 12, "strategy": "dual_anchor", "history": "aligned"},
}
every_method = pytest.mark.parametrize("method", METHODS)


def play(model, frames, times_s, pieces=None):
    stream = model.open_stream()
    step = pieces or len(frames)
    for start in range(0, len(frames), step):
        stream.observe(frames[start : start + step], times_s[start : start + step])
    return stream


def logits(stream, question=QUESTION):
    """Logits of the first answer token; leaves the stream as it was."""
    with torch.no_grad():
        before = stream.memory.snapshot()
        out = stream.memory.next_logits(stream.question_embeds(question))
        stream.memory.restore(before)
    return out


def test_every_method_has_a_row_here():
    assert set(METHODS) == set(RECIPES)


@every_method
def test_a_causality(load, clip, method):
    frames, times = clip(7)
    changed = frames.copy()
    changed[5:] = 255 - changed[5:]
    model = load(method=method, **METHODS[method])
    first, second = (play(model, f[:5], times[:5]) for f in (frames, changed))
    assert torch.equal(logits(first), logits(second))
    for stream, f in ((first, frames), (second, changed)):
        stream.observe(f[5:], times[5:])
    assert not torch.allclose(logits(first), logits(second), atol=1e-4)  # the change is visible afterwards


@every_method
def test_b_asking_leaves_the_stream_as_it_was(load, clip, method):
    frames, times = clip(8)
    model = load(method=method, **METHODS[method])
    asked = model.open_stream()
    asked.observe(frames[:3], times[:3])
    size, position = asked.nbytes, asked.position_s
    answers = [asked.ask(QUESTION, SHORT) for _ in range(2)]
    asked.ask("Another, longer question about something else?", SHORT)
    assert answers[0].token_ids == answers[1].token_ids
    assert (asked.nbytes, asked.position_s) == (size, position)
    asked.observe(frames[3:], times[3:])
    silent = model.open_stream()
    silent.observe(frames[:3], times[:3])
    silent.observe(frames[3:], times[3:])
    assert torch.equal(logits(asked), logits(silent))
    assert asked.ask(QUESTION, SHORT).text == silent.ask(QUESTION, SHORT).text


@every_method
def test_c_streams_do_not_mix(load, clip, method):
    model = load(method=method, **METHODS[method])
    clips = [clip(6, seed) for seed in (1, 2)]
    alone = [logits(play(model, *c, pieces=1)) for c in clips]
    woven = [model.open_stream() for _ in clips]
    for i, (stream, (frames, times)) in itertools.product(range(6), zip(woven, clips)):
        stream.observe(frames[i : i + 1], times[i : i + 1])
    for stream, expected in zip(woven, alone):
        assert torch.equal(logits(stream), expected)


def test_d_no_method_equals_the_stock_model(load, clip, checkpoint):
    frames, times = clip(5)
    model = load(method="none")
    stock = LlavaOnevisionForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(
        text=text,
        videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)],
        return_tensors="pt",
        do_sample_frames=False,
    )
    with torch.no_grad():
        expected = stock(**inputs).logits[0, -1]
        generated = stock.generate(**inputs, max_new_tokens=6, do_sample=False)[
            0, inputs["input_ids"].shape[1] :
        ]
    for pieces in (1, 2, 5):
        stream = play(model, frames, times, pieces)
        assert (logits(stream) - expected).abs().max() < 1e-5
        assert list(stream.ask(QUESTION, SHORT).token_ids) == generated.tolist()


@every_method
@pytest.mark.parametrize("pieces", [1, 3, 16])
def test_e_any_cut_gives_the_same_tokens(load, clip, method, pieces):
    frames, times = clip(19)
    model = load(method=method, **METHODS[method])
    whole, parts = play(model, frames, times), play(model, frames, times, pieces)
    assert (logits(whole) - logits(parts)).abs().max() < 1e-5
    assert whole.kept == parts.kept and whole.nbytes == parts.nbytes


def test_no_cacher_interval_one_and_full_ratio_agree(load, clip):
    frames, times = clip(5)
    dense = logits(play(load(method="none"), frames, times))
    for args in ({"cache_interval": 1}, {"update_ratio": 1.0}):
        assert (logits(play(load(method="stc_cacher", **args), frames, times)) - dense).abs().max() < 1e-5


@every_method
def test_reset_and_empty_stream(load, clip, method):
    frames, times = clip(4)
    model = load(method=method, **METHODS[method])
    stream = model.open_stream()
    assert stream.position_s == float("-inf") and stream.nbytes == 0
    blind = stream.ask(QUESTION, SHORT)
    assert blind.efficiency.frames_seen == 0
    stream.observe(frames[:0], [])
    stream.observe(frames, times)
    stream.reset()
    stream.observe(frames, times)
    assert torch.equal(logits(stream), logits(play(model, frames, times)))


def test_rekv_prompt_has_no_newline(load, clip):
    frames, times = clip(2)
    stream = play(load(method="none", prompt="rekv"), frames, times)
    prefix, suffix = stream.model.prompt_parts("Q?")
    assert prefix == "<|im_start|>system \nYou are a helpful assistant.<|im_end|><|im_start|>user "
    assert suffix == "\nQ?<|im_end|><|im_start|>assistant\n"
    assert stream.question_embeds("Q?").shape[0] == stream.model.embed_text(suffix).shape[0]
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
        check_settings(settings)


def test_merge_groups_are_refused_before_weights(checkpoint):
    args = {"pretrained": str(checkpoint), "token_budget": 9, "granularity": "group"}
    with pytest.raises(SettingsError, match="granularity=group needs a tower that merges"):
        check_settings(resolve(args, environ={}))


def test_tower_references_are_reused_after_reset(load, clip):
    frames, times = clip(3)
    stream = play(load(method="stc_cacher"), frames, times)
    first = [block.v.data_ptr() for block in stream.tower_state.references]
    stream.reset()
    stream.observe(frames, times)
    assert [block.v.data_ptr() for block in stream.tower_state.references] == first


def test_missing_and_foreign_checkpoints_are_told_in_one_line(tmp_path):
    def message(pretrained):
        with pytest.raises(CheckpointError) as caught:
            check_settings(resolve({"pretrained": str(pretrained)}, environ={}))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "nobody/nothing" in message("nobody/nothing") and "pretrained=demo" in message("nobody/nothing")
    assert "no usable config.json" in message(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert "'qwen2' checkpoint, not 'llava_onevision'" in message(tmp_path)


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
    assert cut(text, stop) == expected


@pytest.mark.gpu
@every_method
def test_gpu_equals_cpu(load, checkpoint, clip, method):
    frames, times = clip(9)
    args = METHODS[method]
    on_cpu = logits(play(load(method=method, **args), frames, times))
    cuda = LlavaOnevision(
        resolve(
            {"pretrained": str(checkpoint), "method": method, "device": "cuda", "dtype": "float32"} | args, {}
        )
    )
    assert (logits(play(cuda, frames, times)).cpu() - on_cpu).abs().max() < 1e-3
