"""Options of `stc-lmms bench`, checked before anything heavy is loaded.

This file imports neither torch nor transformers, so that every command line starts fast.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from stc_lmms.errors import SettingsError
from stc_lmms.models.registry import model
from stc_lmms.suggest import unknown

DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Execution:
    """How the frames of a stream are run; dense and method always get the same one.

    Attributes:
        summary: one line for the card.
        prefill_frames: frames encoded and prefilled together.
        cuda_graphs: whether a single frame may be one captured graph.
    """

    summary: str
    prefill_frames: int
    cuda_graphs: bool = True


EXECUTIONS = {
    "grouped": Execution("up to 16 frames in one batch", 16),
    "frame_by_frame": Execution("every frame in a call of its own, launched eagerly", 1, cuda_graphs=False),
    "live": Execution("every frame in a call of its own, as a captured graph on a GPU", 1),
}


@dataclass(frozen=True)
class Protocol:
    """Defaults that belong together; `--frames`, `--warmup` and `--repeats` override them."""

    summary: str
    execution: str
    frames: tuple[int, ...]
    warmup: int
    repeats: int


PROTOCOLS = {
    "grouped": Protocol("frames are there in groups", "grouped", (1, 2, 4, 8, 16, 32, 64), 3, 10),
    "official": Protocol(
        "speed benchmark of the STC authors: 16 drifting noise frames, one by one",
        "frame_by_frame",
        (16,),
        5,
        20,
    ),
    "live": Protocol("frames come one by one", "live", (1, 2, 4, 8, 16, 32, 64), 3, 10),
}


@dataclass(frozen=True)
class Options:
    """Checked options; `None` for what the protocol, the model or the method decides."""

    model: str
    size: str
    pretrained: str | None
    layers: int | None
    llm_layers: int | None
    method: str
    method_args: dict[str, str]
    protocol: str
    frames: tuple[int, ...]
    repeats: int
    warmup: int
    new_tokens: int
    dtype: str
    device: str
    threads: int | None
    video: Path | None
    output: Path | None

    @property
    def execution(self) -> Execution:
        """How frames are run."""
        return EXECUTIONS[PROTOCOLS[self.protocol].execution]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options as text: `from_arguments` converts them, with one-line errors."""
    add = parser.add_argument
    add("--model", default="llava_ov", help="which model's code path is measured (default: llava_ov)")
    add("--size", help="size of the random model: 0.5b or 7b (default: 7b)")
    add("--pretrained", help="measure this checkpoint (folder, hub id or demo) instead of random weights")
    add("--layers", help="only so many vision layers, with random weights")
    add("--llm-layers", help="only so many language model layers, with random weights")
    add("--method", help="what is compared with dense (default: the model's own; of llava_ov, stc)")
    add("--interval", help="a reference frame every so many frames (cache_interval)")
    add("--ratio", help="share of vision tokens recomputed in the other frames (update_ratio)")
    add("--selection", help="per_layer or shared")
    add("--budget", help="LLM tokens kept per frame (token_budget)")
    protocols = "; ".join(f"{name}: {p.summary}" for name, p in PROTOCOLS.items())
    add("--protocol", default="grouped", help=f"{protocols} (default: grouped)")
    add("--frames", help="frame counts with commas (default: 1,2,4,8,16,32,64; official: 16)")
    add("--repeats", help="measured rounds, dense and method in turn (default: 10; official: 20)")
    add("--warmup", help="rounds before them (default: 3; official: 5)")
    add("--new-tokens", default="8", help="answer tokens decoded per round (default: 8)")
    add("--dtype", default="auto", help=f"one of {', '.join(DTYPES)} (auto: bfloat16 on a GPU, else float32)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    add("--threads", help="CPU threads")
    add("--video", type=Path, help="take the frames from this file and measure decoding, too")
    add("--output", type=Path, help="write the JSON here, too")


def from_arguments(args: argparse.Namespace) -> Options:
    """Convert and check what needs no model.

    Raises:
        SettingsError: an unknown name (with the nearest valid one) or a number out of range.
    """
    if args.protocol not in PROTOCOLS:
        raise SettingsError(unknown("protocol", args.protocol, PROTOCOLS))
    if args.dtype not in DTYPES:
        raise SettingsError(unknown("dtype", args.dtype, DTYPES))
    protocol = PROTOCOLS[args.protocol]
    given = {
        "cache_interval": args.interval,
        "update_ratio": args.ratio,
        "selection": args.selection,
        "token_budget": args.budget,
    }
    if args.pretrained is not None and (args.size or args.layers or args.llm_layers):
        raise SettingsError(
            "--size, --layers and --llm-layers are for random weights; leave out --pretrained"
        )
    if args.video is not None and not args.video.is_file():
        raise SettingsError(f"--video {args.video} is not a file")
    if args.output is not None and not args.output.absolute().parent.is_dir():
        raise SettingsError(f"--output {args.output}: there is no folder {args.output.absolute().parent}")
    chosen = model(args.model)
    return Options(
        model=chosen.name,
        size=args.size or "7b",
        pretrained=args.pretrained,
        layers=_count("--layers", args.layers),
        llm_layers=_count("--llm-layers", args.llm_layers),
        method=args.method or chosen.defaults.get("method", "stc"),
        method_args={name: value for name, value in given.items() if value is not None},
        protocol=args.protocol,
        frames=protocol.frames if args.frames is None else _frames(args.frames),
        repeats=_count("--repeats", args.repeats) or protocol.repeats,
        warmup=protocol.warmup if args.warmup is None else _count("--warmup", args.warmup, least=0),
        new_tokens=_count("--new-tokens", args.new_tokens, least=2),
        dtype=args.dtype,
        device=args.device,
        threads=_count("--threads", args.threads),
        video=args.video,
        output=args.output,
    )


def _count(name: str, text: str | None, least: int = 1) -> int | None:
    if text is None:
        return None
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise SettingsError(f"{name} {text} is not a whole number of at least {least}")
    return number


def _frames(text: str) -> tuple[int, ...]:
    counts = [_count("--frames", part.strip()) for part in text.split(",")]
    return tuple(sorted(set(counts)))
