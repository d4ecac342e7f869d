"""Checks of settings against a Qwen-VL checkpoint's config, and frame sizes."""

import math
from typing import Any

from stc_lmms import compat_llm
from stc_lmms.config import Settings
from stc_lmms.errors import SettingsError, StcError
from stc_lmms.methods.base import ATTENTION
from stc_lmms.methods.budget import within


def check_fit(settings: Settings, config: Any) -> None:
    """Raise `SettingsError` if a method or memory does not fit a model of this config.

    The tokens of a slice are known at the first frame; here a budget is compared with their upper limit.
    """
    method, memory, text = settings.built_method, settings.built_memory, config.text_config
    if method.tower is not None:
        method.tower.check(config.vision_config.spatial_merge_size**2)
    if method.token is not None and method.token.needs & ATTENTION:
        raise SettingsError(
            f"method={settings.method} reads the attention of the tower's last layer, which is not supported "
            f"for Qwen-VL towers (their keys are rotated); use stc_pruner or vidcom2"
        )
    budget = settings.options.get("token_budget")
    if budget is not None and method.token is not None:
        within(budget, settings.built_model_options.largest_slice)
    if memory.one_axis:
        raise SettingsError(
            f"memory={settings.memory} gives retrieved tokens new positions on one axis, but those of "
            f"{settings.model} have three (time, row, column); use full or recent"
        )
    compat_llm.check_hook(memory, settings.memory, text)
    memory.check(text.num_hidden_layers, None)


def time_stride(config: Any, fps: float) -> float:
    """Position ids on the time axis from one slice to the next, frames sampled every `1 / fps` seconds.

    Qwen2.5-VL counts time, `tokens_per_second` a second: the offset of slice n is int(n * stride). The others
    count slices.
    """
    vision = config.vision_config
    per_second = getattr(vision, "tokens_per_second", None)
    return 1.0 if per_second is None else per_second * vision.temporal_patch_size / fps


def frame_size(height: int, width: int, side: int, least: int, most: int) -> tuple[int, int]:
    """Height and width that a frame is resized to, in pixels; nearly keeps the aspect ratio.

    Args:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        side: pixels of an LLM token's side; both results are multiples of it.
        least: minimum of LLM tokens per slice; enlarging rounds up.
        most: maximum of LLM tokens per slice; shrinking rounds down.

    Raises:
        StcError: the frame is smaller than one token, or more than 200 times as long as wide.
    """
    if min(height, width) < side:
        raise StcError(f"a frame of {width}x{height} pixels is below the minimum of {side}x{side}")
    if max(height, width) > 200 * min(height, width):
        raise StcError(f"a frame of {width}x{height} pixels is more than 200 times as long as wide")
    rows, columns = round(height / side), round(width / side)
    if rows * columns > most:
        shrink = math.sqrt(height * width / (most * side**2))
        rows = max(1, math.floor(height / shrink / side))
        columns = max(1, math.floor(width / shrink / side))
    elif rows * columns < least:
        grow = math.sqrt(least * side**2 / (height * width))
        rows, columns = math.ceil(height * grow / side), math.ceil(width * grow / side)
    return rows * side, columns * side
