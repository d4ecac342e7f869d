"""Token streams whose rows end in a marker token: the recorded pipelines keep all markers of a frame.

Methods see the patches alone; here their choice is put back into the stream with markers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def with_markers(kept_M: Tensor, tokens_per_frame: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """Indices in the stream with markers: of each frame the kept patches, then all markers of its rows.

    Args:
        kept_M: indices of the kept patches in the flattened frames without markers.
        tokens_per_frame: how many belong to each frame.
        grid: rows and columns of the patches of a frame.
    """
    rows, columns = grid
    markers = torch.arange(1, rows + 1, device=kept_M.device) * (columns + 1) - 1
    parts = []
    for frame, index in enumerate(kept_M.split(list(tokens_per_frame))):
        patches = index - frame * rows * columns
        there = torch.cat((patches + patches // columns, markers))
        parts.append(there + frame * rows * (columns + 1))
    return torch.cat(parts)
