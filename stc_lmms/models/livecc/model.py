"""LiveCC: a Qwen2-VL that can comment on a video while it plays (CVPR 2025, arXiv 2504.16030)."""

from functools import partial
from typing import Any

from stc_lmms.engine.api import FrameSelection
from stc_lmms.models.livecc.commentary import Commentary
from stc_lmms.models.livecc.config import check_commentary, clip_indices, clip_slice_tokens
from stc_lmms.models.livecc.options import LiveCCOptions
from stc_lmms.models.livecc.prompt import TASK
from stc_lmms.models.qwen_vl.model import QwenVL, QwenVLStream


class LiveCCStream(QwenVLStream):
    """One video in a `LiveCC` model."""

    def begin_clip(self, selection: FrameSelection) -> None:
        super().begin_clip(selection)
        self.encoder.pair_tokens = clip_slice_tokens(selection.frames)  # frames are the smaller the more


class LiveCC(QwenVL):
    """A loaded LiveCC checkpoint (a Qwen2-VL)."""

    stream_class = LiveCCStream
    model_type = "qwen2_vl"
    options: LiveCCOptions

    def assemble(self, *parts: Any) -> None:
        super().assemble(*parts)
        if self.options.grid == "released":
            self.select_frames = partial(clip_indices, max_frames=self.settings.max_frames)

    check_commentary = staticmethod(check_commentary)

    def open_commentary(self, task: str = "", max_new_tokens: int = 16) -> Commentary:
        """16 tokens a comment is the demo's limit."""
        check_commentary(self.settings)
        return Commentary(self, task or TASK, max_new_tokens)
