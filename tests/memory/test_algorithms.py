"""The memories compute what their descriptions say: compared with plain ones, in float64."""

import pytest
import torch

from stc_lmms.memory.bounded import Bounded
from stc_lmms.memory.full import Full
from stc_lmms.memory.recent import Recent
from stc_lmms.memory.rekv import ReKV, choose
from tests.memory.naive import NaiveRecent, NaiveReKV

PREFIX, PROMPT = 7, 9


@pytest.fixture(scope="module")
def llm(load):
    return load(method="none", dtype="float64").llm


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def text(llm, length, seed):
    ids = torch.randint(0, 200, (length,), generator=torch.Generator().manual_seed(seed))
    return llm.embed(ids)


def fill(memory, llm, lengths, prefix=PREFIX, group=None):
    """Random frames of these lengths, `group` at a time."""
    if prefix:
        memory.begin(text(llm, prefix, 0))
    frames = [text(llm, n, 10 + i) for i, n in enumerate(lengths)]
    for start in range(0, len(frames), group or len(frames)):
        chosen = frames[start : start + (group or len(frames))]
        memory.append(torch.cat(chosen), [len(f) for f in chosen])
    return memory


def answer(memory, llm, steps=4, seed=99):
    """Logits of the first tokens, greedy."""
    out, embeds = [], text(llm, PROMPT, seed)
    with memory.ask(text(llm, 5, seed + 1)) as reader:
        for _ in range(steps):
            out.append(reader.next_logits(embeds))
            embeds = llm.embed(out[-1].argmax()[None])
    return torch.stack(out), reader


EQUAL, RAGGED = [4] * 14, [4, 1, 6, 3, 0, 2, 4, 5, 1, 4, 4, 6, 2, 3]


@pytest.mark.parametrize("lengths", [EQUAL, RAGGED], ids=["equal", "ragged"])
@pytest.mark.parametrize("prefix", [0, 2, 7, 13])
@pytest.mark.parametrize(
    ("n_local", "topk", "chunk"),
    [(200, 99, 1), (200, 3, 1), (30, 4, 1), (30, 4, 2), (16, 6, 3), (16, 99, 1), (13, 1, 1)],
)
@pytest.mark.parametrize("group", [1, 3, None])
def test_rekv(llm, lengths, prefix, n_local, topk, chunk, group):
    options = ReKV(n_local=n_local, retrieve_size=topk, retrieve_chunk=chunk)
    topk = topk - topk % chunk
    memory = fill(options.open(llm), llm, lengths, prefix, group)
    naive = NaiveReKV(llm, n_local, topk, chunk)
    if prefix:
        naive.block(text(llm, prefix, 0), init=True)
    for i, n in enumerate(lengths):
        if n:
            naive.block(text(llm, n, 10 + i))
    logits, reader = answer(memory, llm)
    retrieved, wanted = naive.answer(text(llm, 5, 100), text(llm, PROMPT, 99), 4)
    assert reader.retrieved == retrieved
    assert (logits - wanted).abs().max() < 1e-5  # logits are float32
    assert memory.length == prefix + sum(lengths)


def test_rekv_of_a_stream_inside_the_window_that_retrieves_all_is_full(llm):
    full, _ = answer(fill(Full().open(llm), llm, RAGGED), llm)
    rekv, _ = answer(fill(ReKV(n_local=200, retrieve_size=14).open(llm), llm, RAGGED), llm)
    assert (rekv - full).abs().max() < 1e-5
    fewer, _ = answer(fill(ReKV(n_local=200, retrieve_size=4).open(llm), llm, RAGGED), llm)
    assert (fewer - full).abs().max() > 1e-3  # retrieval changes the answer


@pytest.mark.parametrize("lengths", [EQUAL, RAGGED], ids=["equal", "ragged"])
@pytest.mark.parametrize("prefix", [0, 7])
@pytest.mark.parametrize("recent_frames", [1, 3, 20])
@pytest.mark.parametrize("group", [1, 4, None])
def test_recent(llm, lengths, prefix, recent_frames, group):
    memory = fill(Recent(recent_frames).open(llm), llm, lengths, prefix, group)
    naive = NaiveRecent(llm, recent_frames)
    if prefix:
        naive.begin(text(llm, prefix, 0))
    else:
        none = torch.empty(llm.kv_heads, 0, llm.head_dim, dtype=torch.float64)
        naive.pieces = [[(none, none)] for _ in range(llm.layers)]
    for i, n in enumerate(lengths):
        if n:
            naive.frame(text(llm, n, 10 + i))
        else:
            for pieces in naive.pieces:
                pieces.append(tuple(x[:, :0] for x in pieces[0]))
    logits, reader = answer(memory, llm, steps=1)
    assert (logits[0] - naive.ask(text(llm, PROMPT, 99))).abs().max() < 1e-5
    kept = sum(lengths[-recent_frames:])
    assert reader.context_tokens == prefix + kept
    assert memory.nbytes == (prefix + kept) * llm.layers * 2 * llm.kv_heads * llm.head_dim * 8


@pytest.mark.parametrize(
    "options", [Recent(14), Bounded(active_tokens=99), Full(decode_prune=1e-17, decode_prune_layer=1)]
)
def test_a_memory_with_room_for_all_is_full(llm, options):
    full, _ = answer(fill(Full().open(llm), llm, RAGGED), llm)
    other, _ = answer(fill(options.open(llm), llm, RAGGED), llm)
    assert (other - full).abs().max() < 1e-5


def test_a_frame_without_tokens_counts_as_one_of_the_recent(llm):
    alone = fill(Recent(2).open(llm), llm, [4, 5, 3, 0], group=1)
    together = fill(Recent(2).open(llm), llm, [4, 5, 3, 0])
    assert alone.nbytes == together.nbytes == (PREFIX + 3) * llm.layers * 2 * llm.kv_heads * llm.head_dim * 8
    assert (answer(alone, llm)[0] - answer(together, llm)[0]).abs().max() < 1e-5


def test_decode_pruning_hides_tokens_after_the_prompt(llm):
    full, _ = answer(fill(Full().open(llm), llm, EQUAL), llm)
    pruned, _ = answer(fill(Full(decode_prune=0.8, decode_prune_layer=1).open(llm), llm, EQUAL), llm)
    assert torch.equal(pruned[0], full[0]) and not torch.allclose(pruned[1], full[1], atol=1e-4)


def test_bounded_reads_the_active_tokens_in_order_of_the_stream(llm):
    options = Bounded(active_tokens=11, pool_tokens=6, refresh_every=3, refresh_top_k=2)
    memory = fill(options.open(llm), llm, EQUAL)
    pools = memory.snapshot().pools
    assert len(pools.active) == 11 and len(pools.cache) == 6
    everything = torch.cat([text(llm, n, 10 + i) for i, n in enumerate(EQUAL)])
    wanted = torch.cat((text(llm, PREFIX, 0), everything[sorted(pools.active)]))
    assert torch.equal(memory.context(), wanted)
    kept = PREFIX + 11 + 6
    assert memory.nbytes == kept * everything.shape[1] * 8
    assert memory.length == PREFIX + sum(EQUAL)


@pytest.mark.parametrize("importance", ["novelty", "order"])
def test_bounded_fetches_what_frames_are_worth_once_for_all(llm, monkeypatch, importance):
    options = Bounded(active_tokens=11, pool_tokens=6, refresh_every=3, importance=importance)
    tolist, fetched = torch.Tensor.tolist, []
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: fetched.append(len(x)) or tolist(x))
    together = fill(options.open(llm), llm, RAGGED).snapshot().pools
    assert fetched == [sum(RAGGED)]
    alone = fill(options.open(llm), llm, RAGGED, group=1).snapshot().pools
    assert (together.active, together.attention) == (alone.active, alone.attention)
    assert together.cache.ids.tolist() == alone.cache.ids.tolist()


def test_chunks_of_blocks_tail_included():
    scores = torch.tensor([1.0, 3, 0, 0, 9, 0, 5])
    assert choose(scores, 7, 1) == list(range(7))
    assert choose(scores, 2, 1) == [4, 6]
    assert choose(scores, 4, 2) == [4, 5, 6]  # means 2, 0, 4.5, 5: the tail has one block
    assert choose(scores[:0], 4, 2) == []
