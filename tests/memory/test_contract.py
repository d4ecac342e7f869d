"""What every memory promises, with methods in front of it, on the tiny checkpoint."""

import itertools

import pytest
import torch

from stc_lmms.memory.registry import MEMORIES
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.ops.attention import kernel
from stc_lmms.results.totals import total
from stc_lmms.settings import resolve
from tests.methods.streams import QUESTION, SHORT, play, prompt_embeds

# n_local holds two to six frames, so that most of the stream is beyond the window.
MEMORY = {
    "full": {},
    "full, pruned at decoding": {"decode_prune": 0.7, "decode_prune_layer": 1},
    "recent": {"recent_frames": 3},
    "rekv": {"n_local": 80, "retrieve_size": 3},
    "rekv in chunks": {"n_local": 60, "retrieve_size": 4, "retrieve_chunk": 2},
    "bounded": {"active_tokens": 40, "pool_tokens": 20, "refresh_every": 2, "refresh_top_k": 5},
}
METHOD = {
    "none": {},
    "stc_pruner": {"token_budget": 12},
    "stc": {"token_budget": 9},
    "dycoke": {"token_budget": 12},  # ragged frames: 36, 4, 4, 4
}
matrix = pytest.mark.parametrize(("memory", "method"), list(itertools.product(MEMORY, METHOD)))
FRAMES = 9


@pytest.fixture
def model(load, memory, method):
    name = memory.split(",")[0].split(" ")[0]
    return load(memory=name, method=method, **MEMORY[memory], **METHOD[method])


def logits(stream, question=QUESTION, steps=3):
    """Logits of the first answer tokens."""
    embeds, out = prompt_embeds(stream, question), []
    with torch.no_grad(), stream.memory.ask(stream.model.embed_text(question)) as reader:
        for _ in range(steps):
            out.append(reader.next_logits(embeds))
            embeds = stream.model.llm.embed(out[-1].argmax()[None])
    return torch.stack(out)


def held(stream):
    return stream.nbytes, stream.memory.nbytes, stream.memory.archive_nbytes, stream.memory.length


def test_every_memory_is_here():
    assert {name.split(",")[0].split(" ")[0] for name in MEMORY} == set(MEMORIES)


@matrix
def test_what_comes_later_changes_no_answer(model, clip):
    frames, times = clip(FRAMES)
    changed = frames.copy()
    changed[6:] = 255 - changed[6:]
    streams = [play(model, f[:6], times[:6]) for f in (frames, changed)]
    assert torch.equal(*map(logits, streams))
    for stream, f in zip(streams, (frames, changed)):
        stream.observe(f[6:], times[6:])
    assert not torch.equal(*map(logits, streams))


@matrix
def test_questions_on_one_stream_are_questions_on_as_many_prefixes(model, clip):
    frames, times = clip(FRAMES)
    stream = model.open_stream()
    for stop, question in ((0, "Before?"), (2, QUESTION), (5, "Who?"), (5, QUESTION), (9, "And now?")):
        seen = len(stream.times_s)
        stream.observe(frames[seen:stop], times[seen:stop])
        alone = play(model, frames[:stop], times[:stop]) if stop else model.open_stream()
        first = stream.ask(question, SHORT)  # before the first frame this takes in the prompt's beginning
        before = held(stream)
        again = stream.ask(question, SHORT)
        assert held(stream) == before
        wanted = alone.ask(question, SHORT)
        assert first.token_ids == again.token_ids == wanted.token_ids
        assert first.efficiency.context_tokens == wanted.efficiency.context_tokens
        assert (logits(stream, question) - logits(alone, question)).abs().max() < 2e-5
        assert held(stream) == held(alone)


@matrix
def test_streams_do_not_mix(model, clip):
    clips = [clip(FRAMES, seed) for seed in (1, 2)]
    alone = [logits(play(model, *c, pieces=2)) for c in clips]
    woven = [model.open_stream() for _ in clips]
    for start, (stream, (frames, times)) in itertools.product(range(0, FRAMES, 2), zip(woven, clips)):
        stream.observe(frames[start : start + 2], times[start : start + 2])
        stream.ask(QUESTION, SHORT)
    for stream, wanted in zip(woven, alone):
        assert torch.equal(logits(stream), wanted)


@matrix
@pytest.mark.parametrize("pieces", [1, 4])
def test_any_cut_gives_the_same(model, clip, pieces):
    frames, times = clip(FRAMES)
    whole, parts = play(model, frames, times), play(model, frames, times, pieces)
    assert held(whole) == held(parts)
    assert (logits(whole) - logits(parts)).abs().max() < 2e-5


@matrix
def test_restore_goes_back_and_on(model, clip):
    frames, times = clip(FRAMES)
    stream = play(model, frames[:4], times[:4])
    memory = stream.memory
    mark, before, wanted = memory.snapshot(), held(stream)[1:], logits(stream)
    width = stream.model.llm.embed(torch.tensor([0])).shape[1]
    noise = torch.randn(60, width, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        with torch.no_grad():
            memory.append(noise, [20, 36, 4])
        assert not torch.equal(logits(stream), wanted)
        memory.restore(mark)
        assert held(stream)[1:] == before and torch.equal(logits(stream), wanted)
    stream.observe(frames[4:], times[4:])
    assert (logits(stream) - logits(play(model, frames, times))).abs().max() < 2e-5


@matrix
def test_tokens_and_frames_must_agree(model):
    memory = model.open_stream().memory
    embeds = torch.zeros(5, 64)
    for lengths in ([4], [6, -1], []):
        with pytest.raises(ValueError, match="5 tokens cannot be split into frames of"):
            memory.append(embeds, lengths)
    memory.append(embeds[:0], [])
    memory.append(embeds[:0], [0])
    assert memory.length == 0


@matrix
def test_a_reset_stream_is_a_new_one(model, clip):
    frames, times = clip(FRAMES)
    stream = play(model, frames, times)
    stream.reset()
    assert (stream.memory.nbytes, stream.memory.archive_nbytes, stream.memory.length) == (0, 0, 0)
    # The tower's references keep their place for the next stream.
    assert stream.nbytes == (stream.encoder.state.nbytes if stream.encoder.state else 0)
    stream.observe(frames, times)
    assert torch.equal(logits(stream), logits(play(model, frames, times)))


def test_the_memory_is_searched_by_the_text_that_is_given(load, clip, monkeypatch):
    stream = play(load(method="none", memory="rekv", n_local=80, retrieve_size=3), *clip(FRAMES))
    memory, texts = stream.memory, []
    ask = memory.ask
    monkeypatch.setattr(memory, "ask", lambda question_LD: texts.append(question_LD) or ask(question_LD))
    stream.ask("Who?\nA. he B. she", SHORT, search="Who?")
    stream.ask("Who?\nA. he B. she", SHORT)
    stream.ask("Who?", SHORT, search="")  # nothing to search by: the prompt it is
    wanted = [stream.model.embed_text(text) for text in ("Who?", "Who?\nA. he B. she", "")]
    assert all(torch.equal(*pair) for pair in zip(texts, wanted))


def test_the_record_counts_the_archive(load, clip):
    model = load(method="none", memory="rekv", n_local=80, retrieve_size=3)
    stream = play(model, *clip(FRAMES))
    cost = stream.ask(QUESTION, SHORT).efficiency
    per_token = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, width, float32
    means = 2 * 2 * 16 * 4
    assert cost.archive_bytes == FRAMES * (36 * per_token + means)
    prefix = stream.memory.length - FRAMES * 36
    assert cost.kv_bytes == (prefix + 80) * per_token
    prompt = len(prompt_embeds(stream, QUESTION))
    assert cost.context_tokens == prefix + 3 * 36 + prompt
    assert total([cost.to_dict()])["archive_bytes"] == cost.archive_bytes
    assert model.describe()["memory_attention"] == "cpu"
    assert load(method="none").describe()["memory_attention"] is None


@pytest.mark.gpu
@matrix
def test_gpu_equals_cpu(load, checkpoint, clip, memory, method):
    args = {
        "memory": memory.split(",")[0].split(" ")[0],
        "method": method,
        **MEMORY[memory],
        **METHOD[method],
    }
    own = {"pretrained": str(checkpoint), "device": "cuda", "dtype": "float32"}
    cuda = LlavaOnevision(resolve(own | args, environ={}))
    frames, times = clip(FRAMES)
    cpu = play(load(**args), frames, times, 4)
    assert (logits(play(cuda, frames, times, 4)).cpu() - logits(cpu)).abs().max() < 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_gpu_has_a_fast_kernel(dtype):
    assert not kernel("cuda", getattr(torch, dtype))[1].startswith("reference")
