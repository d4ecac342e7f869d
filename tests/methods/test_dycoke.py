"""DyCoke and StreamDyCoke: what they keep, budgets, refusals. For parity see tests/parity/test_verify.py."""

import pytest
import torch

from stc_lmms.errors import SettingsError
from stc_lmms.methods.base import Context
from stc_lmms.methods.dycoke import DyCoke
from stc_lmms.methods.streamdycoke import StreamDyCoke


def frames(count, tokens=196, width=8, drift=0.3):
    g = torch.Generator().manual_seed(0)
    steps = torch.randn(count, tokens, width, generator=g) * drift
    return torch.randn(tokens, width, generator=g) + steps.cumsum(0)


def run(method, tokens, context=Context(), pieces=None):
    state, kept, counts = method.open_state(), [], []
    step, length = pieces or len(tokens), tokens.shape[1]
    for start in range(0, len(tokens), step):
        part = tokens[start : start + step]
        out, state = method.compress(part, context, state)
        assert torch.equal(out.tokens_MD, part.flatten(0, 1)[out.kept_M])
        kept.append(out.kept_M + start * length)
        counts += out.tokens_per_frame
    return torch.cat(kept), counts, state


@pytest.mark.parametrize("method", [DyCoke(), StreamDyCoke()], ids=["dycoke", "streamdycoke"])
def test_the_budget_is_kept_over_four_frames(method):
    kept, counts, _ = run(method, frames(10))
    assert counts == [196, 20, 20, 20] * 2 + [196, 20]
    assert torch.equal(kept, kept.sort().values)
    for budget in (49, 50, 51, 100, 196):
        method = type(method)(token_budget=budget)
        assert sum(run(method, frames(4))[1]) == 4 * budget
    assert run(type(method)(token_budget=50), frames(4))[1] == [196, 1, 1, 2]


@pytest.mark.parametrize(
    "method",
    [DyCoke(), DyCoke(merge_ratio=0.7), StreamDyCoke(), StreamDyCoke(similarity_threshold=0.7)],
    ids=["dycoke", "dycoke published", "streamdycoke", "streamdycoke published"],
)
@pytest.mark.parametrize("pieces", [1, 2, 3, 5])
def test_cuts_do_not_matter(method, pieces):
    tokens = frames(11)
    whole, parts = run(method, tokens), run(method, tokens, pieces=pieces)
    assert torch.equal(whole[0], parts[0]) and whole[1] == parts[1]
    assert torch.equal(whole[2].last, parts[2].last) and whole[2].nbytes == parts[2].nbytes > 0


def test_dycoke_keeps_what_changed():
    tokens = torch.ones(4, 8, 3)
    tokens[1, 5] = tokens[3, 2] = torch.tensor([1.0, -1, 1])  # against frame 0 and frame 2
    tokens[2, 7] = torch.tensor([-1.0, 1, 1])  # frame 2 is compared with frame 0, not with 1
    kept, counts, _ = run(DyCoke(merge_ratio=0.87), tokens)
    assert counts == [8, 1, 1, 1] and kept[8:].tolist() == [8 + 5, 16 + 7, 24 + 2]


def test_streamdycoke_keeps_what_is_unlike_all_of_the_window():
    tokens = torch.eye(8).repeat(5, 1, 1)
    tokens[1, 3], tokens[3, 3] = tokens[0, 4], tokens[0, 4]
    method = StreamDyCoke(similarity_threshold=0.9, window_size=3, anchor_every=100)
    kept, counts, _ = run(method, tokens)
    assert counts == [8, 1, 1, 1, 1]  # in frame 3, token 3 is as in frame 1; one stays in any case
    assert kept[8] == 8 + 3


def test_budgets_that_cannot_be_are_refused():
    for method in (DyCoke(token_budget=48), StreamDyCoke(token_budget=48)):
        with pytest.raises(SettingsError, match=r"one frame in 4 keeps all its 196 tokens; .* works is 49$"):
            method.check(196)
    for method in (DyCoke(token_budget=197), StreamDyCoke(token_budget=197)):
        with pytest.raises(SettingsError, match="more than the 196 tokens a frame has"):
            method.check(196)
    with pytest.raises(SettingsError, match=r"one frame in 1 keeps all its 196 tokens; .* works is 196$"):
        StreamDyCoke(anchor_every=1).check(196)
    StreamDyCoke(anchor_every=1, token_budget=196).check(196)
    StreamDyCoke(similarity_threshold=0.9, token_budget=1).check(196)
    DyCoke(merge_ratio=0.7, token_budget=1).check(196)


def test_no_frames():
    for method in (DyCoke(), StreamDyCoke()):
        out, state = method.compress(frames(1)[:0], Context(), method.open_state())
        assert out.tokens_per_frame == () and len(out.tokens_MD) == 0
        assert method.compress(frames(2), Context(), state)[0].tokens_per_frame == (196, 20)
