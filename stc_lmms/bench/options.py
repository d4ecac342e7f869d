"""What to measure, and how. Imports neither torch nor transformers."""

from dataclasses import dataclass, field
from pathlib import Path

DTYPES = ("auto", "float32", "float16", "bfloat16")
_COUNTS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Protocol:
    """How frames are run (dense and method alike), and defaults of the options with the same names."""

    summary: str
    execution: str
    prefill_frames: int  # frames encoded and prefilled together
    cuda_graphs: bool = True  # whether a single frame may run as one captured graph
    frames: tuple[int, ...] = _COUNTS
    warmup: int = 3
    repeats: int = 10


_OFFICIAL = "speed benchmark of the STC authors: 16 drifting noise frames, one by one"
PROTOCOLS = {
    "grouped": Protocol("frames are there in groups", "grouped", 16),
    "official": Protocol(
        _OFFICIAL, "frame_by_frame", 1, cuda_graphs=False, frames=(16,), warmup=5, repeats=20
    ),
    "live": Protocol("frames come one by one", "live", 1),
}


@dataclass(frozen=True)
class Options:
    """Options of one card."""

    model: str = "llava_ov"
    method: str = "stc"  # compared with the dense model
    method_args: dict[str, str] = field(default_factory=dict)  # fields of the method, as text
    size: str = "7b"  # of the random model
    layers: int | None = None  # vision layers of the random model; None keeps all
    llm_layers: int | None = None  # its language model layers; None keeps all
    pretrained: str | None = None  # checkpoint to measure instead of a random model
    protocol: str = "grouped"  # a key of `PROTOCOLS`
    frames: tuple[int, ...] = _COUNTS  # frame counts, ascending
    repeats: int = 10  # measured rounds
    warmup: int = 3  # rounds before them
    new_tokens: int = 8  # answer tokens decoded per round
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None  # CPU threads; None keeps torch's own number
    video: Path | None = None  # file to take the frames from; None makes synthetic ones
    output: Path | None = None  # file to write the JSON to
