"""StreamWorld as H.264 files."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from training.demo.world import FRAME_S, SIDE, World, render

FPS, SCALE, CRF = 4, 2, 23


def write_mp4(world: World, path: Path, *, fps: int = FPS, scale: int = SCALE, crf: int = CRF) -> float:
    """Encode a world; every 0.5 fps sample of the file is one of the world's frames.

    Args:
        world: what to show.
        path: file to write.
        fps: pictures per second; even.
        scale: pixels per pixel of the plane.
        crf: constant rate factor of x264, smaller is better.

    Returns:
        The length in seconds.
    """
    count = int(world.frames * FRAME_S * fps)
    pictures = render(world, np.arange(count) / fps, scale)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(fps))
        stream.width = stream.height = SIDE * scale
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": "slow", "threads": "1"}
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    return count / fps
