"""Tower adapters against the stock vision models."""

import pytest
import torch
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from stc_lmms.errors import CheckpointError, StcError
from stc_lmms.towers import Patches, open_tower
from stc_lmms.towers.qwen_vl import KEPT_LAYOUTS
from tests.methods.towers import (
    FAMILIES,
    IMAGE,
    QWENS,
    SIZES,
    drifting,
    drifting_frames,
    drifting_patches,
    tiny_tower,
)

families = pytest.mark.parametrize("kind", FAMILIES)
qwens = pytest.mark.parametrize("kind", QWENS)
# One window; four equal windows; unequal ones; one row of groups.
GRIDS = [(8, 8), (16, 16), (6, 10), (12, 20), (2, 18)]


@pytest.mark.parametrize("kind", IMAGE)
@pytest.mark.parametrize("layer", [-1, -2, 0, 2])
def test_features_are_the_stock_hidden_states(kind, layer):
    tower = tiny_tower(kind)
    frames = drifting_frames(3)
    with torch.no_grad():
        stock = tower.model(frames, output_hidden_states=True)
    features = open_tower(tower.model, layer).encode(frames)
    assert (features - stock.hidden_states[layer]).abs().max() < 1e-5
    if layer == -1:
        assert (tower.finish(features) - stock.last_hidden_state).abs().max() < 1e-5


@pytest.mark.parametrize("kind", IMAGE)
@pytest.mark.parametrize("count", [1, 3])
def test_hidden_states_are_contiguous_whatever_the_convolution_gives(kind, count):
    tower, frames = tiny_tower(kind), drifting_frames(count)  # NCHW, which it would answer transposed
    with torch.no_grad():
        for h in (tower.embed(frames)[0], tower.embed_small(frames[..., :32])[0]):
            assert h.is_contiguous()
            assert tower.blocks[0].dense(h, None).is_contiguous()


@torch.no_grad()
def stock_qwen(model, patches):
    """Output of every block and of every merger of the stock forward, and what it returns."""
    seen = {"blocks": [], "mergers": []}
    modules = {
        "blocks": model.blocks,
        "mergers": [model.merger, *getattr(model, "deepstack_merger_list", [])],
    }
    hooks = [
        module.register_forward_hook(lambda _, __, out, to=seen[name]: to.append(out))
        for name, group in modules.items()
        for module in group
    ]
    out = model(patches.rows_PC, grid_thw=torch.tensor(patches.grid_thw))
    for hook in hooks:
        hook.remove()
    return seen, getattr(out, "pooler_output", out[0] if isinstance(out, tuple) else out)


@qwens
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("slices", [1, 3])
def test_qwen_features_are_those_of_the_stock_model(kind, grid, slices):
    tower, patches = tiny_tower(kind), drifting_patches(slices, grid)
    seen, merged = stock_qwen(tower.model, patches)
    taps = []
    with torch.no_grad():
        h, layout = tower.embed(patches)
        for block, wanted in zip(tower.blocks, seen["blocks"], strict=True):
            h = block.dense(h, layout)
            assert (h.flatten(0, 1) - wanted).abs().max() < 1e-5
        features = tower.encode(patches, taps)
        assert torch.equal(features, h)
        assert (tower.finish(features, layout).flatten(0, 1) - merged).abs().max() < 1e-5
        deep = tower.deepstack(taps, layout)
    assert len(deep) == len(taps) == len(tower.taps) == (2 if kind == "qwen3_vl" else 0)
    for got, wanted in zip(deep, seen["mergers"][:-1], strict=True):
        assert (got.flatten(0, 1) - wanted).abs().max() < 1e-5


@qwens
def test_pieces_of_one_size_are_slices_of_one_stream(kind):
    tower, patches = tiny_tower(kind), drifting_patches(5)
    pieces = Patches(patches.rows_PC, torch.tensor([[2, 6, 10], [3, 6, 10]]))
    assert torch.equal(tower.encode(pieces), tower.encode(patches))
    one_by_one = [tower.encode(patches.part(i, i + 1)) for i in range(5)]
    assert (torch.cat(one_by_one) - tower.encode(patches)).abs().max() < 1e-5


@families
def test_parts_of_a_block_make_the_dense_layer(kind):
    tower = tiny_tower(kind)
    with torch.no_grad():
        h, layout = tower.embed(drifting(kind, 2))
        assert h.shape == (2, layout.tokens, SIZES["hidden_size"])
        for block in tower.blocks:
            x = block.norm1(h)
            (q, v), k = block.qv(x), block.k(x)
            for one, fused in zip((q, k, v), block.qkv(x), strict=True):
                assert (one - fused).abs().max() < 1e-6
            step = h + block.out(block.attend(q, k, v, layout))
            step = step + block.mlp(block.norm2(step))
            assert (step - block.dense(h, layout)).abs().max() < 1e-5
            h = step


@families
def test_some_queries_give_their_rows_of_all(kind):
    tower = tiny_tower(kind)
    with torch.no_grad():
        h, layout = tower.embed(drifting(kind, 3))
        index = torch.stack([torch.randperm(layout.tokens)[:7] for _ in range(3)])
        for block in tower.blocks:
            q, k, v = block.qkv(block.norm1(h))
            rows = index[..., None].expand(-1, -1, q.shape[-1])
            some = block.attend(q.gather(1, rows), k, v, layout, index)
            assert (some - block.attend(q, k, v, layout).gather(1, rows)).abs().max() < 1e-6


class Doubled(nn.Module):
    """Stands for LoRA or a quantised layer: only calling it gives its product."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x)


@qwens
@pytest.mark.parametrize("how", ["replaced", "hooked", "forward"])
def test_a_wrapped_projection_is_called(kind, how):
    tower = tiny_tower(kind)
    block = tower.blocks[0]
    attention = block.layer.attn
    with torch.no_grad():
        x = torch.randn(2, 60, 32)
        before = block.qkv(x)
        if how == "replaced":
            attention.qkv = Doubled(attention.qkv)
        elif how == "hooked":
            attention.qkv.register_forward_hook(lambda _, __, out: 2 * out)
        else:
            plain = attention.qkv.forward
            attention.qkv.forward = lambda x: 2 * plain(x)
        q, v = block.qv(x)
        for got, fused, old in zip((q, block.k(x), v), block.qkv(x), before, strict=True):
            assert (got - 2 * old).abs().max() < 1e-5 and (fused - 2 * old).abs().max() < 1e-5


@pytest.mark.parametrize("kind", IMAGE)
def test_layers_beyond_the_feature_are_not_run(kind):
    tower = tiny_tower(kind)
    assert [len(open_tower(tower.model, layer).blocks) for layer in (-1, -2, 3, 1, 0)] == [3, 2, 3, 1, 0]
    with pytest.raises(ValueError, match="vision_feature_layer=4 is out of range for 3 layers"):
        open_tower(tower.model, 4)


def test_unsupported_tower_names_the_supported():
    model = Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    )
    with pytest.raises(CheckpointError) as error:
        open_tower(model)
    message = str(error.value)
    assert "'dinov2' is not supported" in message and "\n" not in message
    assert all(
        name in message for name in ("siglip_vision_model", "clip_vision_model", "qwen2_5_vl", "qwen3_vl")
    )


def test_a_qwen_tower_has_one_feature():
    with pytest.raises(CheckpointError, match="not vision_feature_layer=-2"):
        open_tower(tiny_tower("qwen2_vl").model, -2)


def rows(count=64, width=96, dtype=torch.float32):
    return torch.zeros(count, width, dtype=dtype)


@pytest.mark.parametrize(
    ("kind", "make", "message"),
    [
        ("siglip", lambda: drifting_frames(2, 64), r"\[frames, 3, 48, 48\], not \[2, 3, 64, 64\]"),
        ("clip", lambda: drifting_frames(2, 64), "its resolution is fixed"),
        ("siglip", lambda: drifting_frames(2)[0], r"not \[3, 48, 48\]"),
        ("siglip", lambda: drifting_patches(1), "not Patches"),
        (
            "siglip",
            lambda: drifting_frames(1).half(),
            r"float16, .* tower is float32: convert .*torch.float32",
        ),
        ("clip", lambda: drifting_frames(1).byte(), "uint8.*; run the checkpoint's processor first"),
        ("qwen2_vl", lambda: drifting_frames(1), r"needs Patches\(.*not Tensor"),
        ("qwen2_vl", lambda: Patches(rows(dtype=torch.bfloat16), [(1, 8, 8)]), "patches are bfloat16"),
        ("qwen2_vl", lambda: Patches(rows(width=95), [(1, 8, 8)]), "has 96 values, not 95"),
        (
            "qwen2_vl",
            lambda: Patches(rows(56), [(1, 7, 8)]),
            "7x8 patches does not divide into merge groups of 2x2",
        ),
        ("qwen2_vl", lambda: Patches(rows(), [(2, 8, 8)]), r"means 128 patches, but the rows are \[64, 96\]"),
        (
            "qwen2_vl",
            lambda: Patches(rows(), [(1, 4, 8), (1, 8, 4)]),
            "mixes sizes; encode the slices of each",
        ),
        ("qwen2_vl", lambda: Patches(rows(), []), "one piece or more"),
        ("qwen2_vl", lambda: Patches(rows(), [(0, 8, 8)]), "all sizes positive"),
        (
            "qwen2_vl",
            lambda: Patches(rows(), torch.tensor([1, 8, 8])),
            r"not a list of \(slices, height, width\)",
        ),
    ],
)
def test_input_that_does_not_fit_is_one_clear_line(kind, make, message):
    tower = tiny_tower(kind)
    with pytest.raises(StcError, match=message) as error:
        tower.encode(make())
    assert "\n" not in str(error.value)


def test_input_on_another_device_is_told():
    with pytest.raises(StcError, match=r"pixel values are on meta, .* tower is on cpu"):
        tiny_tower("siglip").encode(drifting_frames(1).to("meta"))


def test_layouts_are_kept_but_not_without_end():
    tower = tiny_tower("qwen2_5_vl")
    assert tower.layout((8, 8)) is tower.layout((8, 8))
    for side in range(2, 60, 2):
        tower.layout((8, side))
    assert len(tower._layouts) <= KEPT_LAYOUTS
