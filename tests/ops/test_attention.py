"""Attention in parts equals attention under one dense mask."""

import math

import pytest
import torch

from stc_lmms.ops import attention
from stc_lmms.ops.attention import Part, attend, attend_masked, combine, kernel, windowed
from stc_lmms.ops.rope import rotate, rotation


def tensors(heads, groups, length, past, dtype=torch.float64, width=8):
    g = torch.Generator().manual_seed(length * 100 + past)
    make = lambda h, n: torch.randn(h, n, width, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    return make(heads, length), (make(groups, past), make(groups, past)), (make(groups, length),) * 2


def dense(q, k, v, scale, mask):
    repeats = len(q) // len(k)
    k, v = (x.repeat_interleave(repeats, 0).double() for x in (k, v))
    score = (q.double() @ k.mT * scale).masked_fill(~mask, -torch.inf)
    return score.softmax(-1) @ v, score.logsumexp(-1)


def window_mask(length, past, window):
    distance = torch.arange(past, past + length)[:, None] - torch.arange(past + length)
    return (distance >= 0) & (distance < (window or past + length))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    ("length", "past", "window"),
    [
        *((5, 0, None), (5, 7, None), (1, 9, 4), (5, 7, 20), (5, 20, 12), (5, 9, 12), (5, 3, 5), (5, 30, 5)),
        *((13, 6, 4), (13, 30, 5), (4, 2, 1), (12, 3, 11), (6, 1, 6)),
    ],
)
def test_windowed_equals_a_dense_mask(groups, length, past, window):
    q, old, new = tensors(4, groups, length, past)
    got = windowed(q, old, new, 0.3, window)
    k, v = (torch.cat(pair, dim=1) for pair in zip(old, new))
    out, lse = dense(q, k, v, 0.3, window_mask(length, past, window))
    assert torch.allclose(got.out_HLd, out, atol=1e-12) and torch.allclose(got.lse_HL, lse, atol=1e-12)


def test_any_mask_and_what_sees_nothing():
    q, old, new = tensors(4, 2, 6, 5)
    mask = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[2] = False
    sink = attend_masked(q, *old, 0.3, mask)
    assert sink.lse_HL[:, 2].eq(-math.inf).all() and sink.out_HLd[:, 2].eq(0).all()
    got = combine([attend(q, *new, 0.3, causal=True), sink])
    k, v = (torch.cat(pair, dim=1) for pair in zip(new, old))
    both = torch.cat((torch.ones(6, 6, dtype=torch.bool).tril(), mask), dim=1)
    assert torch.allclose(got.out_HLd, dense(q, k, v, 0.3, both)[0], atol=1e-12)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_low_precision(dtype, error):
    q, old, new = tensors(4, 2, 9, 30, dtype)
    got = windowed(q, old, new, 0.3, 12)
    assert got.out_HLd.dtype == dtype and got.lse_HL.dtype == torch.float32
    k, v = (torch.cat(pair, dim=1) for pair in zip(old, new))
    assert (got.out_HLd.double() - dense(q, k, v, 0.3, window_mask(9, 30, 12))[0]).abs().max() < error


def test_the_reference_stands_in_with_a_reason(monkeypatch):
    def broken(*args):
        raise RuntimeError("no such kernel\nmore")

    def wrong(q, k, v, scale, causal):
        out, lse = attention._reference(q, k, v, scale, causal)
        return out + 1, lse

    monkeypatch.setattr(attention, "_FAST", {"cpu": (broken, wrong)})
    kernel.cache_clear()
    try:
        run, name = kernel("cpu", torch.float32)
        assert run is attention._reference
        assert "broken: no such kernel" in name and "wrong: off by 1.0e+00" in name and "\n" not in name
        q, old, new = tensors(4, 2, 5, 7)
        assert isinstance(windowed(q, old, new, 0.3, 6), Part)
    finally:
        kernel.cache_clear()
    monkeypatch.undo()
    assert kernel("cpu", torch.float32)[1] == "cpu"


def test_rotation_depends_on_distance_only_far_into_a_stream():
    inv_freq = 1e6 ** -(torch.arange(0, 128, 2) / 128)
    q, k = torch.randn(2, 1, 1, 128, generator=torch.Generator().manual_seed(0))

    def score(place):
        turned = [
            rotate(x, rotation(torch.tensor([p]), inv_freq, x.dtype)) for x, p in ((q, place), (k, place - 9))
        ]
        return float((turned[0] * turned[1]).sum())

    assert abs(score(9) - score(9_000_000)) < 1e-4  # float32 angles would be off by 0.5 radian here
