"""The arguments that only StreamForest has; imports no torch."""

import itertools
from dataclasses import dataclass
from typing import Literal

from stc_lmms.errors import SettingsError


@dataclass(frozen=True)
class ForestOptions:
    """Constants of the memory: how many tokens are kept at which age. Defaults are the released values.

    Attributes:
        now_frames: newest frames, kept at `now_tokens` each.
        now_tokens: their tokens per frame; at most those of the tower.
        short_frames: minimum number of frames before those, kept at `short_tokens` each.
        short_tokens: their tokens per frame.
        event_window: once there are `short_frames + event_window` short frames, the oldest become an event,
            cut at the least similar of the first `event_window` pairs of neighbours.
        long_tokens: tokens per frame of an event.
        long_quota: tokens of all events together when a question is asked.
        similarity_weight: weight of dissimilarity in the penalty for merging two neighbouring events.
        time_weight: weight of their recency.
        merge_weight: weight of the number of merges they went through.
        consolidate: when events are merged down to the quota. `ask`: when a question is asked, on a copy, as
            in the released evaluation; events then grow by `long_tokens` tokens per frame. `frame`: after
            every frame, so that the memory is bounded; merges, and so answers, differ.
    """

    now_frames: int = 1
    now_tokens: int = 729
    short_frames: int = 18
    short_tokens: int = 128
    event_window: int = 8
    long_tokens: int = 64
    long_quota: int = 5120
    similarity_weight: float = 0.4
    time_weight: float = 0.2
    merge_weight: float = 0.4
    consolidate: Literal["ask", "frame"] = "ask"

    def __post_init__(self):
        """Check ranges."""
        for name in ("now_frames", "short_frames", "event_window", "long_tokens", "long_quota"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("similarity_weight", "time_weight", "merge_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingsError(f"{name}={getattr(self, name)} must be a number of 0 or more")
        sizes = ("long_tokens", "short_tokens", "now_tokens")
        for fewer, more in itertools.pairwise(sizes):
            if getattr(self, fewer) > getattr(self, more):
                raise SettingsError(
                    f"{fewer}={getattr(self, fewer)} must not exceed {more}={getattr(self, more)}: "
                    "tokens only become fewer as a frame ages"
                )


@dataclass(frozen=True)
class StreamForestOptions(ForestOptions):
    """The constants of the memory, and these.

    Attributes:
        time_text: the sentence about the frames' times before a question; the released evaluation uses
            `short_online_v2`.
        grid: `fixed` samples `fps` frames per second from the clip's start, each frame once for all
            questions. `dynamic_fps1` is the sampling of the released evaluation: about one frame per second,
            spread over each question's clip, which is encoded again from its start.
    """

    time_text: Literal["short_online_v2", "short_online", "none"] = "short_online_v2"
    grid: Literal["fixed", "dynamic_fps1"] = "fixed"
