"""Copies from the host to the device, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stc_lmms.lazy import Tensor, torch


def to_device(
    values: Tensor | np.ndarray | Sequence[int] | Sequence[float],
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The values on `device`; a tensor that need not be copied may share its memory with them.

    A copy from pageable memory makes the host wait until the device has finished all queued work. From pinned
    memory it is queued like a kernel, so the host can prepare the next step.
    A `dtype` is converted to on the device.
    """
    x = torch.as_tensor(values)
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory().to(device, non_blocking=True)
    return x.to(device, dtype)
