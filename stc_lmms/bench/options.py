"""What to measure, and how. Imports neither torch nor transformers."""

from dataclasses import dataclass, field
from pathlib import Path

DTYPES = ("auto", "float32", "float16", "bfloat16")
_COUNTS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Protocol:
    """How frames are run (dense and method alike), with default frame counts and rounds.

    Attributes:
        prefill_frames: frames encoded and prefilled together.
        cuda_graphs: whether a single frame may run as one captured graph.
        frames, warmup, repeats: defaults of the options with these names.
    """

    summary: str
    execution: str
    prefill_frames: int
    cuda_graphs: bool = True
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
    """Options of one card.

    Attributes:
        method: compared with the dense model.
        method_args: fields of the method, as text.
        size, layers, llm_layers: of the random model; None keeps all vision or language model layers.
        pretrained: checkpoint to measure instead of a random model.
        protocol: a key of `PROTOCOLS`.
        frames: frame counts, ascending.
        repeats, warmup: measured rounds, and rounds before them.
        new_tokens: answer tokens decoded per round.
        threads: CPU threads; None keeps torch's own number.
        video: file to take the frames from; None makes synthetic ones.
        output: file to write the JSON to.
    """

    model: str = "llava_ov"
    method: str = "stc"
    method_args: dict[str, str] = field(default_factory=dict)
    size: str = "7b"
    layers: int | None = None
    llm_layers: int | None = None
    pretrained: str | None = None
    protocol: str = "grouped"
    frames: tuple[int, ...] = _COUNTS
    repeats: int = 10
    warmup: int = 3
    new_tokens: int = 8
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    video: Path | None = None
    output: Path | None = None
