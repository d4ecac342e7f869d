"""How much video a file delivers, compared with what it claims."""

from dataclasses import dataclass

# Headers are rounded, and audio and video rarely end together.
TOLERANCE_S = 1.0


@dataclass(frozen=True)
class Delivery:
    """Where a video ends. Times in seconds from its first frame."""

    claimed_s: float | None  # end of the video stream (not the audio) according to the file, if it says so
    delivered_s: float  # end of the last readable frame
    damaged_at_end: bool  # the last packet is truncated or damaged

    def cut_short(self, avg_fps: float | None) -> str:
        """Why the file is not the whole video, in one line; "" if it seems to be."""
        tolerance_s = max(TOLERANCE_S, 2 / avg_fps if avg_fps else 0.0)  # two frames may be missing
        delivers = f"delivers {self.delivered_s:.1f} s"
        claims = "" if self.claimed_s is None else f"claims {self.claimed_s:.1f} s, "
        if self.claimed_s is not None and self.claimed_s - self.delivered_s > tolerance_s:
            return f"cut short: {claims}{delivers}"
        return f"damaged at its end: {claims}{delivers}" if self.damaged_at_end else ""
