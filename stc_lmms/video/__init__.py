"""Video files in, RGB frames on a causal time grid out."""

from stc_lmms.video.decode import VideoInfo, VideoStream, iter_frames, open_video, probe
from stc_lmms.video.sampling import Sampling, frame_step, grid_indices

__all__ = [
    "Sampling",
    "VideoInfo",
    "VideoStream",
    "frame_step",
    "grid_indices",
    "iter_frames",
    "open_video",
    "probe",
]
