"""Small REAL videos for the tests: encode them with PyAV, then break them on purpose.

Every function that writes a file returns its path. Frames are uint8 RGB [H,W,3] with even sides.
`numbered_frames` paints the frame's index as black and white blocks that survive lossy compression;
`read_number` gets it back, so a test can tell exactly which source frame a decoder returned.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_BITS = 12
_CLOCK_HZ = 90_000


def has_encoder(codec: str) -> bool:
    """Whether this PyAV wheel can encode `codec` (a skip condition)."""
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def numbered_frames(count: int, height: int = 64, width: int = 96, first: int = 0) -> Iterator[np.ndarray]:
    """Frames showing `first`, `first + 1`, ... (below 4096) as 12 blocks in a 3 x 4 grid."""
    for number in range(first, first + count):
        bits = np.array([number >> bit & 1 for bit in range(_BITS)], np.uint8).reshape(3, 4)
        rows = np.arange(height) * 3 // height
        columns = np.arange(width) * 4 // width
        yield np.repeat((32 + 192 * bits)[rows[:, None], columns, None], 3, axis=2)


def read_number(frame: np.ndarray) -> int:
    """The index painted by `numbered_frames`; the frame may have been scaled or compressed."""
    height, width = frame.shape[:2]
    rows = (np.arange(3) * 2 + 1) * height // 6
    columns = (np.arange(4) * 2 + 1) * width // 8
    bits = (frame[rows[:, None], columns].mean(axis=2) > 128).ravel()
    return int(sum(int(bit) << position for position, bit in enumerate(bits)))


def moving_square_frames(
    count: int, height: int = 64, width: int = 96, *, seed: int = 0, noise: int = 8
) -> Iterator[np.ndarray]:
    """A coloured square crossing a fixed textured background, with fresh noise of `noise` gray levels."""
    rng = np.random.default_rng(seed)
    background = rng.integers(40, 120, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)
    side = max(4, height // 4)
    for index in range(count):
        frame = background[:height, :width] + rng.integers(-noise, noise + 1, (height, width, 3))
        left = 2 * index % (width - side)
        frame[height // 3 : height // 3 + side, left : left + side] = (220, 60, 30)
        yield frame.clip(0, 255).astype(np.uint8)


def encode_video(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: float | Fraction = 10,
    *,
    codec: str = "libx264",
    pts_s: Sequence[float] | None = None,
    start_s: float = 0.0,
    gop: int = 30,
    audio: bool | float = False,
    bt709: bool = False,
    full_range: bool = False,
    codec_options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
) -> Path:
    """Encode `frames` to `path`; the container follows from its suffix.

    Args:
        path: File to write.
        frames: uint8 RGB [H,W,3], at least one.
        fps: Frame rate written to the stream; a Fraction such as 30000/1001 stays exact.
        codec: Encoder name.
        pts_s: Presentation time of every frame in seconds (variable frame rate); None: index / fps.
        start_s: Added to every presentation time, so that the file does not begin at 0.
        gop: Largest distance between key frames, in frames.
        audio: Add a quiet mono AAC or Opus track as long as the video, or of so many seconds.
        bt709: Mark the video as BT.709 (as phones do) instead of leaving the colour matrix open.
        full_range: Mark and encode luma as 0..255 instead of 16..235.
        codec_options: Options of the encoder, for example {"preset": "ultrafast"}.
        container_options: Options of the muxer, for example {"movflags": "faststart"}.
    """
    rate = Fraction(fps).limit_denominator(100_000)
    clock = Fraction(1, _CLOCK_HZ) if pts_s is not None else 1 / rate
    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        stream = container.add_stream(codec, rate=rate, options=dict(codec_options or {}))
        sound = (
            container.add_stream("libopus" if path.suffix == ".webm" else "aac", 48_000) if audio else None
        )
        context = stream.codec_context
        context.gop_size, context.pix_fmt = gop, "yuv420p"
        if codec != "mpeg4":  # MPEG-4 part 2 cannot count at 90 kHz
            context.time_base = clock
        colorspace = 1 if bt709 else context.colorspace
        context.colorspace, context.color_range = colorspace, 2 if full_range else 1
        count = 0
        for index, array in enumerate(frames):
            if index == 0:
                stream.height, stream.width = array.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_color_range="JPEG" if full_range else "MPEG")
            frame.colorspace, frame.color_range = colorspace, context.color_range
            time = Fraction(index) / rate if pts_s is None else Fraction(pts_s[index])
            frame.time_base = clock
            frame.pts = round((time + Fraction(start_s)) / clock)
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
        if sound is not None:
            _encode_silence(container, sound, float(count / rate if audio is True else audio))
    return path


def encode_audio_only(path: Path, duration_s: float = 1.0) -> Path:
    """A file with an AAC track and no video stream."""
    with av.open(str(path), "w") as container:
        _encode_silence(container, container.add_stream("aac", 48_000), duration_s)
    return path


def _encode_silence(
    container: av.container.OutputContainer, stream: av.AudioStream, duration_s: float
) -> None:
    for first in range(0, round(duration_s * 48_000), 960):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, first, Fraction(1, 48_000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def truncate(source: Path, path: Path, fraction: float = 0.5) -> Path:
    """Copy the first `fraction` of a file, as a broken download does."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


def cut_after(source: Path, path: Path, packets: int) -> Path:
    """Copy an MP4 whose index is in front up to the end of a packet: nothing in it is torn."""
    with av.open(str(source)) as container:
        whole = [packet for packet in container.demux() if packet.size]
        end = max(packet.pos + packet.size for packet in sorted(whole, key=lambda p: p.pos)[:packets])
    path.write_bytes(source.read_bytes()[:end])
    return path


def damage(source: Path, path: Path, first: float = 0.45, last: float = 0.5, seed: int = 0) -> Path:
    """Copy a file with random bytes between two fractions of its length."""
    data = bytearray(source.read_bytes())
    a, b = int(len(data) * first), int(len(data) * last)
    data[a:b] = np.random.default_rng(seed).bytes(b - a)
    path.write_bytes(data)
    return path


def rotate_mp4(source: Path, path: Path, clockwise: int) -> Path:
    """Copy an MP4 whose header asks the player to turn the picture 90, 180 or 270 degrees clockwise."""
    data = bytearray(source.read_bytes())
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[clockwise]
    matrix = b"".join(value.to_bytes(4, "big", signed=True) for value in _matrix(cos, sin))
    at = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes of times, layer and volume come first
    data[at : at + 36] = matrix
    path.write_bytes(data)
    return path


def _matrix(cos: int, sin: int) -> list[int]:
    one = 1 << 16
    return [cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30]


def unknown_codec_mp4(source: Path, path: Path) -> Path:
    """Copy an H.264 MP4 that claims a codec nobody has heard of."""
    path.write_bytes(source.read_bytes().replace(b"avc1", b"zz9z"))
    return path


def cut_mp4(source: Path, path: Path, start_s: float) -> Path:
    """Copy an MP4 from `start_s` on without encoding: its edit list hides the frames since the key frame."""
    with (
        av.open(str(source)) as old,
        av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as new,
    ):
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        shift = round(start_s / stream.time_base)
        packets = [packet for packet in old.demux(stream) if packet.dts is not None]
        starts = [i for i, packet in enumerate(packets) if packet.is_keyframe and packet.pts < shift]
        for packet in packets[starts[-1] :]:
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
            new.mux(packet)
    return path
