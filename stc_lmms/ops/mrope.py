"""M-RoPE: rotary positions on three axes (time, row, column), and the position ids of a stream's tokens.

Source: Qwen2-VL (arXiv 2409.12191), section on multimodal rotary position embedding. A text token has the
same position on all axes, one more than the token before it. Token (t, i, j) of a video that starts at p has
the position (p+t, p+i, p+j), and the next token follows the largest position of the video on any axis. (Since
5.x, transformers' own `get_rope_index` excludes the time axis from that maximum, so the text after a long
video overlaps it; the models were trained with the rule above.)

Shapes: L tokens, K kept tokens of a slice, F slices, B deepstack levels, D width, d head width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from stc_lmms.lazy import Tensor, torch
from stc_lmms.ops.positions import PositionedEmbeds
from stc_lmms.ops.transfer import to_device


@dataclass(frozen=True, eq=False)
class FramePair:
    """LLM tokens of one temporal slice, after the token method.

    Attributes:
        kept_K: int64 index of each token in the full grid, in raster order.
        grid: rows and columns of the full grid.
        time_s: time stamp in seconds, the mean of the two frames.
        deepstack_BKD: features for the first B decoder layers; None where the model has none.
    """

    tokens_KD: Tensor
    kept_K: Tensor
    grid: tuple[int, int]
    time_s: float
    deepstack_BKD: Tensor | None = None


@dataclass
class MropePositions:
    """Assigns position ids to a stream, piece by piece.

    Attributes:
        next: position of the next text token on each axis.
        start: start of the current video; None outside a video.
        end: number of positions that the current video occupies on the time axis.
        first: offset on the time axis of the oldest slice of the current video that is still visible. Text
            after the video is placed as if the video had started with that slice.
    """

    next: tuple[int, int, int] = (0, 0, 0)
    start: tuple[int, int, int] | None = None
    end: int = 0
    first: int = 0
    _grid: tuple[int, int] = (0, 0)
    _origin: tuple[int, int, int] | None = None  # of the first slice with a time stamp

    def copy(self, first: int = 0) -> MropePositions:
        """An independent copy, with another oldest slice."""
        other = dataclasses.replace(self, first=first)
        if other.start is not None:
            other._end_of_video()
        return other

    def text(self, embeds_LD: Tensor, deepstack_BLD: Tensor | None = None) -> PositionedEmbeds:
        """Tokens at consecutive positions, equal on all axes; ends the current video."""
        length = len(embeds_LD)
        steps_L = torch.arange(length, device=embeds_LD.device)
        position_ids_3L = steps_L + self._tensor(self.next, embeds_LD)[:, None]
        if length:
            self.next, self.start = tuple(position + length for position in self.next), None
        return PositionedEmbeds(embeds_LD, position_ids_3L, position_ids_3L.new_empty(0, 3), deepstack_BLD)

    def slice(self, one: FramePair, offset: int) -> PositionedEmbeds:
        """The next slice of the current or a new video, `offset` time positions after its start."""
        if self.start is None:
            self.start, self.end, self.first = self.next, 0, 0
        kept_K, columns = one.kept_K, one.grid[1]
        steps_3K = torch.stack((torch.full_like(kept_K, offset), kept_K // columns, kept_K % columns))
        self.end, self._grid = max(self.end, offset + 1), one.grid
        position_ids_3K = steps_3K + self._tensor(self.start, one.kept_K)[:, None]
        self._end_of_video()
        shift = self._tensor((offset, 0, 0), one.kept_K)[None]
        return PositionedEmbeds(one.tokens_KD, position_ids_3K, shift, one.deepstack_BKD)

    def stamped(self, one: FramePair, before_LD: Tensor, after_LD: Tensor) -> PositionedEmbeds:
        """The next slice as a video of its own, between two pieces of text."""
        self._origin = self._origin or self.next
        shift = tuple(now - then for now, then in zip(self.next, self._origin, strict=True))
        pieces = [self.text(before_LD), self.slice(one, 0), self.text(after_LD)]
        shifts_FA = self._tensor(shift, one.kept_K)[None]
        return dataclasses.replace(PositionedEmbeds.join(pieces), shifts_FA=shifts_FA)

    def _end_of_video(self) -> None:
        extent = max(self.end - self.first, *self._grid)
        time, row, column = (position + extent for position in self.start)
        self.next = (time + self.first, row, column)

    @staticmethod
    def _tensor(position: Sequence[int], like: Tensor) -> Tensor:
        return to_device(position, like.device, torch.long)


def axis_of_frequency(sections: Sequence[int], interleaved: bool) -> Tensor:
    """The axis of each of the d/2 frequencies, int64 [d/2].

    Args:
        sections: number of frequencies of time, row and column.
        interleaved: Qwen3-VL alternates the axes (time, row, column, time, ...) while rows and columns have
            frequencies left, and the rest is time; the other models give each axis one contiguous run.
    """
    if not interleaved:
        return torch.tensor([number for number in range(3) for _ in range(sections[number])])
    axis = torch.zeros(sum(sections), dtype=torch.long)
    for number in (1, 2):
        axis[number : 3 * sections[number] : 3] = number
    return axis
