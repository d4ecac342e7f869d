"""Vision towers with a common adapter interface."""

from torch import nn

from stc_lmms.errors import CheckpointError
from stc_lmms.towers.base import Block, Layout, Tower
from stc_lmms.towers.clip import ClipTower
from stc_lmms.towers.packed import Patches
from stc_lmms.towers.qwen_vl import Qwen2_5_VLTower, Qwen2VLTower, Qwen3VLTower
from stc_lmms.towers.siglip import SiglipTower

# By `model_type` of the vision config; transformers 4.56 uses that of the complete model for Qwen-VL.
TOWERS: dict[str, type[Tower]] = {
    "siglip_vision_model": SiglipTower,
    "clip_vision_model": ClipTower,
    "qwen2_vl": Qwen2VLTower,
    "qwen2_vl_vision": Qwen2VLTower,
    "qwen2_5_vl": Qwen2_5_VLTower,
    "qwen2_5_vl_vision": Qwen2_5_VLTower,
    "qwen3_vl": Qwen3VLTower,
    "qwen3_vl_vision": Qwen3VLTower,
}


def open_tower(model: nn.Module, feature_layer: int = -1) -> Tower:
    """Wrap a transformers vision model in the adapter of its family; `CheckpointError` if there is none."""
    family = model.config.model_type
    if family not in TOWERS:
        raise CheckpointError(f"vision tower {family!r} is not supported; supported: {', '.join(TOWERS)}")
    return TOWERS[family](model, feature_layer)


__all__ = ["TOWERS", "Block", "Layout", "Patches", "SiglipTower", "Tower", "open_tower"]
