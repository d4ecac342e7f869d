"""Pieces of text in the prompts of the Qwen-VL family."""

VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"

# LiveCC's protocol for benchmarks (`evaluation/distributed_mcq_predictor.py`).
CHOICES_OPENING = "The answer is:\n"
CHOICES = ("No", "Yes", *"0123456789", *"ABCDE")


def stamp(time_s: float) -> str:
    """What Qwen3-VL reads before a frame pair."""
    return f"<{time_s:.1f} seconds>{VISION_START}"
