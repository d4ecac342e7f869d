"""How LiveCC reads a whole clip, and which settings it can comment with."""

import math

import numpy as np

from stc_lmms.config import Settings
from stc_lmms.errors import SettingsError
from stc_lmms.models.livecc.options import MOST_CLIP_TOKENS

# Of LiveCC's whole-clip reader: frames, and LLM tokens of a slice (least) and of the clip (most).
_CLIP_FPS, _LEAST_FRAMES, _MOST_FRAMES = 2, 4, 480
_LEAST_TOKENS, _CLIP_TOKENS = 100, 24576


def clip_indices(
    n_frames: int, avg_fps: float, clip_s: tuple[float, float] | None = None, max_frames: int | None = None
) -> list[int]:
    """Indices of the frames that LiveCC's whole-clip reader takes: two a second, at most 480, always even.

    They are spread over the clip, its first and last frame included. A video of less than two frames a
    second repeats frames. A clip ends before `clip_s[1]`, as everywhere here.

    Args:
        n_frames: frames of the video.
        avg_fps: its average frame rate.
        clip_s: start and end of the clip in seconds; None is the whole video.
        max_frames: a limit below 480.
    """
    first, stop = 0, n_frames
    if clip_s is not None:
        first, stop = (min(n_frames, max(0, math.ceil(round(s * avg_fps, 3)))) for s in clip_s)
    if stop <= first:
        return []
    frames = stop - first
    wanted = frames / avg_fps * _CLIP_FPS
    most = min(_MOST_FRAMES, max_frames or _MOST_FRAMES, max(frames, int(wanted)))
    count = max(2, int(min(max(wanted, _LEAST_FRAMES), most)) // 2 * 2)
    return (first + np.linspace(0, frames - 1, count).round().astype(int)).tolist()


def clip_slice_tokens(frames: int) -> int:
    """LiveCC's limit for a slice of a clip that is read whole, in LLM tokens.

    A clip has about 24576 tokens at most, a slice 768 at most and 105 at least.
    (max_px = max(min(768, 2 * 24576 / frames), 1.05 * 100) * 784, `livecc_utils/video_process_patch.py`.)
    """
    return max(min(MOST_CLIP_TOKENS, int(_CLIP_TOKENS * 2 / frames)), int(1.05 * _LEAST_TOKENS))


def check_commentary(settings: Settings) -> None:
    """Refuse settings that LiveCC cannot comment with.

    Raises:
        SettingsError: a second has no even number of frames, clips are read whole, the memory forgets, or
            the method holds frames back.
    """
    if settings.built_model_options.grid != "fixed":
        raise SettingsError("grid=released reads whole clips, but a commentary has no end; use grid=fixed")
    if settings.fps % 2:
        raise SettingsError(
            f"fps={settings.fps:g} does not fit a commentary: a step is one second and a slice two frames, "
            "so fps must be even; LiveCC was trained at 2"
        )
    if settings.memory != "full" or settings.built_memory.runs_attention:
        raise SettingsError(
            f"memory={settings.memory} does not fit a commentary, which reads all that was said and seen; "
            "use full, without decode_prune"
        )
    token = settings.built_method.token
    if token is not None and token.delay_frames:
        raise SettingsError(
            f"method={settings.method} holds frames back, but a comment must see those of its second; "
            "use another method"
        )
