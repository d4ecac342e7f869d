"""ToMe beyond the golden cases: schedules, order, class tokens, and what it does to a tower."""

import itertools

import pytest
import torch

from parity.tome import published_schedule, token_groups
from stc_lmms.errors import SettingsError
from stc_lmms.methods.tome import ToMe, ToMeOneShot, merge_once, merge_schedule
from stc_lmms.ops.merge import match, merge_weighted
from tests.methods.streams import logits, play
from tests.methods.towers import drifting_frames, tiny_tower


def test_schedule_of_the_real_model():
    assert merge_schedule(729, 26, 64) == [26] * 15 + [25] * 11


@pytest.mark.parametrize("inflect", [-1.0, -0.5, 0.0, 0.5, 1.0])
@pytest.mark.parametrize(("tokens", "layers"), itertools.product((9, 36, 144), (1, 2, 3, 5, 26)))
def test_schedule_hits_every_target(tokens, layers, inflect):
    for wanted in range(-(-tokens // 2**layers), tokens + 1):
        left = tokens
        for r in merge_schedule(tokens, layers, wanted, inflect):
            assert 0 <= r <= left // 2
            left -= r
        assert left == wanted


def test_schedule_refuses_the_impossible():
    with pytest.raises(ValueError, match="2 layers cannot merge 36 tokens into 8"):
        merge_schedule(36, 2, 8)


def test_published_schedule_of_one_layer():
    assert published_schedule(1, 8, -1.0) == [16] and published_schedule(3, [1, 2, 3, 4]) == [1, 2, 3]


def test_equal_tokens_merge_first():
    x = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(0))
    x[0, 4] = x[0, 7] * 2  # the same direction
    found = match(x, 1)
    assert found.source_Fr.tolist() == [[2]] and found.target_Fr.tolist() == [[3]]  # 4 is A's 2, 7 is B's 3
    assert token_groups(found)[0, 4] == token_groups(found)[0, 7]
    assert found.sources()[0].sort().values.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]


def test_sizes_weigh_and_add_up():
    x = torch.tensor([[[1.0], [4.0]]])
    found = match(x, 1)
    mean, size = merge_weighted(found, x, torch.tensor([[[2.0], [1.0]]]))
    assert mean.tolist() == [[[2.0]]] and size.tolist() == [[[3.0]]]


def test_nothing_to_merge_keeps_the_order():
    assert match(torch.randn(1, 9, 4), 0) is None and match(torch.randn(1, 1, 4), 5) is None
    x = torch.randn(2, 9, 4)
    assert torch.equal(merge_once(x, 0), x)


@pytest.mark.parametrize("kind", ["siglip", "clip"])
@pytest.mark.parametrize("method", [ToMe, ToMeOneShot])
def test_keeping_all_tokens_is_dense(kind, method):
    tower, frames = tiny_tower(kind), drifting_frames(2)
    got = method(token_budget=36).encode(tower, frames, method().open_state())
    assert (got - tower.encode(frames)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["siglip", "clip"])
@pytest.mark.parametrize("method", [ToMe, ToMeOneShot])
def test_class_token_stays_in_front(kind, method):
    tower, frames = tiny_tower(kind), drifting_frames(2)
    got = method(token_budget=10).encode(tower, frames, method().open_state())
    class_token = kind == "clip"
    assert got.shape == (2, 10 + class_token, 32)
    if class_token and method is ToMeOneShot:
        assert torch.equal(got[:, 0], tower.encode(frames)[:, 0])


def test_tokens_come_in_position_order():
    """In a tower that changes nothing, tokens that did not merge can be found again where they were."""
    tower = tiny_tower("siglip")
    with torch.no_grad():
        for block in tower.blocks:
            for part in (block.layer.self_attn.out_proj, block.layer.mlp.fc2):
                part.weight.zero_()
                part.bias.zero_()
    frames = drifting_frames(1)
    embedded, _ = tower.embed(frames)
    got = ToMe(token_budget=30).encode(tower, frames, ToMe().open_state())
    near = torch.cdist(got[0], embedded[0]).min(dim=1)
    unmerged = near.indices[near.values < 1e-2]
    assert len(unmerged) >= 24 and (unmerged.diff() > 0).all()


def test_proportional_attention_matters_only_after_a_merge():
    tower, frames = tiny_tower("siglip"), drifting_frames(1)
    runs = [
        ToMe(token_budget=k, proportional=p).encode(tower, frames, ToMe().open_state())
        for k in (36, 20)
        for p in (True, False)
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.allclose(runs[2], runs[3], atol=1e-4)


def test_work_is_counted():
    tower, method = tiny_tower("siglip"), ToMe(token_budget=12)
    state = method.open_state()
    method.encode(tower, drifting_frames(5), state)
    assert method.schedule(36, 3) == [8, 8, 8]
    assert (state.frames, state.tokens_seen, state.tokens_recomputed) == (5, 180, 5 * 28)


def test_one_shot_reaches_the_budget_by_thirds():
    x = torch.randn(1, 729, 16)
    sizes = [729]
    while x.shape[1] > 64:
        x = merge_once(x, min(x.shape[1] // 3, x.shape[1] - 64))
        sizes.append(x.shape[1])
    assert sizes == [729, 486, 324, 216, 144, 96, 64]


def test_half_precision():
    tower = tiny_tower("siglip")
    tower.model.to(torch.bfloat16)
    got = ToMe(token_budget=12).encode(tower, drifting_frames(2).bfloat16(), ToMe().open_state())
    assert got.dtype == torch.bfloat16 and got.isfinite().all()


def test_the_llm_gets_the_merged_tokens_unpooled(load, clip):
    model = load(method="tome", token_budget=20)
    frames, times = clip(2)
    stream = play(model, frames, times)
    assert stream.kept == [20, 20] and model.grid is None
    assert stream.ask("Q?").efficiency.tower_tokens_recomputed < 2 * 144
    assert not torch.equal(
        logits(stream), logits(play(load(method="tome_oneshot", token_budget=20), frames, times))
    )


def test_towers_that_join_groups_are_refused():
    with pytest.raises(SettingsError, match="merges groups"):
        ToMe().check(4)
    ToMe().check(1)


@pytest.mark.parametrize("inflect", [1.5, float("nan")])
def test_bad_inflect_is_named(inflect):
    with pytest.raises(SettingsError, match="inflect"):
        ToMe(inflect=inflect)
