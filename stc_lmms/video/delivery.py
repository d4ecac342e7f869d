"""How much of its picture a file really delivers, against what it claims."""

from dataclasses import dataclass

# Headers are rounded, and sound and picture rarely end together.
TOLERANCE_S = 1.0


@dataclass(frozen=True)
class Delivery:
    """Where a video ends. Times in seconds from its first frame.

    Attributes:
        claimed_s: Where the file says that the picture ends; None if it does not say. A length of the whole
            file that its sound fills says nothing of the picture.
        delivered_s: Where the last readable picture ends.
        damaged_at_end: What comes last is cut off or damaged.
    """

    claimed_s: float | None
    delivered_s: float
    damaged_at_end: bool

    def cut_short(self, avg_fps: float | None) -> str:
        """Why the end is not the end of the whole video, in one line; "" if it is, as far as one can tell.

        Args:
            avg_fps: Average frame rate, frames per second, or None: two frames may be missing.
        """
        tolerance_s = max(TOLERANCE_S, 2 / avg_fps if avg_fps else 0.0)
        delivers = f"delivers {self.delivered_s:.1f} s"
        claims = "" if self.claimed_s is None else f"claims {self.claimed_s:.1f} s, "
        if self.claimed_s is not None and self.claimed_s - self.delivered_s > tolerance_s:
            return f"cut short: {claims}{delivers}"
        return f"damaged at its end: {claims}{delivers}" if self.damaged_at_end else ""
