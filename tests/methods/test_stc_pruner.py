"""STC-Pruner beyond the golden cases: layouts, history, budgets, streams."""

import pytest
import torch

from stc_lmms.errors import SettingsError
from stc_lmms.methods.base import Context
from stc_lmms.methods.stc_pruner import STCPruner


def tokens(frames, count=36, width=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn(1, count, width, generator=generator)
    return scene + 0.5 * torch.randn(frames, count, width, generator=generator)


def run(pruner, x, pieces=None, context=Context()):
    state, kept = pruner.open_state(), []
    for part in x.split(pieces or len(x)):
        out, state = pruner.compress(part, context, state)
        kept.append(out.kept_M.view(len(part), -1) - torch.arange(len(part))[:, None] * x.shape[1])
    return torch.cat(kept), state


@pytest.mark.parametrize("history", ["official", "aligned"])
@pytest.mark.parametrize("strategy", ["gaussian", "dual_anchor"])
@pytest.mark.parametrize("pieces", [1, 3, 16])
def test_any_cut_of_a_stream_keeps_the_same(history, strategy, pieces):
    pruner = STCPruner(token_budget=9, history=history, strategy=strategy)
    whole, whole_state = run(pruner, tokens(17))
    cut, cut_state = run(pruner, tokens(17), pieces)
    assert torch.equal(whole, cut)
    assert torch.equal(whole_state.total, cut_state.total) and cut_state.count == 17


def test_histories_differ_and_matter():
    x = tokens(8)
    official, _ = run(STCPruner(token_budget=9, history="official"), x)
    aligned, _ = run(STCPruner(token_budget=9, history="aligned"), x)
    assert not torch.equal(official, aligned)
    alone = torch.cat([run(STCPruner(token_budget=9, history="aligned"), x[i : i + 1])[0] for i in range(8)])
    assert torch.equal(aligned[0], alone[0]) and not torch.equal(aligned[1:], alone[1:])


def test_aligned_history_is_the_mean_of_full_width_means():
    x = tokens(5)
    pruner = STCPruner(history="aligned", token_budget=4)
    scores, _ = pruner.score(x[:, None], pruner.open_state())
    expected = x.mean(1).cumsum(0) / torch.arange(1, 6)[:, None]
    assert torch.allclose(scores.memory, expected.gather(1, scores.channels), atol=1e-6)


def test_novel_token_is_kept():
    x = tokens(1, 1).expand(6, 36, -1) + 0.1 * tokens(6, seed=1)
    x[5, 20] *= -1
    kept, _ = run(STCPruner(token_budget=3), x)
    assert 20 in kept[5].tolist()


def test_kept_tokens_are_the_input_rows_in_order():
    x = tokens(4)
    pruner = STCPruner(token_budget=7)
    out, _ = pruner.compress(x, Context(), pruner.open_state())
    assert torch.equal(out.tokens_MD, x.flatten(0, 1)[out.kept_M])
    assert out.tokens_per_frame == (7, 7, 7, 7)
    assert (out.kept_M.diff() > 0).all()


def test_state_is_not_changed_in_place():
    pruner = STCPruner(token_budget=4)
    _, first = pruner.compress(tokens(2), Context(), pruner.open_state())
    before = first.total.clone()
    pruner.compress(tokens(3, seed=1), Context(), first)
    assert torch.equal(first.total, before) and first.count == 2


def test_full_budget_keeps_everything():
    kept, _ = run(STCPruner(token_budget=36), tokens(2))
    assert kept.tolist() == [list(range(36))] * 2


def test_half_precision_is_scored_in_float32():
    x = tokens(6)
    pruner = STCPruner(token_budget=9)
    exact, _ = run(pruner, x.half().float())
    assert torch.equal(run(pruner, x.half())[0], exact)


def test_budget_above_the_frame_is_refused():
    with pytest.raises(SettingsError, match="token_budget=40 is more than the 36 tokens"):
        run(STCPruner(token_budget=40), tokens(1))


@pytest.mark.parametrize("bad", [{"token_budget": 0}, {"alpha": 1.5}, {"channel_keep": 0.0}])
def test_bad_values_name_the_field(bad):
    with pytest.raises(SettingsError, match=next(iter(bad))):
        STCPruner(**bad)
