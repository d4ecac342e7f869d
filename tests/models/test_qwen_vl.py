"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL as streams, on tiny checkpoints in the real layout."""

import itertools
import time

import numpy as np
import pytest
import torch
import transformers
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from stc_lmms import compat_qwen_vl
from stc_lmms.engine.api import Generation
from stc_lmms.engine.decoding import repetition_penalty
from stc_lmms.errors import CheckpointError, SettingsError, StcError
from stc_lmms.eval.session import Clip, VideoSession
from stc_lmms.models.qwen_vl.config import frame_size
from stc_lmms.models.qwen_vl.prompt import CHOICES
from stc_lmms.models.registry import model as registered
from stc_lmms.ops.mrope import MropePositions
from stc_lmms.settings import resolve
from tests.engine.test_graphs import Replayed
from tests.media import encode_video, moving_square_frames
from tests.methods.streams import QUESTION, SHORT, logits, play, prompt_embeds
from tests.models.qwen_checkpoint import FAMILIES, SMALL

# A frame has 3 x 4 tokens; "recent" forgets most of a stream of 11 frames (5 slices and a half).
ROWS = [
    *((family, {"method": "none"}) for family in FAMILIES),
    *((family, {"method": "stc", "token_budget": 4, "cache_interval": 2}) for family in FAMILIES),
    *((family, {"method": "dycoke", "token_budget": 4}) for family in FAMILIES),
    *((family, {"method": "uniform", "token_budget": 5, "memory": "recent"}) for family in FAMILIES),
    ("qwen2_vl", {"method": "stc_cacher", "granularity": "group", "memory": "recent"}),
    ("qwen2_vl", {"method": "none", "decode_prune": 0.5, "decode_prune_layer": 1}),
    ("qwen2_5_vl", {"method": "pixel_diff", "token_budget": 3}),
    ("qwen3_vl", {"method": "uniform_frames", "token_budget": 5, "memory": "recent"}),
    ("qwen2_vl", {"method": "streamdycoke", "token_budget": 4, "memory": "recent"}),
    ("livecc", {"method": "stc", "token_budget": 4}),
]
for _, _args in ROWS:
    if _args.get("memory") == "recent":
        _args["recent_frames"] = 2
rows = pytest.mark.parametrize(
    ("name", "args"), ROWS, ids=["-".join([n, a["method"], a.get("memory", "full")]) for n, a in ROWS]
)
every_family = pytest.mark.parametrize("family", FAMILIES)


def training_positions(model, before, sizes, behind, texts=()):
    """Position ids [3,1,L] of text, a video of (slices, rows, columns), text: written out token by token."""
    places, at = [], 0
    stamps = list(texts) or [(0, 0)]
    times, rows, columns = sizes
    runs = [times] if not texts else [1] * times

    def text(length):
        nonlocal at
        places.extend((at + i,) * 3 for i in range(length))
        at += length

    text(before)
    for run, (left, right) in zip(runs, stamps, strict=True):
        text(left)
        for t, i, j in itertools.product(range(run), range(rows), range(columns)):
            places.append((at + int(t * model.stride), at + i, at + j))
        at = max(max(place) for place in places) + 1
        text(right)
    text(behind)
    return torch.tensor(places).T[:, None]


@every_family
@pytest.mark.parametrize("pieces", [1, 3, 22])
def test_no_method_is_the_stock_forward_at_the_training_positions(load_qwen, clip, family, pieces):
    frames, _ = clip(22)  # 11 slices: more than a slice has rows or columns
    times = [k / 2 for k in range(22)]
    model = load_qwen(family, method="none")
    assert model.stride == (2 if family == "qwen2_5_vl" else 1)
    stream = play(model, frames, times, pieces)
    rows = model.patches(stream.encoder.resize(frames))
    before, behind = (model.ids(part) for part in model.prompt_parts(QUESTION))
    number, texts = 12, []
    video = [model.video_id] * (11 * number)
    if model.stamps:
        video = []
        for k in range(11):
            stamp = model.ids(f"<{k + 0.25:.1f} seconds><|vision_start|>"), model.ids("<|vision_end|>")
            video += [*stamp[0], *[model.video_id] * number, *stamp[1]]
            texts.append(tuple(map(len, stamp)))
    positions = training_positions(model, len(before), (11, 3, 4), len(behind), texts)
    ids = torch.tensor([[*before, *video, *behind]])
    given = {
        "input_ids": ids,
        "pixel_values_videos": rows.rows_PC,
        "video_grid_thw": torch.tensor(rows.grid_thw),
        "attention_mask": torch.ones_like(ids),  # or 4.56 takes a time that stands still for another sequence
    }
    with torch.no_grad():
        expected = model.model(**given, position_ids=positions, use_cache=False).logits[0, -1]
        assert (logits(stream) - expected).abs().max() < 2e-5
        if transformers.__version__.startswith("4."):  # there its own positions are those of the training
            own = model.model(**given, use_cache=False).logits[0, -1]
            assert (own - expected).abs().max() < 1e-5
    choice, answer = int(expected.argmax()), stream.ask(QUESTION, SHORT)
    assert answer.token_ids[:1] == ((choice,) if choice not in model.eos_ids else ())
    assert answer.efficiency.context_tokens == ids.shape[1]


@rows
def test_any_cut_and_every_prefix_give_the_same(load_qwen, clip, name, args):
    frames, times = clip(11)
    changed = frames.copy()
    changed[7:] = 255 - changed[7:]
    model = load_qwen(name, **args)
    stream, other = model.open_stream(), model.open_stream()
    for stop, question in ((0, "Before?"), (1, QUESTION), (7, "Who?"), (11, QUESTION)):
        seen = len(stream.times_s)
        for start in range(seen, stop, 3):  # in pieces, and with another stream in between
            end = min(start + 3, stop)
            stream.observe(frames[start:end], times[start:end])
            other.observe(changed[start:end], times[start:end])
        alone = play(model, frames[:stop], times[:stop]) if stop else model.open_stream()
        first = stream.ask(question, SHORT)
        alone.begin()  # as every question does
        assert stream.seen_ids == alone.seen_ids
        held = stream.nbytes, stream.memory.length, list(stream.kept)
        assert stream.ask(question, SHORT).token_ids == first.token_ids
        assert (stream.nbytes, stream.memory.length, stream.kept) == held
        wanted = alone.ask(question, SHORT)
        assert first.token_ids == wanted.token_ids
        assert first.efficiency.context_tokens == wanted.efficiency.context_tokens
        assert first.efficiency.llm_tokens_mean == wanted.efficiency.llm_tokens_mean
        assert (logits(stream, question) - logits(alone, question)).abs().max() < 2e-5
        assert held == (alone.nbytes, alone.memory.length, alone.kept)
        other.ask(question, SHORT)
        same = (logits(stream) - logits(other)).abs().max() < 1e-5
        assert same == (stop <= 7)  # what comes later changes no answer
    stream.reset()
    stream.observe(frames, times)
    assert torch.equal(logits(stream), logits(play(model, frames, times)))


@every_family
@pytest.mark.parametrize("method", [{"method": "none"}, {"method": "uniform", "token_budget": 5}])
def test_recent_stands_where_the_video_would_have_begun(load_qwen, clip, family, method):
    # With one decoder layer keys and values know nothing of the past: forgetting is not having seen.
    frames, times = clip(14)
    recent = load_qwen(family, layers=1, memory="recent", recent_frames=3, **method)
    full = load_qwen(family, layers=1, **method)
    begun_late = play(full, frames[8:], times[8:])
    for pieces in (2, 5, 14):
        stream = play(recent, frames, times, pieces)
        assert stream.memory.forgotten_frames == 4
        assert (logits(stream) - logits(begun_late)).abs().max() < 2e-5
        assert stream.ask(QUESTION, SHORT).token_ids == begun_late.ask(QUESTION, SHORT).token_ids
    few = play(recent, frames[:6], times[:6])
    assert (logits(few) - logits(play(full, frames[:6], times[:6]))).abs().max() < 2e-5


@every_family
def test_a_kept_token_stays_where_it_was(load_qwen, clip, family):
    frames, times = clip(6)
    model = load_qwen(family, method="uniform", token_budget=5)
    whole, some = play(load_qwen(family, method="none"), frames, times), play(model, frames, times)
    everything, kept = (
        stream.positioned(pairs, MropePositions(next=(20, 20, 20)), 0, set())
        for stream, pairs in ((s, _again(s, frames, times)) for s in (whole, some))
    )
    for full, part, one in zip(everything, kept, _again(some, frames, times), strict=True):
        text = len(full) - 12
        left = text and text - 1  # of a stamp and its marks, the closing one stands behind
        index = [*range(left), *(left + one.kept_K).tolist(), *range(left + 12, len(full))]
        assert torch.equal(part.position_ids_AL, full.position_ids_AL[:, index])
        assert torch.equal(part.embeds_LD, full.embeds_LD[index])
        if family == "qwen3_vl":
            assert torch.equal(part.deepstack_BLD, full.deepstack_BLD[:, index])


def _again(stream, frames, times):
    with torch.no_grad():
        return stream.model.open_stream().encoder.observe(frames, times)


def test_the_cacher_serves_these_towers(load_qwen, clip):
    frames, times = clip(10)
    for family in ("qwen2_vl", "qwen2_5_vl"):
        dense = logits(play(load_qwen(family, method="none"), frames, times))
        for args in ({"cache_interval": 1}, {"update_ratio": 1.0}):
            stream = play(load_qwen(family, method="stc_cacher", **args), frames, times)
            assert (logits(stream) - dense).abs().max() < 2e-5
        model = load_qwen(family, method="stc_cacher", cache_interval=2, update_ratio=0.25)
        cost = play(model, frames, times).ask(QUESTION, SHORT).efficiency
        assert (cost.tower_tokens, cost.tower_tokens_recomputed) == (5 * 48, 3 * 48 + 2 * 12)
        assert (cost.frames_seen, cost.frames_encoded, cost.llm_tokens_max) == (10, 10, 12)


def test_choices_take_the_likeliest_candidate(load_qwen, clip):
    frames, times = clip(4)
    model = load_qwen("qwen2_vl", method="none", answer="choices")
    stream = play(model, frames, times)
    with torch.no_grad(), stream.memory.ask() as reader:
        score = reader.next_logits(prompt_embeds(stream, QUESTION, "The answer is:\n"))
    ids = [model.ids("\n" + word)[-1] for word in CHOICES]
    best = CHOICES[int(score[ids].argmax())]
    answer = stream.ask(QUESTION, SHORT)
    assert answer.text == best and answer.efficiency.new_tokens == 1


@pytest.mark.parametrize("answer", ["generate", "choices"])
def test_an_odd_last_frame_counts_in_the_time_to_the_first_token(load_qwen, clip, monkeypatch, answer):
    stream = play(load_qwen("qwen2_vl", method="none", answer=answer), *clip(3))
    order, peek, wait = [], stream.encoder.peek, stream.clock.wait

    def slow_peek():
        order.append("peek")
        time.sleep(0.2)
        return peek()

    def logged_wait():
        order.append("wait")
        wait()

    monkeypatch.setattr(stream.encoder, "peek", slow_peek)
    monkeypatch.setattr(stream.clock, "wait", logged_wait)
    assert stream.ask(QUESTION, SHORT).efficiency.ttft_ms >= 200
    assert order[:2] == ["wait", "peek"]  # what was queued before belongs to the stream


def test_the_rest_of_a_group_is_no_reason_to_record(load_qwen, clip, monkeypatch):
    model, capture, (frames, times) = load_qwen("qwen2_vl", method="none"), Replayed(), clip(24)
    assert model.settings.prefill_frames == 16
    monkeypatch.setattr(model, "capture", capture)
    stream = play(model, frames[:18], times[:18])  # eight slices and one
    assert stream.ask(QUESTION, SHORT).efficiency.frames_graphed == capture.recorded == 0
    stream.observe(frames[18:20], times[18:20])
    assert stream.ask(QUESTION, SHORT).efficiency.frames_graphed == 2 and capture.recorded == 1
    live = play(model, frames, times, 2)
    assert live.ask(QUESTION, SHORT).efficiency.frames_graphed == 24


def test_repetition_penalty_is_that_of_transformers(load_qwen, clip):
    from transformers import RepetitionPenaltyLogitsProcessor

    score = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[3, 7, 7, 39]])
    wanted = RepetitionPenaltyLogitsProcessor(1.3)(ids, score.clone())[0]
    assert torch.equal(repetition_penalty(score[0], {3, 7, 39}, 1.3), wanted)
    frames, times = clip(4)
    answers = {
        penalty: play(load_qwen("qwen2_vl", method="none", repetition_penalty=penalty), frames, times).ask(
            QUESTION, Generation(12)
        )
        for penalty in (1.0, 50.0)
    }
    ids = answers[50.0].token_ids
    assert len(set(ids)) == len(ids) and answers[1.0].token_ids != ids


def test_frames_become_what_the_stock_processor_makes_of_them(load_qwen, clip):
    frames, _ = clip(5)
    model = load_qwen("qwen2_vl", method="none")
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)
    limits = {"min_pixels": 6 * 64, "max_pixels": 12 * 64}
    if not transformers.__version__.startswith("4."):
        limits = {"size": {"shortest_edge": 6 * 64, "longest_edge": 12 * 64}}
    stock = model.processor.video_processor(
        videos=[video], return_tensors="pt", do_sample_frames=False, **limits
    )
    encoder = model.open_stream().encoder
    even = torch.cat((encoder.resize(frames), encoder.resize(frames[-1:])))
    ours = model.patches(even)
    assert ours.grid_thw == ((3, 6, 8),) == tuple(map(tuple, stock["video_grid_thw"].tolist()))
    assert (ours.rows_PC - stock["pixel_values_videos"]).abs().max() < 1.5 / 255 / 0.2  # one grey level


def test_sizes_follow_the_reference():
    rng = np.random.default_rng(0)
    for height, width in rng.integers(28, 2000, (200, 2)).tolist():
        if max(height, width) <= 200 * min(height, width):
            wanted = smart_resize(height, width, 28, 100 * 784, 384 * 784)
            assert frame_size(height, width, 28, 100, 384) == wanted


def test_places_count_time_where_the_family_does(load_qwen):
    for fps, stride in ((0.5, 8), (2, 2), (4, 1), (8, 0.5)):
        assert load_qwen("qwen2_5_vl", method="none", fps=fps).stride == stride
        assert load_qwen("qwen2_vl", method="none", fps=fps).stride == 1


@pytest.mark.parametrize("rate", [25, 5, 1])
def test_a_second_has_its_places_whatever_the_rate_of_the_video(load_qwen, tmp_path, rate):
    model = load_qwen("qwen2_5_vl", method="none")
    video = encode_video(tmp_path / "v.mp4", moving_square_frames(8 * rate, 64, 80), fps=rate)
    player = VideoSession(model)
    player.ask(QUESTION, Clip(str(video), 0.0, 8.0), Generation(1))
    stream = player._stream
    assert stream.times_s == [k / 2 for k in range(16)]
    # 2 places a second: the last slice, of 7 s, stands at 14
    assert (model.stride, stream.positions.end) == (2, 15)
    player.close()


@pytest.mark.gpu
@every_family
@pytest.mark.parametrize("method", [{"method": "none"}, {"method": "stc", "token_budget": 4}])
@pytest.mark.parametrize("memory", ["full", "recent"])
def test_gpu_equals_cpu(load_qwen, qwen_checkpoint, clip, family, method, memory):
    own = {"pretrained": str(qwen_checkpoint(family)), "device": "cuda", "dtype": "float32"}
    settings = resolve(own | SMALL | method | {"memory": memory}, {}, family)
    cuda = registered(family).load_class()(settings)
    frames, times = clip(11)
    on_cpu = logits(play(load_qwen(family, memory=memory, **method), frames, times))
    for pieces in (2, 11):  # slice by slice, as captured graphs; and in one call
        assert (logits(play(cuda, frames, times, pieces)).cpu() - on_cpu).abs().max() < 1e-3


def message(error, function, *args):
    with pytest.raises(error) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_is_told_before_any_weight(load_qwen, qwen_checkpoint, checkpoint):
    def refused(error=SettingsError, name="qwen2_vl", **args):
        settings = resolve({"pretrained": str(qwen_checkpoint("qwen2_vl")), "device": "cpu"} | args, {}, name)
        return message(error, registered(name).load_class().check, settings)

    assert "have three (time, row, column); use full or recent" in refused(memory="rekv")
    assert "memory=bounded" in refused(memory="bounded")
    assert "reads the attention of the tower's last layer" in refused(method="visionzip")
    assert "ToMe cannot be used" in refused(method="tome")
    assert "one fixed resolution" in refused(method="downsample")
    assert "token_budget=500 is more than the 384" in refused(token_budget=500)
    assert "'llava_onevision' checkpoint, not 'qwen2_vl'" in refused(
        CheckpointError, pretrained=str(checkpoint)
    )
    assert "demo" not in refused(CheckpointError, pretrained="nobody/nothing")
    assert "'qwen2_vl' checkpoint, not 'qwen2_5_vl'" in refused(CheckpointError, "qwen2_5_vl")
    for args, words in (
        ({"slice_tokens": 50}, "slice_tokens=50 must be at least min_slice_tokens=100"),
        ({"min_slice_tokens": 0}, "min_slice_tokens=0 must be at least 1"),
        ({"repetition_penalty": 0}, "repetition_penalty=0.0 must be a number above 0"),
        ({"answer": "guess"}, "answer value 'guess'"),
        ({"silence_base": 2}, "silence_base=2.0 must be a probability"),
    ):
        assert words in message(SettingsError, resolve, args, {}, "livecc")


@pytest.mark.skipif(hasattr(transformers, "Qwen3VLModel"), reason="this transformers has it")
def test_an_old_transformers_is_told(tmp_path):
    assert "needs 4.57 or newer" in message(CheckpointError, compat_qwen_vl.model_class, "qwen3_vl")


def test_frames_that_do_not_fit_are_told_in_one_line(load_qwen, clip):
    frames, times = clip(4)
    stream = load_qwen("qwen2_vl", method="none").open_stream()
    stream.observe(frames[:2], times[:2])
    wide = np.zeros((1, 60, 90, 3), np.uint8)
    assert "90x60 pixels in a stream of 80x60: the grid" in message(
        StcError, stream.observe, wide, times[2:3]
    )
    stream.observe(frames[2:], times[2:])  # and goes on
    fresh = load_qwen("qwen2_vl", method="none").open_stream
    small = np.zeros((1, 7, 90, 3), np.uint8)
    assert "90x7 pixels is below the minimum of 8x8" in message(StcError, fresh().observe, small, [0.0])
    long = np.zeros((1, 8, 1700, 3), np.uint8)
    assert "more than 200 times" in message(StcError, fresh().observe, long, [0.0])
    tight = load_qwen("qwen2_vl", method="stc", token_budget=12, slice_tokens=12).open_stream()
    narrow = np.zeros((1, 30, 80, 3), np.uint8)
    assert "token_budget=12 is more than the 10 tokens" in message(StcError, tight.observe, narrow, [0.0])
    short = load_qwen("qwen2_vl", method="none", max_frames=3).open_stream()
    assert "max_frames=3" in message(StcError, short.observe, frames, times)
    assert SMALL["slice_tokens"] == 12
