"""VisionZip beyond the golden cases: the attention it reads, and merging against a loop."""

import pytest
import torch

from stc_lmms.errors import SettingsError, StcError
from stc_lmms.methods.base import Context
from stc_lmms.methods.spec import MethodSpec
from stc_lmms.methods.stc_cacher import STCCacher
from stc_lmms.methods.visionzip import VisionZip, merge_contextual, remaining
from stc_lmms.ops.grid import halve
from stc_lmms.towers.attention_scores import encode_with_last_input, received_in
from tests.methods.towers import drifting_frames, tiny_tower


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_attention_received_is_that_of_the_stock_eager_layer(kind):
    tower, frames = tiny_tower(kind), drifting_frames(3)
    features, last_input = encode_with_last_input(tower, frames)
    assert torch.equal(features, tower.encode(frames))
    seen = received_in(tower.blocks[-1], last_input)
    tower.model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = tower.model(frames, output_attentions=True).attentions[-1]
    assert torch.allclose(seen.attention_FT, weights.mean(dim=(1, 2)), atol=1e-6)
    assert torch.allclose(seen.attention_FT.sum(1), torch.ones(3))
    keys = tower.blocks[-1].k(tower.blocks[-1].norm1(last_input))
    assert torch.allclose(seen.keys_FTE, keys.unflatten(-1, (4, 8)).mean(2), atol=1e-6)


def test_half_precision_attention_is_float32():
    tower, frames = tiny_tower("siglip"), drifting_frames(1)
    _, h = encode_with_last_input(tower, frames)
    exact = received_in(tower.blocks[-1], h)
    tower.model.to(torch.bfloat16)
    rough = received_in(tower.blocks[-1], h.bfloat16())
    assert rough.attention_FT.dtype == torch.float32
    assert (rough.attention_FT - exact.attention_FT).abs().max() < 2e-3


def context(frames=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(frames, 36, generator=generator)
    return Context(attention_FN=attention, keys_FNE=torch.randn(frames, 36, 8, generator=generator))


def test_stc_mode_keeps_the_most_attended_in_position_order():
    x, given = torch.randn(2, 36, 4), context()
    out, _ = VisionZip(token_budget=9).compress(x, given, VisionZip().open_state())
    for frame, kept in enumerate(out.kept_M.view(2, 9) - torch.tensor([[0], [36]])):
        assert kept.tolist() == sorted(given.attention_FN[frame].topk(9).indices.tolist())
    assert torch.equal(out.tokens_MD, x.flatten(0, 1)[out.kept_M])


def test_full_mode_against_a_loop():
    x, given, method = torch.randn(2, 36, 4), context(), VisionZip(token_budget=13, mode="full")
    assert method.contextual == 2
    out, _ = method.compress(x, given, method.open_state())
    for frame in range(2):
        dominant = given.attention_FN[frame].topk(11).indices.tolist()
        rest = [i for i in range(36) if i not in dominant]
        targets = [rest[0], rest[25 // 2]]
        members = {t: [] for t in targets}
        keys = torch.nn.functional.normalize(given.keys_FNE[frame], dim=-1)
        for i in set(rest) - set(targets):
            members[max(targets, key=lambda t: keys[t] @ keys[i])].append(i)
        expected = {i: x[frame, i] for i in dominant}
        expected |= {t: x[frame, t] + x[frame, members[t]].mean(0) for t in targets}
        assert (out.kept_M.view(2, 13)[frame] - 36 * frame).tolist() == sorted(expected)
        wanted = torch.stack([expected[i] for i in sorted(expected)])
        assert torch.allclose(out.tokens_MD.view(2, 13, 4)[frame], wanted, atol=1e-6)


def test_split_is_the_authors():
    assert [VisionZip(k, mode="full").contextual for k in (64, 128, 192)] == [10, 20, 30]
    assert VisionZip(64).contextual == 0


def test_contextual_tokens_with_nothing_left_to_merge():
    rest, keys = torch.randn(1, 3, 4), torch.randn(1, 3, 2)
    targets, merged = merge_contextual(rest, keys, 3)
    assert targets.tolist() == [0, 1, 2] and torch.equal(merged, rest)
    assert remaining(torch.tensor([[3, 0]]), 5).tolist() == [[1, 2, 4]]


def test_the_model_gives_the_resized_attention(load, clip):
    model = load(method="visionzip", token_budget=9)
    frames, times = clip(2)
    pixels = model.pixels(frames)
    _, last = encode_with_last_input(model.tower, pixels)
    got = model.context(times, pixels, last)
    patches = received_in(model.tower.blocks[-1], last).attention_FT
    assert torch.equal(got.attention_FN, halve(patches[..., None], (12, 12))[..., 0])
    assert got.grid == (6, 6) and got.pixels_FCHW is None


@pytest.mark.parametrize(("mode", "name"), [("stc", "attention"), ("full", "keys")])
def test_missing_facts_are_one_line(mode, name):
    given = Context(attention_FN=context().attention_FN if mode == "full" else None)
    with pytest.raises(StcError, match=f"needs the {name} of the vision tower"):
        VisionZip(9, mode=mode).compress(torch.zeros(2, 36, 4), given, VisionZip().open_state())


def test_it_cannot_stand_behind_a_tower_method():
    with pytest.raises(SettingsError, match=r"joins STCCacher, .* with VisionZip"):
        MethodSpec("both", "x", STCCacher, VisionZip).build({})
