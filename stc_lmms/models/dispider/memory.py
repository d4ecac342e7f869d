"""Clip memory: what Dispider keeps of a stream, clip by clip.

The merged tower tokens of a clip stay in host memory until a question retrieves it; its memory states and the
indicator by which it is retrieved stay on the compute device.

Shapes: F frames of a clip, R tokens per frame, C their width, M memory states, D width of the compact model.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClipState:
    """One clip.

    Attributes:
        tokens_FRC: merged tower tokens.
        memory_MD: states of the compact model at the clip's slots.
        indicator_D: the clip indicator, its state at the end of the clip.
        start_s: start in the clip's time sentence, in seconds from the start of the stream.
        end_s: end in that sentence.
    """

    tokens_FRC: Tensor
    memory_MD: Tensor
    indicator_D: Tensor
    start_s: float
    end_s: float


class ClipMemory(Sequence[ClipState]):
    """The clips of one stream, in order of time; clips are never changed."""

    def __init__(self, clips: Sequence[ClipState] = ()):
        self._clips = list(clips)

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> ClipState:  # type: ignore[override]  # no slices
        return self._clips[index]

    def __iter__(self) -> Iterator[ClipState]:
        return iter(self._clips)

    @property
    def indicators_ND(self) -> Tensor:
        """Indicators of all N clips."""
        return torch.stack([clip.indicator_D for clip in self._clips])

    @property
    def nbytes(self) -> int:
        """Bytes on the compute device."""
        return sum(clip.memory_MD.nbytes + clip.indicator_D.nbytes for clip in self._clips)

    @property
    def archive_nbytes(self) -> int:
        """Bytes in host memory."""
        return sum(clip.tokens_FRC.nbytes for clip in self._clips)

    def append(self, clip: ClipState) -> None:
        """Add a clip; its tokens move to host memory."""
        self._clips.append(dataclasses.replace(clip, tokens_FRC=clip.tokens_FRC.to("cpu")))

    def followed_by(self, clip: ClipState | None) -> "ClipMemory":
        """A memory of these clips and one more, which may be incomplete."""
        return self if clip is None else ClipMemory([*self._clips, clip])

    def first(self, count: int) -> "ClipMemory":
        """The first `count` clips."""
        return ClipMemory(self._clips[:count])
