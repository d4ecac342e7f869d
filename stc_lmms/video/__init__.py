"""Video files in, RGB frames at causal sampling times out."""

from stc_lmms.video.decode import VideoInfo, VideoStream, iter_frames, open_video, probe
from stc_lmms.video.sampling import Sampling, frame_step

__all__ = ["Sampling", "VideoInfo", "VideoStream", "frame_step", "iter_frames", "open_video", "probe"]
