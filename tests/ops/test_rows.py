"""Fused kernels for token rows equal PyTorch's: on a GPU if there is one, else in Triton's interpreter.

The interpreter runs the kernels' own code, program by program, but rounds bfloat16 wrongly: that dtype is for
a GPU. Whether the code is right for one is what compiling it for two of them shows.
"""

import contextlib
import itertools
import os
import subprocess
import sys

import pytest
import torch

from parity.unfused import unfused
from stc_lmms.methods.stc_cacher import STCCacher
from stc_lmms.ops import rows
from tests.methods.towers import FAMILIES, drifting, part, tiny_tower

pytest.importorskip("triton")
pytestmark = pytest.mark.slow  # the interpreter is

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])]


@pytest.fixture(scope="module")
def fused():
    """The module of fused kernels, used wherever it can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rows.FUSED, DEVICE, "stc_lmms.ops.rows_triton")
        rows.kernels.cache_clear()
        found = rows.kernels(DEVICE, torch.float32)
        assert found.name == "triton"
        yield found.fused
    rows.kernels.cache_clear()


def plain_lowest(score, count):
    with unfused():
        return rows.lowest(score, count)


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "width"), [(65, 1152), (5, 8), (4, 256), (3, 1000)])
def test_cosine(fused, dtype, tokens, width):
    fresh = normal(6, tokens, 3 * width, dtype=dtype)[..., width : 2 * width]  # as the thirds of a fused qkv
    old = normal(2, tokens, width, dtype=dtype, seed=1)[:, None]
    new = fresh.unflatten(0, (2, 3))
    with unfused():
        wanted, wanted_of_one = rows.cosine(new, old), rows.cosine(fresh, fresh[:1])
    assert (rows.cosine(new, old) - wanted).abs().max() < 2e-6
    known = rows.cosine(fresh, fresh[:1])  # one reference for all, itself among them
    assert (known - wanted_of_one).abs().max() < 2e-6
    assert (known[0] - 1).abs().max() < 2e-6
    new[0, 0, 0] = 0  # no length
    assert rows.cosine(new, old)[0, 0, 0] == 0


@pytest.mark.parametrize("tokens", [1, 2, 36, 64, 257, 729, 1000])
def test_lowest(fused, tokens):
    score = normal(3, tokens)
    score[1] = score[1].mul(2).round().div(2)  # many ties
    score[2] = 0.25  # nothing but ties
    for count in {1, max(1, tokens // 4), tokens}:
        index, place = fused.lowest(score, count)
        assert torch.equal(index, plain_lowest(score, count).sort(-1).values)
        there = torch.full_like(place, -1).scatter_(
            1, index, torch.arange(count, device=DEVICE).int()[None].expand(3, -1)
        )
        assert torch.equal(place, there)


def test_ties_up_to_rounding_go_to_the_first(fused):
    score = torch.tensor([[0.5, 0.2, 0.2 + 1e-8, 0.2 - 1e-8, 0.1]], device=DEVICE)
    assert fused.lowest(score, 3)[0].tolist() == [[1, 2, 4]]
    assert sorted(plain_lowest(score, 3)[0].tolist()) == [1, 2, 4]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers_stay_inside_the_frame(fused, bad):
    score = normal(2, 37)
    score[1, 5] = score[0, 0] = bad
    index, place = fused.lowest(score, 9)
    assert all(len(set(frame)) == 9 and set(frame) <= set(range(37)) for frame in index.tolist())
    assert ((place >= 0).sum(1) == 9).all() and place.max() == 8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "count", "width"), [(65, 16, 600), (7, 7, 5), (6, 1, 256)])
def test_take_and_overlay(fused, dtype, tokens, count, width):
    x, more = normal(4, tokens, width, dtype=dtype), normal(4, count, width, dtype=dtype, seed=1)
    old = normal(2, tokens, 3 * width, dtype=dtype, seed=2)[..., :width]
    index, place = fused.lowest(normal(4, tokens), count)
    flat = rows.flat_index(index, tokens)
    assert torch.equal(rows.take_add(x, flat, more), rows.take_rows(x, flat, 4) + more)
    each = old.repeat_interleave(2, 0)
    for add in (False, True):
        wanted = rows.put_rows_(x + each if add else each.clone(), flat, more)
        assert torch.equal(fused.overlay_(x.clone(), old, more, place, add), wanted)


def test_values_of_a_wrapped_projection(fused):
    """Only the module knows its product then, so queries and values are thirds of its rows."""
    tower, frames = tiny_tower("qwen2_vl"), drifting("qwen2_vl", 4)
    tower.model.to(DEVICE)
    cacher = STCCacher()
    plain = cacher.encode(tower, frames, cacher.open_state())
    for block in tower.blocks:
        block.layer.attn.qkv.register_forward_hook(lambda module, given, out: out)
    assert (cacher.encode(tower, frames, cacher.open_state()) - plain).abs().max() < 1e-5


def test_scores_of_other_dtypes(fused):
    score = normal(2, 37, dtype=torch.float16)
    index, place = rows.pick(score, 9)
    assert place is None and torch.equal(index, plain_lowest(score, 9))


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("selection", ["per_layer", "shared"])
def test_the_cacher_gives_the_same(fused, kind, selection):
    """In one call, where frames reuse its own references, and in pieces, where they reuse the stream's."""
    tower, frames = tiny_tower(kind), drifting(kind, 7)
    tower.model.to(DEVICE)
    cacher, found = STCCacher(cache_interval=3, selection=selection), {}
    for kernels in (contextlib.nullcontext, unfused):
        with kernels():
            for pieces in ((0, 7), (0, 2, 5, 7)):
                state = cacher.open_state()
                cut = [part(frames, a, b) for a, b in itertools.pairwise(pieces)]
                found[kernels, pieces] = torch.cat([cacher.encode(tower, piece, state) for piece in cut])
    first, *others = found.values()
    assert all((first - other).abs().max() < 1e-5 for other in others)


def test_kernels_that_compute_something_else_are_not_used(fused, monkeypatch, caplog):
    monkeypatch.setattr(fused, "overlay_", lambda x, *_: x)
    assert rows.kernels.__wrapped__(DEVICE, torch.float32) == (None, "torch (overlay_ differs)")
    assert "selected without fused kernels: overlay_ differs" in caplog.text


def test_without_triton_or_for_other_dtypes_there_is_a_reason(fused, monkeypatch):
    assert rows.kernels(DEVICE, torch.float64) == (None, "torch (not for torch.float64)")
    monkeypatch.setitem(rows.FUSED, DEVICE, "no_such_module")
    found = rows.kernels.__wrapped__(DEVICE, torch.float32)
    assert found == (None, "torch (ModuleNotFoundError: No module named 'no_such_module')")


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from stc_lmms.ops import rows_triton

SIZES = {"each", "tokens", "count", "rows"}
TYPES = {"score": "*fp32", "index": "*i64", "flat": "*i64", "rank": "*i32"}
POINTERS = {"new", "old", "x", "more", "out"}
kernels = [value for value in vars(rows_triton).values() if isinstance(value, triton.JITFunction)]
assert len(kernels) == 4
variants = [
    (kernel, {"width": 1152, "BLOCK": 1024, "ADD": add} | sizes)
    for kernel in kernels
    for add in (True, False)
    for sizes in ({}, dict.fromkeys(SIZES, 1))  # Triton makes a constant of a size that is 1
    if add or "ADD" in kernel.arg_names
]
for architecture in (80, 90):
    for dtype in ("*fp32", "*fp16", "*bf16"):
        for kernel, values in variants:
            names = kernel.arg_names
            constants = {name: values[name] for name in names if name in values}
            types = {name: TYPES.get(name, dtype if name in POINTERS else "i32") for name in names}
            signature = types | dict.fromkeys(constants, "constexpr")
            source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
            made = triton.compile(source, target=GPUTarget("cuda", architecture, 32))
            assert made.asm["cubin"], (kernel, architecture, dtype)
print("compiled")
"""


def test_they_compile_for_gpus(tmp_path):
    """Ampere and Hopper; no GPU is needed for that, but Triton's own assembler."""
    environ = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environ["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, timeout=300, env=environ
    )
    assert done.stdout.strip() == "compiled", done.stderr[-2000:]
