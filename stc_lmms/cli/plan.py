"""`stc-lmms plan`: frames and seconds a benchmark reads, KV bytes and FLOPs, from its annotation files."""

import argparse
import json
from pathlib import Path
from typing import Any

from stc_lmms.benchmarks.registry import timed
from stc_lmms.errors import SettingsError
from stc_lmms.text_table import text_table

HELP = "what a benchmark reads and costs"
DESCRIPTION = (
    "What a benchmark costs, from its annotation files alone: by the published protocol, which encodes one "
    "clip per question, and by ours, which plays every video once. Or what a sweep costs: GPU hours, memory "
    "and disk of its jobs."
)
NOTES = (
    "By chunk: one clip per question, encoded from its start at the same rate. By stream: every video once.",
    "Times are those of the annotations, not clamped to the videos' lengths.",
    "KV: all frames of a stream (memory=full), 16 bit. ViT, prefill: the frames alone, two FLOPs per "
    "multiply-accumulate;",
    "projector, prompts and answers are left out.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("benchmark", help=f"{', '.join(timed())}, or a SWEEP.yaml")
    files = {"type": Path, "nargs": "+", "default": [], "metavar": "FILE"}
    questions = "of a benchmark: its published question files; some benchmarks have one per part"
    parser.add_argument("--annotations", **files, help=questions)
    parser.add_argument("--model-size", default="7b", help="0.5b or 7b (default: 7b)")
    parser.add_argument("--methods", default="none,stc", help="with commas (default: none,stc)")
    parser.add_argument("--fps", default="0.5", help="frames sampled per second (default: 0.5)")
    cards = "of a sweep: what stc-lmms bench --output measured on the machine, one file per model"
    parser.add_argument("--card", **files, help=cards)
    sustained = "of a sweep: what a GPU sustains, for models without a card (default: 100)"
    parser.add_argument("--tflops", type=float, default=100.0, help=sustained)
    parser.add_argument("--jobs", action="store_true", help="of a sweep: a line for every job")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    if args.benchmark.endswith((".yaml", ".yml")):
        return _sweep(args)
    if not args.annotations:
        raise SettingsError(f"give the question files of {args.benchmark} with --annotations")
    from stc_lmms.bench.plan import load_parts, plan
    from stc_lmms.bench.shapes import public_shape
    from stc_lmms.settings import resolve

    names = dict.fromkeys(name for name in args.methods.split(",") if name)
    settings = [resolve({"method": name, "fps": args.fps}) for name in names or ("none",)]
    shape = public_shape(args.model_size)
    methods = [each.built_method for each in settings]
    found = plan(load_parts(args.benchmark, args.annotations), shape, methods, settings[0].fps)
    about = {"benchmark": args.benchmark, "model_size": args.model_size}
    print(json.dumps(about | found, indent=1) if args.json else text(about | found))
    return 0


def _sweep(args: argparse.Namespace) -> int:
    from stc_lmms.sweep import estimate, spec

    if not args.tflops > 0:
        raise SettingsError(f"--tflops {args.tflops:g} must be above 0")
    cards = [estimate.Card(path) for path in args.card]
    wanted = spec.read(Path(args.benchmark))
    found = estimate.estimate(wanted, spec.make_plan(wanted), cards, args.tflops)
    if args.json:
        print(json.dumps(estimate.as_json(found), indent=1))
        return 0
    measured = ", ".join(card.model for card in cards)
    rates = f"measured: {measured}; else " if cards else ""
    print(f"{len(found)} jobs; speed: {rates}a guess of {args.tflops:g} TFLOP/s (--card, --tflops)\n")
    print(estimate.text(found, args.jobs))
    return 0


def text(found: dict[str, Any]) -> str:
    """The plan as plain text: a table of what is read, one of what it costs, and notes."""
    head = (
        f"{found['benchmark']} at {found['fps']:g} fps, LLaVA-OneVision {found['model_size']}: "
        f"{found['tokens_per_frame']} tokens per frame, {found['kv_bytes_per_token']} KV bytes per token"
    )
    notes = [*NOTES, *(note for name, part in found["parts"].items() for note in _remarks(name, part))]
    return "\n".join([head, "", _reads(found["parts"]), "", _costs(found["parts"]), "", *notes])


def _reads(parts: dict[str, Any]) -> str:
    head = ("part", "videos", "questions", "s by chunk", "s by stream", "ratio")
    rows = []
    for name, part in parts.items():
        chunks, streams = part["chunks"], part["streams"]
        seconds = (f"{chunks['seconds']:,.0f}", f"{streams['seconds']:,.0f}", f"{part['ratio']:.1f}x")
        counts = (f"{part['videos']:,}", f"{part['questions']:,}")
        rows.append((name, *counts, *seconds, f"{chunks['frames']:,}", f"{streams['frames']:,}"))
    return text_table((*head, "frames by chunk", "frames by stream"), rows)


def _costs(parts: dict[str, Any]) -> str:
    head = ("part, method", "tokens/frame", "KV GiB largest", "KV GiB in sum")
    head += ("ViT PFLOP by chunk", "by stream", "prefill PFLOP by chunk", "by stream")
    rows = []
    for name, part in parts.items():
        for method, cost in part["methods"].items():
            kv = (f"{cost[key] / 2**30:,.2f}" for key in ("kv_bytes_largest", "kv_bytes_sum"))
            flops = [
                "-" if cost[key] is None else f"{cost[key][stage] / 1e15:,.1f}"
                for stage in ("vit", "prefill")
                for key in ("flops_chunks", "flops_streams")
            ]
            rows.append((f"{name}, {method}", str(cost["tokens_per_frame"]), *kv, *flops))
    return text_table(head, rows)


def _remarks(name: str, part: dict[str, Any]) -> list[str]:
    longest, remarks = part["longest"], []
    if part["chunks"]["clips"] > part["questions"]:
        remarks.append(f"{name}: every poll counts, as if the model never said yes.")
    if longest["next_seconds"] and longest["seconds"] > 2 * longest["next_seconds"]:
        remarks.append(
            f"{name}: the longest stream, {longest['video']} at {longest['seconds']:g} s, is more than twice "
            f"the next ({longest['next_seconds']:g} s): a typo? Played, it ends with its video; here it "
            "counts in full."
        )
    return remarks
