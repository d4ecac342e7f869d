"""How much video a file delivers, compared with what it claims."""

from dataclasses import dataclass

# Headers are rounded, and audio and video rarely end together.
TOLERANCE_S = 1.0


@dataclass(frozen=True)
class Delivery:
    """Where a video ends. Times in seconds from its first frame.

    Attributes:
        claimed_s: Where the video stream (not the audio) ends according to the file; None if it does not say.
        delivered_s: Where the last readable frame ends.
        damaged_at_end: The last packet is truncated or damaged.
    """

    claimed_s: float | None
    delivered_s: float
    damaged_at_end: bool

    def cut_short(self, avg_fps: float | None) -> str:
        """Why the file is not the whole video, in one line; "" if it seems to be."""
        tolerance_s = max(TOLERANCE_S, 2 / avg_fps if avg_fps else 0.0)  # two frames may be missing
        delivers = f"delivers {self.delivered_s:.1f} s"
        claims = "" if self.claimed_s is None else f"claims {self.claimed_s:.1f} s, "
        if self.claimed_s is not None and self.claimed_s - self.delivered_s > tolerance_s:
            return f"cut short: {claims}{delivers}"
        return f"damaged at its end: {claims}{delivers}" if self.damaged_at_end else ""
