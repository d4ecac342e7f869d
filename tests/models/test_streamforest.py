"""StreamForest on a tiny checkpoint in the released layout, loaded from disk as the real one is."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stc_lmms.engine.api import Generation
from stc_lmms.engine.live import Schedule, play
from stc_lmms.errors import CheckpointError, SettingsError, StcError
from stc_lmms.eval.session import Clip, VideoSession
from stc_lmms.models.checkpoint_io import load_tokenizer
from stc_lmms.models.streamforest.config import StreamForestSpec
from stc_lmms.models.streamforest.model import StreamForest
from stc_lmms.settings import resolve
from tests import media
from tests.engine.test_graphs import Replayed
from training.demo.streamforest_checkpoint import build_streamforest

QUESTION, SHORT = "What is the man doing now?", Generation(max_new_tokens=4)
# The memory of a 6x6 grid in miniature: events appear after 8 frames and merge after some more.
MEMORY = {
    "now_tokens": 36,
    "short_frames": 4,
    "short_tokens": 12,
    "event_window": 3,
    "long_tokens": 6,
    "long_quota": 36,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """6 x 6 patches."""
    return build_streamforest(tmp_path_factory.mktemp("forest"), image_size=48, patch_size=8)


@pytest.fixture(scope="module")
def load(folder):
    """`load(**args)` gives a loaded model in float64, where rounding decides nothing."""
    first = []

    def load(**args):
        defaults = {"pretrained": str(folder), "device": "cpu", "dtype": "float64", "method": "none"}
        settings = resolve(defaults | MEMORY | args, {}, model="streamforest")
        if not first:
            first.append(StreamForest(settings))
        return first[0].with_settings(settings)

    return load


def watched(model, frames, times_s, step=None):
    stream = model.open_stream()
    step = step or len(frames)
    for start in range(0, len(frames), step):
        stream.observe(frames[start : start + step], times_s[start : start + step])
    return stream


CACHER = {"method": "stc_cacher", "cache_interval": 3, "update_ratio": 0.25}


@pytest.mark.parametrize("args", [{}, {"consolidate": "frame"}, CACHER], ids=str)
def test_streaming_equals_batch_and_questions_equal_prefixes(load, clip, args):
    model, (frames, times_s) = load(**args), clip(26)
    whole = watched(model, frames, times_s)
    wanted = whole.visual_tokens()
    assert len(whole.forest.events) > 1 and len(wanted) < 26 * 6 + 4 * 12 + 36
    for step in (1, 3):
        assert (watched(model, frames, times_s, step).visual_tokens() - wanted).abs().max() < 1e-9
    stream, other = model.open_stream(), watched(model, frames[::-1].copy(), times_s)
    for start in range(0, 26, 9):  # two streams at once, and questions on the way
        stream.observe(frames[start : start + 9], times_s[start : start + 9])
        answer = stream.ask(QUESTION, SHORT)
        assert stream.ask(QUESTION, SHORT).token_ids == answer.token_ids
        other.ask(QUESTION, SHORT)
        end = min(start + 9, 26)
        prefix = watched(model, frames[:end], times_s[:end])
        assert (prefix.visual_tokens() - stream.visual_tokens()).abs().max() < 1e-9
        assert prefix.ask(QUESTION, SHORT).token_ids == answer.token_ids
    stream.reset()
    stream.observe(frames, times_s)
    assert (stream.visual_tokens() - wanted).abs().max() < 1e-9


def test_cacher_grouped_live_and_frame_by_frame_agree(load, clip):
    frames, times_s = clip(10)
    model = load(**CACHER)
    grouped = watched(model, frames, times_s)
    model.capture = Replayed()
    live = watched(model, frames, times_s, 1)
    assert (live.visual_tokens() - grouped.visual_tokens()).abs().max() < 1e-9
    got = [stream.ask(QUESTION, SHORT) for stream in (grouped, live)]
    assert got[0].token_ids == got[1].token_ids
    costs = [answer.efficiency for answer in got]
    assert [cost.frames_graphed for cost in costs] == [0, 10]
    assert [cost.tower_tokens_recomputed for cost in costs] == [4 * 36 + 6 * 9] * 2
    dense = watched(load(), frames, times_s).visual_tokens()
    everything = watched(load(**CACHER | {"update_ratio": 1.0}), frames, times_s).visual_tokens()
    assert (everything - dense).abs().max() < 1e-9
    assert (grouped.visual_tokens() - dense).abs().max() > 1e-6


def test_the_context_is_prefix_tokens_time_and_question(load, clip):
    frames, times_s = clip(3)
    model = load()
    stream = watched(model, frames, times_s)
    answer = stream.ask("Q?", Generation(max_new_tokens=2, opening="So "))
    before = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    sentence = (
        "The video contains 3 frames sampled from the past 4.0 seconds ago (0.0s of the entire video) "
        "up to the present moment (4.0s of the entire video)."
    )
    behind = f"\n\n{sentence} Q?<|im_end|>\n<|im_start|>assistant\nSo "
    visual = 36 + 2 * 12
    cost = answer.efficiency
    assert cost.context_tokens == sum(len(model.embed_text(x)) for x in (before, behind)) + visual
    assert cost.llm_tokens_mean == visual / 3 and cost.llm_tokens_max == 36
    assert stream.progress.llm_tokens_mean == visual / 3
    embeds = torch.cat((model.embed_text(before), stream.visual_tokens(), model.embed_text(behind)))
    logits = model.llm.head(model.llm.hidden(embeds, model.llm.new_cache())[-1])
    assert int(logits.argmax()) == answer.token_ids[0]
    bare = watched(load(time_text="none"), frames, times_s).ask("Q?", SHORT).efficiency
    assert cost.context_tokens - bare.context_tokens == len(model.embed_text(f"\n{sentence} So "))


def test_efficiency_and_bytes(load, clip):
    frames, times_s = clip(12)
    stream = watched(load(), frames[:8], times_s[:8])
    held = stream.nbytes
    assert held == stream.forest.nbytes
    first = stream.ask(QUESTION, SHORT).efficiency
    assert stream.nbytes == held + first.kv_bytes == first.state_bytes
    again = stream.ask(QUESTION, SHORT).efficiency
    assert (again.frames_encoded, again.prefill_ms) == (0, 0.0)  # nothing new is read
    stream.observe(frames[8:], times_s[8:])
    assert stream.nbytes == stream.forest.nbytes
    second = stream.ask(QUESTION, SHORT).efficiency
    assert (first.frames_encoded, second.frames_seen, second.frames_encoded) == (8, 12, 4)
    assert all(getattr(first, name) > 0 for name in ("vit_ms", "project_ms", "method_ms", "prefill_ms"))
    assert first.ttft_ms > first.prefill_ms


def test_what_a_stream_refuses(load, clip):
    frames, times_s = clip(3)
    with pytest.raises(StcError, match="no frame has come"):
        load().open_stream().ask(QUESTION)
    with pytest.raises(StcError, match="max_frames=2"):
        watched(load(max_frames=2), frames, times_s)
    with pytest.raises(ValueError, match="only goes forward"):
        watched(load(), frames, times_s).observe(frames[:1], [1.0])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"method": "stc_pruner"},
            "method=stc_pruner drops tokens.*use method=stc_cacher or method=none",
        ),
        (
            {"method": "stc", "token_budget": 9},
            "method=stc drops tokens, but StreamForest's memory merges",
        ),
        ({"method": "tome", "token_budget": 9}, "method=tome changes the number of patches.*all 6x6"),
        ({"method": "downsample", "token_budget": 4}, "method=downsample changes the number of patches"),
        ({"method": "stc_cacher", "granularity": "group"}, "granularity=group needs a tower that merges"),
        ({"now_tokens": 729}, "now_tokens=729 is more than the 36 tokens that a frame has in the tower"),
        ({"memory": "rekv"}, "memory=rekv does not fit streamforest, whose own memory, forest, is part of"),
        ({"pretrained": "demo"}, "pretrained=demo is a checkpoint of llava_ov"),
        ({"grid": "dynamic"}, "did you mean 'dynamic_fps1'?"),
        ({"long_qota": 3}, "did you mean 'long_quota'?"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_before_weights(folder, args, message):
    with pytest.raises(SettingsError, match=message) as caught:
        StreamForest.check(resolve({"pretrained": str(folder)} | MEMORY | args, {}, model="streamforest"))
    assert "\n" not in str(caught.value)


def edit(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def without(folder, prefix, change=None):
    """Take the weights under a prefix out of all shards and the index, or change them."""
    for path in folder.glob("*.safetensors"):
        kept = {}
        for name, x in load_file(path).items():
            if not name.startswith(prefix):
                kept[name] = x
            elif change is not None:
                kept[name] = change(x)
        save_file(kept, path, {"format": "pt"})


def more(folder, *names):
    """Add weights; a folder without an index is read whole."""
    (folder / "model.safetensors.index.json").unlink()
    save_file({name: torch.zeros(1) for name in names}, folder / "model-more.safetensors", {"format": "pt"})


def test_scaled_positions_are_not_read_as_released(folder):
    fields = json.loads((folder / "config.json").read_text())
    scaled = fields | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    plain, same = (StreamForestSpec.of(folder, each).text.to_dict() for each in (fields, scaled))
    assert same == plain


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("["), "config.json cannot be read"),
        (
            lambda f: edit(f, model_type="llava_onevision"),
            "is a 'llava_onevision' checkpoint, not a StreamForest",
        ),
        (
            lambda f: edit(f, mm_projector_type="tome16_mlp"),
            "projector 'tome16_mlp', which has no event memory",
        ),
        (lambda f: edit(f, mm_hidden_size=1024), "mm_hidden_size=1024, StreamForest's tower"),
        (
            lambda f: (f / "model-00002-of-00002.safetensors").unlink(),
            "lacks model-00002-of-00002.safetensors",
        ),
        (
            lambda f: (f / "model-00001-of-00002.safetensors").write_bytes(b"x" * 99),
            "model-00001-of-00002.safetensors cannot be read",
        ),
        (
            lambda f: [path.unlink() for path in [*f.glob("*.safetensors"), *f.glob("*.index.json")]],
            "has no weights as safetensors files",
        ),
        (
            lambda f: without(f, "model.vision_tower."),
            r"lacks weights.*vision: .*mm_vision_tower='/checkpoints/of.* is not read",
        ),
        (lambda f: without(f, "model.mm_projector.mlp.2.bias"), "others: projector: 2.bias"),
        (
            lambda f: without(f, "model.mm_projector.mlp.2.weight", lambda x: x[:5].clone()),
            r"2.weight \(has \[5, 64\], needs \[64, 64\]\)",
        ),
        (lambda f: without(f, "model.norm"), "others: decoder: model.norm.weight"),
        (lambda f: more(f, "model.vision_tower.vision_tower.vision_model.head.probe"), "head.probe is unex"),
        (lambda f: more(f, "model.mm_projector.mlp.4.weight"), "projector: 4.weight is unexpected"),
        (
            lambda f: more(f, "model.layers.9.mlp.up_proj.weight"),
            "decoder: model.layers.9.mlp.up_proj.weight is unexpected",
        ),
    ],
)
def test_a_wrong_checkpoint_is_one_line_before_weights(folder, tmp_path, break_it, message):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    break_it(broken)
    settings = resolve({"pretrained": str(broken), **MEMORY}, {}, model="streamforest")
    with pytest.raises(CheckpointError, match=message) as caught:
        StreamForest.check(settings)
    assert "\n" not in str(caught.value)


def test_nowhere_is_one_line():
    with pytest.raises(CheckpointError, match="'nobody/nothing' is not a local folder"):
        StreamForest.check(resolve({"pretrained": "nobody/nothing"}, {}, model="streamforest"))


def test_weights_that_nothing_reads_are_told(folder, tmp_path, caplog):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    more(copy, "model.extra.weight", "model.layers.0.self_attn.rotary_emb.inv_freq")
    without(copy, "model.vision_tower.vision_tower.vision_model.post_layernorm.")  # never read
    StreamForest.check(resolve({"pretrained": str(copy), **MEMORY}, {}, model="streamforest"))
    assert "1 weights that no StreamForest has: model.extra.weight" in caplog.text


def test_the_released_grid_spreads_frames_over_each_clip(load, tmp_path):
    """Real video: every question's clip is sampled anew, at the original's indices."""
    video = media.encode_video(tmp_path / "v.mp4", media.numbered_frames(80), 10)
    model, seen = load(grid="dynamic_fps1", time_text="none"), []
    real_stream = model.open_stream

    def open_stream():
        stream = real_stream()
        observe = stream.observe

        def note(frames, times_s):
            seen.extend(map(media.read_number, frames))
            observe(frames, times_s)

        stream.observe = note
        return stream

    model.open_stream = open_stream
    player = VideoSession(model)
    for clip, wanted in (
        (Clip(str(video)), model.select_frames(80, 10.0, None)),
        (Clip(str(video), 0.0, 5.0), model.select_frames(80, 10.0, (0.0, 5.0))),
        (Clip(str(video), 2.0, 6.0), model.select_frames(80, 10.0, (2.0, 6.0))),
    ):
        seen.clear()
        answer, _ = player.ask(QUESTION, clip, SHORT)
        assert seen == wanted and answer.efficiency.frames_seen == len(wanted)
        assert player.ask("Again?", clip, SHORT)[0].efficiency.frames_encoded == 0
    player.close()
    assert len(model.select_frames(80, 10.0, (0.0, 5.0))) == 6
    with pytest.raises(SettingsError, match="use grid=fixed"):
        next(play(model, None, Schedule(("Q?",)), SHORT))


def test_a_fixed_grid_reads_on(load, tmp_path):
    video = str(media.encode_video(tmp_path / "v.mp4", media.moving_square_frames(80), 10))
    player = VideoSession(load(fps=1.0))
    first = player.ask(QUESTION, Clip(video, 0.0, 4.0), SHORT)[0].efficiency
    second = player.ask(QUESTION, Clip(video, 0.0, 8.0), SHORT)[0].efficiency
    assert (first.frames_encoded, second.frames_encoded, second.frames_seen) == (4, 4, 8)
    player.close()


def test_frames_of_any_shape_become_squares(load):
    model = load()
    tall = np.full((1, 90, 20, 3), 255, np.uint8)
    pixels = model.pixels(tall)
    assert pixels.shape == (1, 3, 48, 48) and torch.equal(pixels, torch.ones_like(pixels))


def test_the_tokenizer_may_be_named_as_released(folder, tmp_path):
    """A config of a type that transformers does not know, and the class name that the release has."""
    named = tmp_path / "named"
    shutil.copytree(folder, named)
    path = named / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "Qwen2Tokenizer"}))
    tokenizer = load_tokenizer(named)
    ids = tokenizer("<|im_start|>user\nWhat?<|im_end|>", add_special_tokens=False).input_ids
    plain = load_tokenizer(folder)
    assert ids[0] == plain.convert_tokens_to_ids("<|im_start|>") and tokenizer.decode(ids).endswith(
        "<|im_end|>"
    )


def test_a_good_tokenizer_loads_without_a_warning(folder, tmp_path, caplog):
    named = tmp_path / "named"
    shutil.copytree(folder, named)
    edit(named, model_type="llava_qwen")
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        load_tokenizer(named)
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert not caplog.records


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives(load, folder, clip):
    """Float64, where nothing is decided by rounding: grouped, and one by one as captured graphs."""
    frames, times_s = clip(20)
    wanted = watched(load(**CACHER), frames, times_s).visual_tokens()
    args = {"pretrained": str(folder), "device": "cuda", **MEMORY, **CACHER}
    model = StreamForest(resolve(args | {"dtype": "float64"}, {}, model="streamforest"))
    for step in (20, 1):
        stream = watched(model, frames, times_s, step)
        assert (stream.visual_tokens().cpu() - wanted).abs().max() < 1e-9
    assert stream.ask(QUESTION, SHORT).efficiency.frames_graphed == 20
    half = StreamForest(resolve(args | {"dtype": "float16"}, {}, model="streamforest"))
    stream = watched(half, frames, times_s)
    assert stream.visual_tokens().isfinite().all() and stream.ask(QUESTION, SHORT).token_ids
