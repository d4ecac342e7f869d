"""Embeddings with their rotary position ids.

A token method drops tokens. As published, the remaining ones close the gaps: a frame of 64 of 196 tokens
spans 64 positions, so to a model that infers time from distance, time appears to run faster. With
`DensePositions` every token keeps the position it has in the dense stream.

Shapes: L tokens, M kept tokens of F frames, N tokens of a frame, A axes, B deepstack levels, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from stc_lmms.lazy import Tensor, torch


@dataclass(frozen=True, eq=False)
class PositionedEmbeds:
    """Embeddings with their position ids, the input of a decoder and its memory.

    Attributes:
        position_ids_AL: int64 positions on every axis, counted from the start of the stream.
        shifts_FA: for each slice, by how much its positions would decrease if the video started with it;
            needed by memories that drop old slices.
        deepstack_BLD: features added to the hidden states after the first B decoder layers, zero for text;
            None if the model has none.
    """

    embeds_LD: Tensor
    position_ids_AL: Tensor
    shifts_FA: Tensor
    deepstack_BLD: Tensor | None = None

    def __len__(self) -> int:
        return len(self.embeds_LD)

    def __getitem__(self, part: slice) -> PositionedEmbeds:
        """A range of the tokens, without shifts."""
        deepstack = None if self.deepstack_BLD is None else self.deepstack_BLD[:, part]
        return PositionedEmbeds(
            self.embeds_LD[part], self.position_ids_AL[:, part], self.shifts_FA[:0], deepstack
        )

    @staticmethod
    def join(pieces: Sequence[PositionedEmbeds]) -> PositionedEmbeds:
        """Concatenate pieces."""
        if len(pieces) == 1:
            return pieces[0]
        levels = [len(piece.deepstack_BLD) for piece in pieces if piece.deepstack_BLD is not None]
        deepstack = None
        if levels:
            deepstack = torch.cat([piece._deepstack(levels[0]) for piece in pieces], dim=1)
        return PositionedEmbeds(
            torch.cat([piece.embeds_LD for piece in pieces]),
            torch.cat([piece.position_ids_AL for piece in pieces], dim=1),
            torch.cat([piece.shifts_FA for piece in pieces]),
            deepstack,
        )

    def _deepstack(self, levels: int) -> Tensor:
        if self.deepstack_BLD is not None:
            return self.deepstack_BLD
        return self.embeds_LD.new_zeros(levels, *self.embeds_LD.shape)


class ContiguousPositions:
    """Consecutive positions, which the decoder assigns by itself."""

    def text(self, embeds_LD: Tensor) -> Tensor:
        """The embeddings."""
        return embeds_LD

    def frames(self, tokens_MD: Tensor, kept_M: Tensor, frames: int, tokens: int) -> Tensor:
        """The tokens."""
        return tokens_MD

    def copy(self) -> ContiguousPositions:
        """Itself: it has no state."""
        return self

    @staticmethod
    def join(pieces: Sequence[Tensor]) -> Tensor:
        """Concatenate pieces."""
        return torch.cat(tuple(pieces))


@dataclass
class DensePositions:
    """Assigns the positions of the dense stream, on one axis.

    Attributes:
        next: position of the next token.
        video: position of the first token of the first frame; None before it.
    """

    next: int = 0
    video: int | None = None
    join = staticmethod(PositionedEmbeds.join)

    def text(self, embeds_LD: Tensor) -> PositionedEmbeds:
        """Text at consecutive positions."""
        position_ids_L = torch.arange(self.next, self.next + len(embeds_LD), device=embeds_LD.device)
        self.next += len(embeds_LD)
        return PositionedEmbeds(embeds_LD, position_ids_L[None], position_ids_L.new_empty(0, 1))

    def frames(self, tokens_MD: Tensor, kept_M: Tensor, frames: int, tokens: int) -> PositionedEmbeds:
        """The kept tokens of the next frames; `kept_M` (int64) are indices among all `frames * tokens`."""
        self.video = self.next if self.video is None else self.video
        starts_F = self.next + tokens * torch.arange(frames, device=kept_M.device)
        position_ids_M, self.next = kept_M + self.next, self.next + frames * tokens
        return PositionedEmbeds(tokens_MD, position_ids_M[None], (starts_F - self.video)[:, None])

    def copy(self) -> DensePositions:
        """An independent copy."""
        return dataclasses.replace(self)
