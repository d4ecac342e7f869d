"""Tiny towers, their input, and the definition of STC-Cacher, frame by frame, written from the formulas."""

import pytest
import torch
import transformers
from torch.nn import functional

from stc_lmms import compat
from stc_lmms.towers import Patches, open_tower

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 48,
    "patch_size": 8,
}
QWEN = {
    "depth": 4,
    "hidden_size": 32,
    "num_heads": 4,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
}
CONFIGS = {
    "siglip": SIZES,
    "clip": SIZES,
    "qwen2_vl": QWEN | {"embed_dim": 32, "hidden_size": 24, "mlp_ratio": 2},
    # windows of 4x4 merge groups
    "qwen2_5_vl": QWEN
    | {"intermediate_size": 48, "window_size": 32, "out_hidden_size": 24, "fullatt_block_indexes": [1, 3]},
    "qwen3_vl": QWEN
    | {
        "intermediate_size": 48,
        "out_hidden_size": 24,
        "num_position_embeddings": 36,
        "deepstack_visual_indexes": [0, 2],
    },
}
IMAGE = ("siglip", "clip")
GRID = (6, 10)  # of a Qwen slice, in patches: four windows of unequal size
has_qwen3 = tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 57)
_old = pytest.mark.skipif(not has_qwen3, reason="Qwen3-VL needs transformers >= 4.57")
QWENS = ["qwen2_vl", "qwen2_5_vl", pytest.param("qwen3_vl", marks=_old)]
FAMILIES = [*IMAGE, *QWENS]


def tiny_tower(kind, seed=0, **sizes):
    """A random tower whose tokens differ clearly from each other."""
    config_class, model_class = compat.vision_classes(kind)
    torch.manual_seed(seed)
    config = config_class(**CONFIGS[kind] | sizes)
    config.vision_use_head = False
    model = model_class._from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embedding" not in name:
                weight.copy_(torch.randn_like(weight) * weight[0].numel() ** -0.5)
            elif name.endswith("bias"):
                weight.copy_(torch.randn_like(weight) * 0.1)
    return open_tower(model)


def drifting_frames(count, size=48, seed=0):
    """Pixel values [count,3,size,size]: a scene that changes a little with every frame."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, size, size, generator=generator)
    return torch.randn(1, 3, size, size, generator=generator) + 0.3 * noise.cumsum(0)


def drifting_patches(count, grid=GRID, seed=0):
    """`count` temporal slices of a scene that changes a little with every slice."""
    generator = torch.Generator().manual_seed(seed)
    shape = (grid[0] * grid[1], 3 * 2 * 4 * 4)
    noise = torch.randn(count, *shape, generator=generator)
    rows = torch.randn(1, *shape, generator=generator) + 0.3 * noise.cumsum(0)
    return Patches(rows.flatten(0, 1), [(count, *grid)])


def drifting(kind, count, seed=0):
    """Input of `count` frames for a tiny tower of this kind."""
    return drifting_frames(count, seed=seed) if kind in IMAGE else drifting_patches(count, seed=seed)


def part(x, start, stop):
    """Frames start..stop-1 of a tower input."""
    return x.part(start, stop) if isinstance(x, Patches) else x[start:stop]


@torch.no_grad()
def frame_by_frame(tower, x, interval, ratio, *, every=1, group=1, cut=None):
    """Last hidden states of each frame, one frame at a time, from the parts of the blocks.

    `every`: blocks that share a selection; `group`: tokens selected together;
    `cut`: mean similarity in block 0 that makes a reference frame.
    """
    outputs, reference, since = [], None, 0
    for number in range(len(x)):
        h, layout = tower.embed(part(x, number, number + 1))
        dense = since % interval == 0
        if not dense and cut is not None:
            k = tower.blocks[0].k(tower.blocks[0].norm1(h))
            dense = functional.cosine_similarity(k, reference[0][0], dim=-1).mean() < cut
        if dense:
            reference, since = [], 0 if cut is not None else since
            for block in tower.blocks:
                normed = block.norm1(h)
                (q, v), k = block.qv(normed), block.k(normed)
                a = block.out(block.attend(q, k, v, layout))
                m = block.mlp(block.norm2(h + a))
                h = h + a + m
                reference.append((k, v, a, m))
        else:
            for depth, (block, (k_ref, v_ref, a_ref, m_ref)) in enumerate(zip(tower.blocks, reference)):
                normed = block.norm1(h)
                k = block.k(normed)
                if depth % every == 0:
                    similarity = functional.cosine_similarity(k[0], k_ref[0], dim=-1)
                    similarity = similarity.unflatten(0, (-1, group)).mean(1)
                    chosen = similarity.argsort()[: max(1, int(len(similarity) * ratio))]
                    chosen = (chosen[:, None] * group + torch.arange(group)).flatten()
                v, a, m = v_ref.clone(), a_ref.clone(), m_ref.clone()
                q, v[:, chosen] = block.qv(normed[:, chosen])
                if len(chosen):
                    a[:, chosen] = block.out(block.attend(q, k, v, layout, chosen[None]))
                h = h + a
                m[:, chosen] = block.mlp(block.norm2(h)[:, chosen])
                h = h + m
        since += 1
        outputs.append(h[0])
    return torch.stack(outputs)
