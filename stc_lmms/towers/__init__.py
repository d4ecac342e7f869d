"""Vision towers behind one adapter contract."""

from torch import nn

from stc_lmms.errors import CheckpointError
from stc_lmms.towers.base import Block, Tower
from stc_lmms.towers.clip import ClipTower
from stc_lmms.towers.siglip import SiglipTower

TOWERS: dict[str, type[Tower]] = {
    "siglip_vision_model": SiglipTower,
    "clip_vision_model": ClipTower,
}


def open_tower(model: nn.Module, feature_layer: int = -1) -> Tower:
    """Wrap a transformers vision model in the adapter of its family.

    Raises:
        CheckpointError: no adapter knows this family.
    """
    family = model.config.model_type
    if family not in TOWERS:
        raise CheckpointError(f"vision tower {family!r} is not supported; supported: {', '.join(TOWERS)}")
    return TOWERS[family](model, feature_layer)


__all__ = ["TOWERS", "Block", "ClipTower", "SiglipTower", "Tower", "open_tower"]
