"""The language model's forward pass for training: many questions share one visual prefix.

Equal to the stock model's (a test compares the logits), but a clip is computed once for all its questions.
Question tokens attend to the prefix up to their frame and to themselves; their positions continue from there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Batch:
    """B clips with Q questions each, padded.

    Attributes:
        head: int64 [H], tokens before the video.
        visual: float [B,V,D], tokens of the kept frames.
        seen: int64 [B,Q], number of visual tokens each question sees.
        ids: int64 [B,Q,L], tokens after the video.
        newline: whether the model's newline token ends the video.
    """

    head: Tensor
    visual: Tensor
    seen: Tensor
    ids: Tensor
    newline: bool


class PackedQwen2(nn.Module):
    """A forward pass of our own over the parameters of a stock LLaVA-OneVision's language model."""

    def __init__(self, stock: nn.Module):
        super().__init__()
        self.core, self.lm_head = stock.model.language_model, stock.lm_head
        self.newline = stock.model.image_newline
        config = self.core.config
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.size = config.hidden_size // self.heads
        theta = (
            config.rope_parameters["rope_theta"] if hasattr(config, "rope_parameters") else config.rope_theta
        )
        self.register_buffer(
            "frequency", theta ** -(torch.arange(0, self.size, 2) / self.size), persistent=False
        )

    def forward(self, batch: Batch, read_after: int) -> tuple[Tensor, Tensor]:
        """Hidden states of the questions [B,Q,L,D] after the last norm, and of the visual tokens [B,V,D].

        The latter after the first `read_after` layers, with the same norm.
        """
        embed = self.core.embed_tokens
        count, questions, length = batch.ids.shape
        prefix = torch.cat((embed(batch.head).expand(count, -1, -1), batch.visual), 1)
        questions_BQLD = embed(batch.ids)
        if batch.newline:
            newline = self.newline.expand(count, questions, 1, -1)
            questions_BQLD, length = torch.cat((newline, questions_BQLD), 2), length + 1
        split = prefix.shape[1]
        seen = batch.seen + len(batch.head)
        positions = torch.cat(
            (torch.arange(split).expand(count, -1), (seen[..., None] + torch.arange(length)).flatten(1)), 1
        )
        angles = positions[..., None] * self.frequency
        angles = torch.cat((angles, angles), -1)
        cos_sin = angles.cos()[:, None], angles.sin()[:, None]
        hidden_prefix = (torch.arange(split) >= seen[..., None])[:, None, None, :, None]  # [B,1,1,Q,1,P]
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        x = torch.cat((prefix, questions_BQLD.flatten(1, 2)), 1)
        read = x
        for number, layer in enumerate(self.core.layers):
            if number == read_after:
                read = self.core.norm(x[:, len(batch.head) : split])
            last = number == len(self.core.layers) - 1
            x = self._layer(layer, x, split, (questions, length), cos_sin, hidden_prefix, future, last)
        return self.core.norm(x).unflatten(1, (questions, length))[:, :, int(batch.newline) :], read

    def _layer(self, layer, x, split, shape, cos_sin, hidden_prefix, future, last) -> Tensor:
        attention, (questions, length) = layer.self_attn, shape
        normed = layer.input_layernorm(x)
        q, k, v = (
            project(normed).unflatten(-1, (-1, self.size)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = _rotate(q, cos_sin).to(v.dtype), _rotate(k, cos_sin).to(v.dtype)
        out = []
        if not last:  # nothing reads the prefix after the last layer
            out.append(
                functional.scaled_dot_product_attention(
                    q[:, :, :split], k[:, :, :split], v[:, :, :split], is_causal=True, enable_gqa=True
                )
            )
        count, per = len(x), self.heads // self.groups
        asking = q[:, :, split:].unflatten(1, (self.groups, per)) * self.size**-0.5  # [B,G,R,QL,d]
        to_prefix = asking.flatten(2, 3) @ k[:, :, :split].mT
        to_prefix = to_prefix.view(count, self.groups, per, questions, length, split)
        own_k, own_v = (t[:, :, split:].unflatten(2, (questions, length)) for t in (k, v))  # [B,G,Q,L,d]
        own = asking.unflatten(3, (questions, length)).transpose(2, 3)  # [B,G,Q,R,L,d]
        to_own = (own.flatten(3, 4) @ own_k.mT).unflatten(3, (per, length)).transpose(2, 3)
        scores = torch.cat(
            (
                to_prefix.float().masked_fill(hidden_prefix, -torch.inf),
                to_own.float().masked_fill(future, -torch.inf),
            ),
            -1,
        )
        weights = scores.softmax(-1).to(v.dtype)
        from_prefix = weights[..., :split].flatten(2, 4) @ v[:, :, :split]
        from_own = weights[..., split:].transpose(2, 3).flatten(3, 4) @ own_v  # [B,G,Q,RL,d]
        from_own = from_own.unflatten(3, (per, length)).transpose(2, 3).flatten(2, 4)
        out.append((from_prefix + from_own).unflatten(2, (per, -1)).flatten(1, 2))
        x = (x[:, split:] if last else x) + attention.o_proj(torch.cat(out, 2).transpose(1, 2).flatten(2))
        return x + layer.mlp(layer.post_attention_layernorm(x))


def _rotate(x: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos_sin[0] + torch.cat((-x[..., half:], x[..., :half]), -1) * cos_sin[1]
