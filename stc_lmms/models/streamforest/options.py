"""The arguments that only StreamForest has."""

from dataclasses import dataclass
from typing import Literal

from stc_lmms.models.streamforest.memory_options import ForestOptions


@dataclass(frozen=True)
class StreamForestOptions(ForestOptions):
    """The constants of its memory, and these.

    Attributes:
        time_text: the sentence about the frames' times before a question; the released evaluation has
            `short_online_v2`.
        grid: `fixed` samples `fps` frames per second from the clip's start, each frame once for all
            questions. `dynamic_fps1` is the released evaluation's: about one frame per second, spread anew
            over each question's clip, which is read from its start again.
    """

    time_text: Literal["short_online_v2", "short_online", "none"] = "short_online_v2"
    grid: Literal["fixed", "dynamic_fps1"] = "fixed"
