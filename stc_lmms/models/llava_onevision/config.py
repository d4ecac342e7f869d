"""Sizes of a LLaVA-OneVision checkpoint from its config, and checks of settings."""

import math
from typing import Any

from stc_lmms import compat, compat_llm
from stc_lmms.config import Settings
from stc_lmms.engine.api import checkpoint
from stc_lmms.errors import CheckpointError, SettingsError
from stc_lmms.ops.grid import halved


def read_config(settings: Settings) -> Any:
    """See `LoadedModel.read_config`."""
    config = compat.load_config(checkpoint(settings), "llava_onevision", settings.revision, demo=True)
    if not isinstance(config.vision_feature_layer, int):
        raise CheckpointError(
            f"{settings.pretrained!r} combines vision layers {config.vision_feature_layer}; one is supported"
        )
    return config


def check_fit(settings: Settings, config: Any) -> None:
    """Raise `SettingsError` if a method, memory or option does not fit a model of this config."""
    method, memory, text = settings.built_method, settings.built_memory, config.text_config
    if method.tower is not None:
        method.tower.check(1)  # its towers have no merge groups
        method.tower.check_budget(patch_grid(config), layers_used(config))
    if method.token is not None:
        method.token.check(tokens_per_frame(config))
    compat_llm.check_hook(memory, settings.memory, text)
    if settings.built_model_options.positions == "original":
        if memory.one_axis:
            raise SettingsError(
                f"memory={settings.memory} renumbers positions itself, so it cannot keep positions=original; "
                "use memory=full or recent"
            )
        if settings.attn_implementation.startswith("flash"):
            raise SettingsError(
                f"attn_implementation={settings.attn_implementation} takes gaps in the positions for "
                "separate sequences; use sdpa with positions=original"
            )
    memory.check(text.num_hidden_layers, None if method.token else tokens_per_frame(config))


def tokens_per_frame(config: Any) -> int:
    """LLM tokens of one frame after the 2x2 pooling: 196 for 27 x 27 patches."""
    return math.prod(halved(patch_grid(config)))


def patch_grid(config: Any) -> tuple[int, int]:
    """Rows and columns of a frame's patches in the tower."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return side, side


def layers_used(config: Any) -> int:
    """Number of tower layers up to the features."""
    depth, layer = config.vision_config.num_hidden_layers, config.vision_feature_layer
    return layer if layer >= 0 else depth + 1 + layer
