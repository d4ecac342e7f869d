"""`stc-lmms bench`: a latency card that compares a method with the unmodified model, stage by stage."""

import argparse
import sys
from pathlib import Path

from stc_lmms.bench.options import DTYPES, PROTOCOLS, Options
from stc_lmms.errors import SettingsError, StcError
from stc_lmms.models.registry import model
from stc_lmms.suggest import unknown

HELP = "latency card: every stage, with and without a method"
DESCRIPTION = "Measures every stage of a model with and without a method, and prints a card of the times."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command, all as text: `parse` converts them, with one-line errors."""
    add = parser.add_argument
    add("--model", default="llava_ov", help="which model's code path is measured (default: llava_ov)")
    add("--size", help="size of the random model: 0.5b or 7b (default: 7b)")
    add("--pretrained", help="measure this checkpoint (folder, hub id or demo) instead of random weights")
    add("--layers", help="number of vision layers, with random weights (default: all)")
    add("--llm-layers", help="number of language model layers, with random weights (default: all)")
    add("--method", help="what is compared with dense (default: the model's own; stc for llava_ov)")
    add("--interval", help="one reference frame every this many frames (cache_interval)")
    add("--ratio", help="share of vision tokens recomputed in the other frames (update_ratio)")
    add("--selection", help="per_layer or shared")
    add("--budget", help="LLM tokens kept per frame (token_budget)")
    protocols = "; ".join(f"{name}: {p.summary}" for name, p in PROTOCOLS.items())
    add("--protocol", default="grouped", help=f"{protocols} (default: grouped)")
    add("--frames", help="frame counts, comma-separated (default: 1,2,4,8,16,32,64; official: 16)")
    add("--repeats", help="measured rounds, dense and method alternating (default: 10; official: 20)")
    add("--warmup", help="rounds before them (default: 3; official: 5)")
    add("--new-tokens", default="8", help="answer tokens decoded per round (default: 8)")
    add("--dtype", default="auto", help=f"one of {', '.join(DTYPES)} (auto: bfloat16 on a GPU, else float32)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    add("--threads", help="CPU threads")
    add("--video", type=Path, help="take the frames from this file and measure decoding too")
    add("--output", type=Path, help="also write the JSON to this file")


def run(args: argparse.Namespace) -> int:
    """Measure and print the card."""
    options = parse(args)
    from stc_lmms.bench import card

    card.run(options)
    return 0


def parse(args: argparse.Namespace) -> Options:
    """Convert the arguments and check what needs no model."""
    if args.protocol not in PROTOCOLS:
        raise SettingsError(unknown("protocol", args.protocol, PROTOCOLS))
    if args.dtype not in DTYPES:
        raise SettingsError(unknown("dtype", args.dtype, DTYPES))
    if args.pretrained is not None and (args.size or args.layers or args.llm_layers):
        raise SettingsError(
            "--size, --layers and --llm-layers are for random weights; leave out --pretrained"
        )
    if args.video is not None and not args.video.is_file():
        raise SettingsError(f"--video {args.video} is not a file")
    if args.output is not None and not args.output.absolute().parent.is_dir():
        raise SettingsError(f"--output {args.output}: there is no folder {args.output.absolute().parent}")
    protocol, chosen = PROTOCOLS[args.protocol], model(args.model)
    method_args = {"cache_interval": args.interval, "update_ratio": args.ratio}
    method_args |= {"selection": args.selection, "token_budget": args.budget}
    return Options(
        model=chosen.name,
        method=args.method or chosen.defaults.get("method", "stc"),
        method_args={name: value for name, value in method_args.items() if value is not None},
        size=args.size or "7b",
        layers=_count("--layers", args.layers),
        llm_layers=_count("--llm-layers", args.llm_layers),
        pretrained=args.pretrained,
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
    return tuple(sorted({_count("--frames", part.strip()) for part in text.split(",")}))


def main() -> int:
    """`python -m stc_lmms.cli.bench`: this command alone, for machines with only torch and transformers."""
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    add_arguments(parser)
    try:
        return run(parser.parse_args())
    except StcError as error:
        print(f"stc-lmms: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
