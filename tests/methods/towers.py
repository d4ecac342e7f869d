"""Tiny towers and the definition of STC-Cacher, frame by frame, written from the formulas."""

import torch
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from stc_lmms.towers import open_tower

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 48,
    "patch_size": 8,
}


def tiny_tower(kind, seed=0, **sizes):
    """A random tower whose tokens differ clearly from each other."""
    config_class, model_class = {
        "siglip": (SiglipVisionConfig, SiglipVisionModel),
        "clip": (CLIPVisionConfig, CLIPVisionModel),
    }[kind]
    torch.manual_seed(seed)
    config = config_class(**SIZES | sizes)
    config.vision_use_head = False
    model = model_class._from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embedding" not in name:
                weight.copy_(torch.randn_like(weight) * weight.shape[-1] ** -0.5)
    return open_tower(model)


def drifting_frames(count, size=48, seed=0):
    """Pixel values [count,3,size,size]: a scene that changes a little with every frame."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, size, size, generator=generator)
    return torch.randn(1, 3, size, size, generator=generator) + 0.3 * noise.cumsum(0)


@torch.no_grad()
def frame_by_frame(tower, frames, interval, ratio, shared=False):
    """Last hidden states of each frame, computed one frame at a time on the stock sub-modules."""
    outputs, reference = [], None
    for number, frame in enumerate(frames):
        h = tower.embed(frame[None])
        if number % interval == 0:
            reference = []
            for block in tower.blocks:
                layer = block.layer
                x = layer.layer_norm1(h)
                k, v = layer.self_attn.k_proj(x), layer.self_attn.v_proj(x)
                a = layer.self_attn.out_proj(_attention(layer.self_attn, layer.self_attn.q_proj(x), k, v))
                m = layer.mlp(layer.layer_norm2(h + a))
                h = h + a + m
                reference.append((k, v, a, m))
        else:
            chosen = None
            for block, (k_ref, v_ref, a_ref, m_ref) in zip(tower.blocks, reference, strict=True):
                layer = block.layer
                x = layer.layer_norm1(h)
                k = layer.self_attn.k_proj(x)
                if chosen is None or not shared:
                    similarity = functional.cosine_similarity(k[0], k_ref[0], dim=-1)
                    chosen = similarity.argsort()[: max(1, int(len(similarity) * ratio))]
                v, a, m = v_ref.clone(), a_ref.clone(), m_ref.clone()
                v[:, chosen] = layer.self_attn.v_proj(x[:, chosen])
                q = layer.self_attn.q_proj(x[:, chosen])
                a[:, chosen] = layer.self_attn.out_proj(_attention(layer.self_attn, q, k, v))
                h = h + a
                m[:, chosen] = layer.mlp(layer.layer_norm2(h)[:, chosen])
                h = h + m
        outputs.append(h[0])
    return torch.stack(outputs)


def _attention(attention, q, k, v):
    """Softmax attention of one frame, written out."""
    q, k, v = (x[0].unflatten(-1, (attention.num_heads, -1)).transpose(0, 1) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) * attention.scale).softmax(-1)
    return (weights @ v).transpose(0, 1).flatten(1)[None]
