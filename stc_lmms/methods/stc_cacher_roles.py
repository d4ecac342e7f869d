"""Roles of the frames of one call: which are reference frames, and which reference a frame reuses.

Batches are cut out of a clip and joined again by slices, so no index is copied to the device.

Shapes: F frames of a call, R of them dense, S selective; T tower tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

from stc_lmms.lazy import Tensor, torch


class Run(NamedTuple):
    """Consecutive frames start..stop-1 of a call that have the same role."""

    dense: bool
    start: int
    stop: int


class Group(NamedTuple):
    """Selective frames start..stop-1 (counted among the selective) that reuse consecutive references.

    Attributes:
        stored: they reuse the reference that the stream had before the call.
        first, last: they reuse the references first..last-1, counted among the dense frames, in order.
        frames_each: how many frames reuse each of these.
    """

    start: int
    stop: int
    stored: bool
    first: int
    last: int
    frames_each: int

    def of(self, x_SXX: Tensor) -> Tensor:
        """The group's rows of a tensor of all selective frames, a view [references, frames_each, ...]."""
        return x_SXX[self.start : self.stop].unflatten(0, (-1, self.frames_each))


@dataclass(frozen=True)
class FrameRoles:
    """Roles of the frames of one call: dense frames are reference frames."""

    is_dense: tuple[bool, ...]

    @cached_property
    def runs(self) -> list[Run]:
        """The call, split where the role changes."""
        found, start = [], 0
        for dense, frames in groupby(self.is_dense):
            stop = start + len(list(frames))
            found.append(Run(dense, start, stop))
            start = stop
        return found

    @cached_property
    def dense(self) -> int:
        """R."""
        return sum(self.is_dense)

    @cached_property
    def selective(self) -> int:
        """S."""
        return len(self.is_dense) - self.dense

    @cached_property
    def groups(self) -> list[Group]:
        """The selective frames by reference; neighbouring references with equally many share a group."""
        found: list[Group] = []
        reference, start = 0, 0  # dense and selective frames so far
        for run in self.runs:
            length = run.stop - run.start
            if run.dense:
                reference += length
                continue
            last = found[-1] if found else None
            if last and not last.stored and last.frames_each == length and last.last == reference - 1:
                found[-1] = last._replace(stop=start + length, last=reference)
            else:
                stored = reference == 0
                first = 0 if stored else reference - 1
                found.append(Group(start, start + length, stored, first, max(reference, 1), length))
            start += length
        return found

    def split(self, h_FTD: Tensor) -> tuple[Tensor, Tensor]:
        """The dense frames [R,T,D] and the selective frames [S,T,D], contiguous."""
        return self._part(h_FTD, True), self._part(h_FTD, False)

    def _part(self, h_FTD: Tensor, dense: bool) -> Tensor:
        pieces = [h_FTD[run.start : run.stop] for run in self.runs if run.dense is dense]
        return torch.cat(pieces).contiguous() if len(pieces) > 1 else (*pieces, h_FTD[:0])[0].contiguous()

    def join(self, h_RTD: Tensor, h_STD: Tensor) -> Tensor:
        """The inverse of `split`."""
        if len(self.runs) < 2:
            return h_RTD if self.dense else h_STD
        rest = {True: h_RTD, False: h_STD}
        pieces = []
        for run in self.runs:
            length = run.stop - run.start
            pieces.append(rest[run.dense][:length])
            rest[run.dense] = rest[run.dense][length:]
        return torch.cat(pieces)


def interval_roles(step: int, frames: int, interval: int) -> tuple[bool, ...]:
    """Whether the frames step, step+1, ... are dense: every `interval`-th is, starting with frame 0."""
    return tuple((step + i) % interval == 0 for i in range(frames))


def adaptive_roles(
    step: int,
    frames: int,
    interval: int,
    threshold: float,
    stored: Sequence[float],
    lagged: Sequence[Sequence[float]],
) -> tuple[bool, ...]:
    """Roles when a scene cut starts a new interval.

    Args:
        step: frames since the last reference, inclusive; 0 before the first frame.
        frames: F.
        interval: largest distance between reference frames.
        threshold: a frame less similar than this to its reference becomes a reference.
        stored: similarity of the frames 0, 1, ... to the stream's reference (empty if there is none).
        lagged: lagged[d-1][i] is the similarity of frame i+d to frame i.
    """
    roles: list[bool] = []
    reference = -1  # index of the frame in this call; -1 is the stream's stored reference
    for i in range(frames):
        dense = step % interval == 0
        if not dense:
            similarity = stored[i] if reference < 0 else lagged[i - reference - 1][reference]
            dense = similarity < threshold
        if dense:
            step, reference = 0, i
        step += 1
        roles.append(dense)
    return tuple(roles)
