"""Embeddings that carry their places: where rotary positions see them.

A token method leaves tokens out. As published, those that stay close the gaps: a frame of 64 of 196 tokens
is 64 places long, and a model that tells time by distance finds its clock running faster. With `Line` every
token stays where it would be in the dense stream.

Shapes: L tokens, M kept tokens of F frames, N tokens of a frame, A axes, B deepstack levels, D width.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Placed:
    """Embeddings and where they stand: what a decoder and its memory are given.

    Attributes:
        embeds_LD: the embeddings.
        places_AL: int64 places on every axis, counted from the start of the stream.
        shifts_FA: for each slice in it, how much nearer to the text before the video it would stand if the
            video began with it; a memory that forgets old slices needs it.
        deepstack_BLD: added to the hidden states behind the first B decoder layers, zero for text; None: no
            such features.
    """

    embeds_LD: Tensor
    places_AL: Tensor
    shifts_FA: Tensor
    deepstack_BLD: Tensor | None = None

    def __len__(self) -> int:
        return len(self.embeds_LD)

    def __getitem__(self, part: slice) -> "Placed":
        """Some of the tokens, without shifts."""
        deepstack = None if self.deepstack_BLD is None else self.deepstack_BLD[:, part]
        return Placed(self.embeds_LD[part], self.places_AL[:, part], self.shifts_FA[:0], deepstack)

    @staticmethod
    def join(pieces: Sequence["Placed"]) -> "Placed":
        """One piece behind the other."""
        if len(pieces) == 1:
            return pieces[0]
        levels = [len(piece.deepstack_BLD) for piece in pieces if piece.deepstack_BLD is not None]
        deepstack = None
        if levels:
            deepstack = torch.cat([piece._deepstack(levels[0]) for piece in pieces], dim=1)
        return Placed(
            torch.cat([piece.embeds_LD for piece in pieces]),
            torch.cat([piece.places_AL for piece in pieces], dim=1),
            torch.cat([piece.shifts_FA for piece in pieces]),
            deepstack,
        )

    def _deepstack(self, levels: int) -> Tensor:
        if self.deepstack_BLD is not None:
            return self.deepstack_BLD
        return self.embeds_LD.new_zeros(levels, *self.embeds_LD.shape)


class Closed:
    """Leaves placing to the decoder: every token stands behind the one before it."""

    def text(self, embeds_LD: Tensor) -> Tensor:
        """The embeddings."""
        return embeds_LD

    def frames(self, tokens_MD: Tensor, kept_M: Tensor, frames: int, tokens: int) -> Tensor:
        """The tokens."""
        return tokens_MD

    def copy(self) -> "Closed":
        """Itself: it remembers nothing."""
        return self

    @staticmethod
    def join(pieces: Sequence[Tensor]) -> Tensor:
        """One piece behind the other."""
        return torch.cat(tuple(pieces))


@dataclass
class Line:
    """Gives a stream's tokens the places of the dense stream, on one axis.

    Attributes:
        next: place of the next token.
        video: place of the first frame's first token; None before it.
    """

    next: int = 0
    video: int | None = None
    join = staticmethod(Placed.join)

    def text(self, embeds_LD: Tensor) -> Placed:
        """Text at consecutive places."""
        places_L = torch.arange(self.next, self.next + len(embeds_LD), device=embeds_LD.device)
        self.next += len(embeds_LD)
        return Placed(embeds_LD, places_L[None], places_L.new_empty(0, 1))

    def frames(self, tokens_MD: Tensor, kept_M: Tensor, frames: int, tokens: int) -> Placed:
        """What is left of the next frames.

        Args:
            tokens_MD: the tokens that are left.
            kept_M: int64 number of each among all `frames * tokens`.
            frames: how many frames.
            tokens: of a whole frame.
        """
        self.video = self.next if self.video is None else self.video
        starts_F = self.next + tokens * torch.arange(frames, device=kept_M.device)
        places_M, self.next = kept_M + self.next, self.next + frames * tokens
        return Placed(tokens_MD, places_M[None], (starts_F - self.video)[:, None])

    def copy(self) -> "Line":
        """The same, going on by itself."""
        return dataclasses.replace(self)
