"""What Dispider keeps of a stream, clip by clip.

The merged tower tokens of a clip stay in host memory until a question retrieves it; its memory states and the
indicator by which it is retrieved stay on the compute device.

Shapes: F frames of a clip, R tokens per frame, C their width, M memory states, D width of the compact model.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClipState:
    """One clip."""

    tokens_FRC: Tensor  # merged tower tokens
    memory_MD: Tensor  # states of the compact model at the clip's slots
    indicator_D: Tensor  # its state at the end of the clip
    start_s: float  # in the clip's time sentence, from the start of the stream
    end_s: float


class ClipMemory(list[ClipState]):
    """The clips of one stream, in order of time; clips are never changed."""

    @property
    def indicators_ND(self) -> Tensor:
        """Indicators of all N clips."""
        return torch.stack([clip.indicator_D for clip in self])

    @property
    def nbytes(self) -> int:
        """Bytes on the compute device."""
        return sum(clip.memory_MD.nbytes + clip.indicator_D.nbytes for clip in self)

    @property
    def archive_nbytes(self) -> int:
        """Bytes in host memory."""
        return sum(clip.tokens_FRC.nbytes for clip in self)

    def append(self, clip: ClipState) -> None:
        """Add a clip; its tokens move to host memory."""
        super().append(dataclasses.replace(clip, tokens_FRC=clip.tokens_FRC.to("cpu")))
