"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL vision towers (transformers 4.56 to 5.x; Qwen3-VL from 4.57).

Their input is packed: the patches of all temporal slices in one sequence, in which no slice attends to
another. Here a slice is a frame and slices are batched, [F,T,D]: this needs plain attention only, and no
sequence lengths are read back from the device. The dense pass uses the same parts; the stock layer would call
attention once per slice, and in Qwen2.5-VL once per window.

Shapes: F temporal slices, T tokens per slice, D width, Q queries, E head width, P and C see `packed`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from stc_lmms.errors import CheckpointError, StcError
from stc_lmms.towers.base import Block, Tower
from stc_lmms.towers.packed import GridLayout, Patches, Windows, build_layout, rotate

# Number of grids whose layouts a tower keeps; a stream from one camera needs one.
KEPT_LAYOUTS = 8


class QwenBlock(Block):
    """One layer of a Qwen-VL tower: fused qkv, 2-D rotary positions, attention in a slice or a window."""

    def __init__(self, layer: nn.Module, windowed: bool = False):
        self.layer = layer
        self.windowed = windowed
        self.heads: int = layer.attn.num_heads
        self.scale: float = layer.attn.scaling

    def norm1(self, h: Tensor) -> Tensor:
        return self.layer.norm1(h)

    def norm2(self, h: Tensor) -> Tensor:
        return self.layer.norm2(h)

    def k(self, x: Tensor) -> Tensor:
        return self._third(x, 1)

    def qv(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._third(x, 0), self._third(x, 2)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.layer.attn.qkv(x).chunk(3, dim=-1)

    def out(self, x: Tensor) -> Tensor:
        return self.layer.attn.proj(x)

    def mlp(self, x: Tensor) -> Tensor:
        return self.layer.mlp(x)

    def attend(
        self, q_FQD: Tensor, k_FTD: Tensor, v_FTD: Tensor, layout: GridLayout, index_FQ: Tensor | None = None
    ) -> Tensor:
        """See `Block.attend`; rotates queries and keys."""
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in (q_FQD, k_FTD, v_FTD))
        q, k = rotate(q, layout, index_FQ), rotate(k, layout)
        windows = layout.windows if self.windowed else None
        if windows is None:
            mixed = self._attention(q, k, v)
        elif index_FQ is None:
            mixed = self._attention_in_windows(q, k, v, windows)
        else:
            same_FQT = windows.of_T[index_FQ].unsqueeze(-1) == windows.of_T
            mixed = self._attention(q, k, v, same_FQT.unsqueeze(1))
        return mixed.flatten(2)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """[F,Q,heads,E]."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return mixed.transpose(1, 2)

    def _attention_in_windows(self, q: Tensor, k: Tensor, v: Tensor, windows: Windows) -> Tensor:
        """All windows of a size in one batch, without a T x T mask and without a call per window."""
        shape = q.shape
        if windows.same:
            q, k, v = (x.reshape(-1, windows.same, *shape[2:]) for x in (q, k, v))
            return self._attention(q, k, v).reshape(shape)
        mixed = torch.empty_like(q)
        for size, rows in windows.by_size:
            part = [x.index_select(1, rows).reshape(-1, size, *shape[2:]) for x in (q, k, v)]
            mixed.index_copy_(1, rows, self._attention(*part).reshape(shape[0], -1, *shape[2:]))
        return mixed

    def _third(self, x: Tensor, number: int) -> Tensor:
        """Rows number*D to (number+1)*D of the fused projection, without computing the others."""
        fused = self.layer.attn.qkv
        if not _is_plain(fused):  # LoRA, quantised, sharded or hooked: only the module knows its output
            return fused(x).chunk(3, dim=-1)[number]
        width = fused.out_features // 3
        rows = slice(number * width, (number + 1) * width)
        return functional.linear(x, fused.weight[rows], None if fused.bias is None else fused.bias[rows])


def _is_plain(module: nn.Module) -> bool:
    """Whether calling the module is the same as `functional.linear` with its weight."""
    return (
        type(module) is nn.Linear
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and "forward" not in vars(module)  # accelerate replaces it on the instance
    )


class QwenTower(Tower):
    """Base of the three families."""

    def __init__(self, model: nn.Module, feature_layer: int = -1):
        if feature_layer != -1:
            raise CheckpointError(
                f"a Qwen-VL tower has one feature, not vision_feature_layer={feature_layer}"
            )
        super().__init__(model, self._blocks(model))
        self.merge: int = model.config.spatial_merge_size
        self._layouts: dict[tuple, GridLayout] = {}

    def _blocks(self, model: nn.Module) -> list[QwenBlock]:
        return [QwenBlock(layer) for layer in model.blocks]

    @property
    def patch_weight(self) -> Tensor:
        return self.model.patch_embed.proj.weight

    def layout(self, size: tuple[int, int]) -> GridLayout:
        """Layout of a slice of (height, width) patches; kept for the next call."""
        weight = self.patch_weight
        key = (size, weight.device, weight.dtype)
        if key not in self._layouts:
            if size[0] % self.merge or size[1] % self.merge:
                raise StcError(
                    f"a grid of {size[0]}x{size[1]} patches does not divide into merge groups of "
                    f"{self.merge}x{self.merge}; use the checkpoint's own processor"
                )
            while len(self._layouts) >= KEPT_LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            frequency = self.model.rotary_pos_emb.inv_freq.to(weight.device)
            options = self._layout_options()
            self._layouts[key] = build_layout(size, self.merge, frequency, dtype=weight.dtype, **options)
        return self._layouts[key]

    def _layout_options(self) -> dict[str, int]:
        return {}

    def embed(self, patches: Patches) -> tuple[Tensor, GridLayout]:
        if not isinstance(patches, Patches):
            raise StcError(
                f"a {self.family} tower needs Patches(pixel_values_videos, video_grid_thw), "
                f"not {type(patches).__name__}"
            )
        rows = patches.rows_PC
        self.check_input("patches", rows)
        values = self.patch_weight[0].numel()
        if rows.shape[1] != values:
            raise StcError(
                f"a patch of this {self.family} tower has {values} values, not {rows.shape[1]}; "
                "use the checkpoint's own processor"
            )
        layout = self.layout(patches.size)
        return self.model.patch_embed(rows).view(len(patches), layout.tokens, -1), layout

    def finish(self, h_FTD: Tensor, layout: GridLayout) -> Tensor:
        """The merger: LLM tokens [F,G,width of the LLM] in raster order of their merge groups."""
        return self._merged(self.model.merger, h_FTD)

    @staticmethod
    def _merged(merger: nn.Module, h_FTD: Tensor) -> Tensor:
        return merger(h_FTD.flatten(0, 1)).unflatten(0, (len(h_FTD), -1))


class Qwen2VLTower(QwenTower):
    """Adapter of `Qwen2VisionTransformerPretrainedModel`."""


class Qwen2_5_VLTower(QwenTower):
    """Adapter of `Qwen2_5_VisionTransformerPretrainedModel`; its hidden states are in window order."""

    def _blocks(self, model: nn.Module) -> list[QwenBlock]:
        full = set(model.config.fullatt_block_indexes)
        return [QwenBlock(layer, windowed=depth not in full) for depth, layer in enumerate(model.blocks)]

    def _layout_options(self) -> dict[str, int]:
        config = self.config
        return {"window": config.window_size // config.spatial_merge_size // config.patch_size}

    def embed(self, patches: Patches) -> tuple[Tensor, GridLayout]:
        """Patch embedding in window order, [F,T,D]; see `Tower.embed`."""
        h_FTD, layout = super().embed(patches)
        groups = h_FTD.unflatten(1, (-1, layout.group))
        return groups.index_select(1, layout.order_G).flatten(1, 2), layout

    def finish(self, h_FTD: Tensor, layout: GridLayout) -> Tensor:
        """The merger, back in raster order."""
        return super().finish(h_FTD, layout).index_select(1, layout.back_G)


class Qwen3VLTower(QwenTower):
    """Adapter of `Qwen3VLVisionModel`: learned positions, and deepstack features after the blocks `taps`."""

    def __init__(self, model: nn.Module, feature_layer: int = -1):
        super().__init__(model, feature_layer)
        self.taps = tuple(model.config.deepstack_visual_indexes)

    def _layout_options(self) -> dict[str, int]:
        return {"table_side": int(self.config.num_position_embeddings**0.5)}

    def embed(self, patches: Patches) -> tuple[Tensor, GridLayout]:
        """Patch embedding plus interpolated positions, [F,T,D]; see `Tower.embed`."""
        h_FTD, layout = super().embed(patches)
        near_T4D = self.model.pos_embed(layout.table_rows_T4)
        place_TD = (near_T4D * layout.table_weights_T4.unsqueeze(-1)).sum(1)
        return h_FTD + place_TD.to(h_FTD.dtype), layout

    def deepstack(self, taps: list[Tensor], layout: GridLayout) -> tuple[Tensor, ...]:
        """See `Tower.deepstack`; [F,G,width of the LLM] each."""
        mergers = self.model.deepstack_merger_list
        return tuple(self._merged(merger, h) for merger, h in zip(mergers, taps, strict=True))
