"""Pixel values of Dispider's tower: frames squashed to a square, then CLIP's preprocessing.

Source: `process_data` of the released scripts. The resize is Pillow's bicubic one (two passes, each rounded
to whole grey levels), in float32 on any device; a few values in ten thousand differ from it by one level.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from stc_lmms.ops.transfer import to_device


def squash(frames_FCHW: Tensor) -> Tensor:
    """Float frames as squares of their shorter side: nearest pixel of the whole frame, no crop."""
    side = min(frames_FCHW.shape[2:])
    return functional.interpolate(frames_FCHW, size=(side, side), mode="nearest")


def pixel_values(frames: np.ndarray, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Frames uint8 RGB [F,H,W,3] to pixel values [F,3,size,size] on `device`."""
    raw = to_device(np.ascontiguousarray(frames), device)
    square = squash(raw.permute(0, 3, 1, 2).float())
    wide = _grey(_resize(square, (square.shape[2], size)))  # along the rows first, as Pillow does
    resized = _grey(_resize(wide, (size, size)))
    colours = to_device((OPENAI_CLIP_MEAN, OPENAI_CLIP_STD), device, torch.float32)
    mean, std = colours.view(2, 3, 1, 1)
    return ((resized / 255 - mean) / std).to(dtype)


def _resize(x_FCHW: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(x_FCHW, size=size, mode="bicubic", antialias=True, align_corners=False)


def _grey(x_FCHW: Tensor) -> Tensor:
    return x_FCHW.round_().clamp_(0, 255)
