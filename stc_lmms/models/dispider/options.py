"""The arguments that only Dispider has."""

from dataclasses import dataclass
from typing import Literal

from stc_lmms.errors import SettingsError


@dataclass(frozen=True)
class DispiderOptions:
    """Arguments of Dispider alone.

    Attributes:
        frames_per_clip: frames that the compact model reads together; it decides whether to speak after
            each clip. Trained with 16 at about one frame per second.
        retrieval: clips that a question gets. `stream`: the best 4, as in the released streaming scripts.
            `offline`: all above a similarity, 4 to 28, as in the Video-MME script, searched by the bare
            question if the task provides it.
        grid: `fixed` samples `fps` frames per second from the clip's start, each frame once for all
            questions. `released` spreads whole clips over what a question sees, about one frame per second,
            and reads it from its start again for every question.
    """

    frames_per_clip: int = 16
    retrieval: Literal["stream", "offline"] = "stream"
    grid: Literal["fixed", "released"] = "fixed"

    def __post_init__(self):
        """Check ranges."""
        if self.frames_per_clip < 1:
            raise SettingsError(f"frames_per_clip={self.frames_per_clip} must be at least 1")
