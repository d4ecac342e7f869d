"""M-RoPE: rotary positions on three axes (time, row, column), and where the tokens of a stream stand.

Source: Qwen2-VL (arXiv 2409.12191), section on multimodal rotary position embedding. Text stands at the same
place on all axes, one further per token. A video that starts at p has its token (t, i, j) at
(p+t, p+i, p+j), and what follows stands at one more than the largest place it has on any axis. (From 5.x on
transformers' own `get_rope_index` leaves the time axis out of that maximum, so that the text behind a long
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
    """LLM tokens of one temporal slice, as a token method left them.

    Attributes:
        tokens_KD: the tokens.
        kept_K: int64 number of each in the full grid, in raster order.
        grid: rows and columns of the full grid.
        time_s: time stamp in seconds, the mean of its frames.
        deepstack_BKD: features for the first B decoder layers; None where the model has none.
    """

    tokens_KD: Tensor
    kept_K: Tensor
    grid: tuple[int, int]
    time_s: float
    deepstack_BKD: Tensor | None = None


@dataclass
class MropePositions:
    """Gives places to a stream, piece by piece.

    Attributes:
        next: place of the next text token on each axis.
        start: where the video that is open began; None while none is.
        end: places on the time axis that the open video takes.
        first: offset on the time axis of the oldest slice of the open video that is still seen. Text behind
            the video stands where it would, for that slice, if the video had begun there.
    """

    next: tuple[int, int, int] = (0, 0, 0)
    start: tuple[int, int, int] | None = None
    end: int = 0
    first: int = 0
    _grid: tuple[int, int] = (0, 0)
    _origin: tuple[int, int, int] | None = None  # of the first slice with a stamp

    def copy(self, first: int = 0) -> MropePositions:
        """The same, going on by itself, with another oldest slice."""
        other = dataclasses.replace(self, first=first)
        if other.start is not None:
            other._go_behind_video()
        return other

    def text(self, embeds_LD: Tensor, deepstack_BLD: Tensor | None = None) -> PositionedEmbeds:
        """Tokens at consecutive places, the same on all axes; a video that is open ends."""
        length = len(embeds_LD)
        position_ids_3L = (
            torch.arange(length, device=embeds_LD.device) + self._tensor(self.next, embeds_LD)[:, None]
        )
        if length:
            self.next, self.start = tuple(place + length for place in self.next), None
        return PositionedEmbeds(embeds_LD, position_ids_3L, position_ids_3L.new_empty(0, 3), deepstack_BLD)

    def slice(self, one: FramePair, offset: int) -> PositionedEmbeds:
        """The next slice of the open video; opens one at the present place if there is none.

        Args:
            one: the slice.
            offset: places on the time axis between the start of the video and it.
        """
        if self.start is None:
            self.start, self.end, self.first = self.next, 0, 0
        columns = one.grid[1]
        steps_3K = torch.stack(
            (torch.full_like(one.kept_K, offset), one.kept_K // columns, one.kept_K % columns)
        )
        self.end, self._grid = max(self.end, offset + 1), one.grid
        position_ids_3K = steps_3K + self._tensor(self.start, one.kept_K)[:, None]
        self._go_behind_video()
        shift = self._tensor((offset, 0, 0), one.kept_K)[None]
        return PositionedEmbeds(one.tokens_KD, position_ids_3K, shift, one.deepstack_BKD)

    def stamped(self, one: FramePair, before_LD: Tensor, behind_LD: Tensor) -> PositionedEmbeds:
        """The next slice as a video of its own, between two pieces of text."""
        self._origin = self._origin or self.next
        shift = tuple(now - then for now, then in zip(self.next, self._origin, strict=True))
        pieces = [self.text(before_LD), self.slice(one, 0), self.text(behind_LD)]
        return dataclasses.replace(
            PositionedEmbeds.join(pieces), shifts_FA=self._tensor(shift, one.kept_K)[None]
        )

    def _go_behind_video(self) -> None:
        extent = max(self.end - self.first, *self._grid)
        time, row, column = (place + extent for place in self.start)
        self.next = (time + self.first, row, column)

    @staticmethod
    def _tensor(place: Sequence[int], like: Tensor) -> Tensor:
        return to_device(place, like.device, torch.long)


def axis_of_frequency(sections: Sequence[int], interleaved: bool) -> Tensor:
    """Which axis turns each of the d/2 frequencies, int64 [d/2].

    Args:
        sections: how many frequencies time, row and column have.
        interleaved: Qwen3-VL takes turns (time, row, column, time, ...) as long as rows and columns have
            frequencies left, the rest is time; the others give each axis one run.
    """
    if not interleaved:
        return torch.tensor([number for number in range(3) for _ in range(sections[number])])
    axis = torch.zeros(sum(sections), dtype=torch.long)
    for number in (1, 2):
        axis[number : 3 * sections[number] : 3] = number
    return axis


def rotation_3d(
    position_ids_3L: Tensor, inv_freq: Tensor, axis: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine [L,d] at places on three axes; precision as in `ops.rope.rotation`.

    Args:
        position_ids_3L: int64.
        inv_freq: [d/2] angles per position.
        axis: of `axis_of_frequency`, on the same device.
        dtype: of the tensors that will be rotated.
    """
    angle = position_ids_3L[axis].T.double() * inv_freq.double()
    angle = torch.cat((angle, angle), dim=-1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return angle.cos().to(wide), angle.sin().to(wide)
