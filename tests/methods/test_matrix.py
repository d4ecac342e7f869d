"""The shared test matrix: every method against the streaming invariants (a) to (e) of `models/base.py`.

On top of them, for every method: the budget is kept as promised, and what is kept really is in the frame.
A new method adds a row to `ROWS` in `tests/methods/streams.py`.
"""

import itertools

import pytest
import torch
from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration

from stc_lmms.methods.budget import usage
from stc_lmms.methods.registry import METHODS
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.settings import resolve
from tests.methods.budget_rule import holds
from tests.methods.streams import QUESTION, ROWS, SHORT, logits, play, prompt_embeds, row_id

every_method = pytest.mark.parametrize(("method", "args"), ROWS, ids=map(row_id, ROWS))


def test_every_method_has_a_row():
    assert {method for method, _ in ROWS} == set(METHODS)


@every_method
def test_a_causality(load, clip, method, args):
    frames, times = clip(8)
    changed = frames.copy()
    changed[5:] = 255 - changed[5:]
    model = load(method=method, **args)
    first, second = (play(model, f[:5], times[:5]) for f in (frames, changed))
    assert torch.equal(logits(first), logits(second))
    for stream, f in ((first, frames), (second, changed)):
        stream.observe(f[5:], times[5:])
    assert not torch.allclose(logits(first), logits(second), atol=1e-4)  # the change is visible afterwards


@every_method
def test_b_asking_leaves_the_stream_as_it_was(load, clip, method, args):
    frames, times = clip(8)
    model = load(method=method, **args)
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
def test_c_streams_do_not_mix(load, clip, method, args):
    model = load(method=method, **args)
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
def test_e_any_cut_gives_the_same_tokens(load, clip, method, args, pieces):
    frames, times = clip(19)
    model = load(method=method, **args)
    whole, parts = play(model, frames, times), play(model, frames, times, pieces)
    assert (logits(whole) - logits(parts)).abs().max() < 1e-5
    assert whole.kept == parts.kept and whole.nbytes == parts.nbytes


# Small enough that most of the stream is out of reach.
MEMORIES = {
    "recent": {"recent_frames": 3},
    "rekv": {"n_local": 200, "retrieve_size": 3},
    "bounded": {"active_tokens": 40, "pool_tokens": 20, "refresh_every": 2, "refresh_top_k": 5},
}


@every_method
@pytest.mark.parametrize("memory", MEMORIES)
def test_every_memory_works_behind_every_method(load, clip, method, args, memory):
    frames, times = clip(10)
    model = load(method=method, memory=memory, **args, **MEMORIES[memory])
    whole, parts = play(model, frames, times), play(model, frames[:7], times[:7], pieces=3)
    prefix = play(model, frames[:7], times[:7])  # two questions on one stream are two runs on the prefixes
    assert (logits(prefix) - logits(parts)).abs().max() < 1e-5
    assert prefix.ask(QUESTION, SHORT).token_ids == parts.ask(QUESTION, SHORT).token_ids
    parts.observe(frames[7:], times[7:])
    assert (logits(whole) - logits(parts)).abs().max() < 1e-5
    assert whole.ask(QUESTION, SHORT).token_ids == parts.ask(QUESTION, SHORT).token_ids


@every_method
def test_reset_and_empty_stream(load, clip, method, args):
    frames, times = clip(4)
    model = load(method=method, **args)
    stream = model.open_stream()
    assert stream.position_s == float("-inf") and stream.nbytes == 0
    blind = stream.ask(QUESTION, SHORT)
    assert blind.efficiency.frames_seen == 0
    stream.observe(frames[:0], [])
    stream.observe(frames, times)
    stream.reset()
    stream.observe(frames, times)
    assert torch.equal(logits(stream), logits(play(model, frames, times)))


@every_method
def test_the_budget_is_kept_as_promised(load, clip, method, args):
    frames, times = clip(9)
    model = load(method=method, **args)
    budget = args.get("token_budget", 36)
    stream = model.open_stream()
    before = len(prompt_embeds(stream, QUESTION)) + 1  # and the newline behind a first frame
    for i in range(9):
        stream.observe(frames[i : i + 1], times[i : i + 1])
        cost = stream.ask(QUESTION, SHORT).efficiency
        pending = stream._pending()
        kept = [*stream.kept, *(() if pending is None else pending.tokens_per_frame)]
        assert len(kept) == i + 1 and holds(model.method.budget, kept, budget, dense=36)
        assert (cost.llm_tokens_mean, cost.llm_tokens_max) == (usage(kept).mean, usage(kept).maximum)
        prefix = len(model.embed_text(model.prompt_parts("")[0]))
        assert cost.context_tokens == prefix + sum(kept) + before
    if model.method.budget == "per frame":
        assert kept == [budget] * 9
    if method == "none":
        assert kept == [36] * 9


@every_method
def test_what_is_kept_is_in_the_frame(load, clip, method, args, monkeypatch):
    model = load(method=method, **args)
    if model.method.token is None:
        pytest.skip("no token method")
    calls = []
    original = type(model.method.token).compress

    def compress(self, tokens, context, state):
        out = original(self, tokens, context, state)
        calls.append((tokens.clone(), out[0]))
        return out

    monkeypatch.setattr(type(model.method.token), "compress", compress)
    stream = play(model, *clip(8), pieces=3)
    tokens = torch.cat([given for given, _ in calls])
    given_out = 0
    for _, out in calls:
        frames = len(out.tokens_per_frame)
        source = tokens[given_out : given_out + frames].flatten(0, 1)
        given_out += frames
        assert out.kept_M.dtype == torch.int64
        assert (out.kept_M.diff() > 0).all() and (out.kept_M >= 0).all() and (out.kept_M < len(source)).all()
        assert len(out.kept_M) == len(out.tokens_MD) == sum(out.tokens_per_frame)
        assert (out.kept_M // 36).bincount(minlength=frames).tolist() == list(out.tokens_per_frame)
        same = (out.tokens_MD == source[out.kept_M]).all(-1)
        merged = model.method.token.contextual if method == "visionzip" else 0
        assert (~same).sum() == merged * frames
    assert given_out + model.method.token.delay_frames * (stream._pending() is not None) >= 8


@pytest.mark.gpu
@every_method
def test_gpu_equals_cpu(load, checkpoint, clip, method, args):
    frames, times = clip(9)
    on_cpu = logits(play(load(method=method, **args), frames, times))
    where = {"pretrained": str(checkpoint), "device": "cuda", "dtype": "float32"}
    cuda = LlavaOnevision(resolve(where | {"method": method} | args, {}))
    assert (logits(play(cuda, frames, times)).cpu() - on_cpu).abs().max() < 1e-3
