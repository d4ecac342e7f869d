"""VidCom2 beyond the golden cases: its two forms on a stream."""

import pytest
import torch

from parity.vidcom2 import published_counts
from stc_lmms.errors import SettingsError
from stc_lmms.methods.base import Context
from stc_lmms.methods.stc_pruner import STCPruner
from stc_lmms.methods.vidcom2 import VidCom2, frame_rates, score_video
from stc_lmms.methods.vidcom2_two_score import VidCom2TwoScore
from tests.methods.test_stc_pruner import tokens


def run(method, x, pieces=None, context=Context()):
    """Everything given out, the pending frames last, as (positions per frame, tokens, state)."""
    state, outs = method.open_state(), []
    for part in x.split(pieces or len(x)):
        out, state = method.compress(part, context, state)
        outs.append(out)
    outs += [] if (last := method.pending(state)) is None else [last]
    kept = [
        (k - i * x.shape[1]).tolist() for o in outs for i, k in enumerate(o.kept_M.split(o.tokens_per_frame))
    ]
    return kept, torch.cat([o.tokens_MD for o in outs]), state


def channelled(frames, quiet=12):
    """Tokens of which 12 channels are clearly quieter than the rest: the selection does not change."""
    x = tokens(frames)
    x[..., quiet:] *= 5
    return x


def test_causal_form_is_the_original_on_the_first_frame():
    x = tokens(1)
    assert run(VidCom2(token_budget=9), x)[0] == run(VidCom2(9, mode="original", window=1), x)[0]


@pytest.mark.parametrize("last", [1, 4, 8])
def test_causal_scores_are_those_of_the_original_on_the_frames_so_far(last):
    x = channelled(9)
    method = VidCom2(token_budget=9)
    score, _ = method.score_causally(x, method.open_state())
    whole = score_video(x[: last + 1])
    assert torch.allclose(score[last], (whole.video_TN + whole.frame_TN)[last], atol=1e-5)


def test_causal_variance_is_that_of_all_tokens_so_far():
    x = tokens(6) * torch.linspace(0.1, 3, 24) + torch.randn(6, 1, 24)
    method = VidCom2(token_budget=9)
    _, state = method.score_causally(x, method.open_state())
    mean, square = state.mean / 6, state.square / 6
    assert torch.allclose(square - mean**2, x.double().flatten(0, 1).var(0, correction=0), atol=1e-5)
    assert state.frames == 6 and state.selected.sum() == 6 * 12


def test_a_large_constant_channel_has_no_variance():
    x = tokens(4)
    x[..., 3] = 1e4
    method = VidCom2(token_budget=9)
    _, state = method.score_causally(x, method.open_state())
    assert state.selected[3] == 4


def test_windows_are_those_of_the_original():
    x = channelled(8)
    kept, _, _ = run(VidCom2(9, mode="original", window=4), x)
    assert [sum(map(len, kept[i : i + 4])) for i in (0, 4)] == [36, 36]
    for start in (0, 4):
        scores = score_video(x[start : start + 4])
        total = scores.video_TN + scores.frame_TN
        for i in range(4):
            frame = kept[start + i]
            assert sorted(total[i].topk(len(frame), largest=False).indices.tolist()) == frame
        counts = published_counts(frame_rates(scores.video_TN, 9 / 36), 36)
        assert all(abs(len(k) - n) <= 1 for k, n in zip(kept[start : start + 4], counts))


def test_a_frame_that_stands_out_gets_more():
    x = tokens(1, 36).expand(6, 36, -1) + 0.05 * tokens(6, seed=1)
    x[4] = tokens(1, seed=9)
    kept, _, _ = run(VidCom2(9, mode="original", window=6), x)
    counts = list(map(len, kept))
    assert counts.index(max(counts)) == 4 and max(counts) > 12 and sum(counts) == 54


def test_full_budget_keeps_everything():
    for mode in ("causal", "original"):
        kept, out, _ = run(VidCom2(36, mode=mode, window=2), tokens(3))
        assert kept == [list(range(36))] * 3 and torch.equal(out, tokens(3).flatten(0, 1))


def test_waiting_frames_are_held_and_counted():
    x = tokens(6)
    method = VidCom2(9, mode="original", window=4)
    out, state = method.compress(x, Context(), method.open_state())
    assert len(out.tokens_per_frame) == 4 and torch.equal(state.waiting, x[4:])
    assert state.nbytes == x[4:].nbytes and method.delay_frames == 3
    assert sum(method.pending(state).tokens_per_frame) == 18
    _, full = method.compress(x[:2], Context(), state)
    assert full.waiting is None and method.pending(full) is None


@pytest.mark.parametrize("pieces", [1, 3, 5])
@pytest.mark.parametrize("mode", ["causal", "original"])
def test_any_cut_keeps_the_same(mode, pieces):
    method = VidCom2(9, mode=mode, window=4)
    whole, cut = run(method, tokens(11)), run(method, tokens(11), pieces)
    assert whole[0] == cut[0] and torch.equal(whole[1], cut[1])


def test_two_score_is_the_pruners_score():
    x = tokens(7)
    assert run(VidCom2TwoScore(9), x)[0] == run(STCPruner(9), x)[0] != run(VidCom2(9), x)[0]


def test_half_precision_is_scored_in_float32():
    x = tokens(6)
    for mode in ("causal", "original"):
        method = VidCom2(9, mode=mode, window=3)
        assert run(method, x.half())[0] == run(method, x.half().float())[0]


def test_bad_window_is_named():
    with pytest.raises(SettingsError, match="window=0 must be at least 1"):
        VidCom2(window=0)
