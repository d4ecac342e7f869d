"""The latency card as text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stc_lmms.bench.cost import saving
from stc_lmms.bench.measure import SLOWER, STAGES

_SIDES = ("dense", "method")
_IN_GRAPH = ", with projector and pooling in vit, its floor and its bound"
_WORK = (("vit_ms", "flops", 1e12), ("prefill_ms", "flops", 1e12), ("per_token_ms", "bytes", 1e9))
_SHOWN = ("cache_interval", "update_ratio", "selection", "token_budget")


def head(card: dict[str, Any]) -> str:
    """What is measured, and the bounds, printed before anything runs."""
    env, tower, decoder = card["environment"], card["shape"]["tower"], card["shape"]["decoder"]
    settings = card["settings"]
    shown = " ".join(f"{name}={settings[name]}" for name in _SHOWN if name in settings)
    group, per_frame = card["prefill_frames"], card["shape"]["tokens_per_frame"]
    launch_reason = f" ({card['launch_reason']})" if card["launch_reason"] else ""
    lines = [
        f"{card['model']} ({card['weights']}), {card['dtype']}, {env['device']}, torch {env['torch']}, "
        f"{env['threads']} CPU threads",
        f"{card['method']} {shown}, against dense",
        f"protocol {card['protocol']}: {card['protocol_summary']}; {_frames(group)} per call, "
        f"{card['warmup']} warm-ups, {card['repeats']} rounds, dense and {card['method']} in turn",
        f"{card['execution']}, launch {card['launch']}{launch_reason}",
        f"attention: {card['attention']}; token rows: {card['row_kernels']}",
        f"frames: {card['frames_from']}; preprocess: {card['preprocess']}",
        f"tower {tower['layers']} layers x {tower['tokens']} tokens x {tower['width']}; language model "
        f"{decoder['layers']} layers x {decoder['width']}; {per_frame} tokens per frame",
        *_interval_bounds(card),
        f"KV {_size(card['kv_bytes_per_token'])} per token; tower reference {_size(card['reference_bytes'])}",
        "",
        "Work, method / dense: the bound by arithmetic alone (per token: by bytes alone)",
        f"{'':>6}{'tower TFLOP':>27}{'prefill TFLOP':>27}{'GB per token':>27}",
        f"{'frames':>6}" + f"{'dense':>10}{'method':>9}{'ratio':>8}" * 3,
        *map(_work_line, card["static"]),
    ]
    return "\n".join(lines)


def machine(card: dict[str, Any]) -> str:
    """The measured rates."""
    rates = card["machine"]
    return (
        f"\nThis machine, measured: {rates['flops_per_s'] / 1e12:.3g} TFLOP/s (matrix product), "
        f"{rates['bytes_per_s'] / 1e9:.3g} GB/s (copy).\n"
        "floor: least time of the method's work with these, call by call; bound: that over dense's."
    )


def row(row: dict[str, Any], method: str) -> str:
    """The measurements of one frame count."""
    decode_ms = row["decode_ms"]
    decoding = (_times(decode_ms), "the same") if decode_ms else ("not measured (no --video)", "")
    lines = [
        f"\n{_frames(row['frames'])}, ms: min / median / p95",
        f"{'stage':<12}{'dense':>30}{method:>30}{'ratio':>8}{'bound':>8}{'x bound':>8}{'floor':>10}",
        f"{'decode':<12}{decoding[0]:>30}{decoding[1]:>30}",
    ]
    for stage in STAGES:
        dense_times, method_times = (_times(row["summary_ms"][side][stage]) for side in _SIDES)
        ratios = [row["ratio"][stage], row["bound"].get(stage), row["measured_over_bound"].get(stage)]
        numbers = "".join(f"{_number(ratio):>8}" for ratio in ratios)
        floor = _number(row["floor_ms"].get("method", {}).get(stage), ".2f")
        lines.append(
            f"{stage.removesuffix('_ms'):<12}{dense_times:>30}{method_times:>30}{numbers}{floor:>10}"
        )
    for side, sizes in row["sizes"].items():
        lines.append(
            f"{method if side == 'method' else side}: {sizes['llm_tokens_mean']:.0f} tokens and "
            f"{_size(sizes['kv_bytes_per_frame'])} of KV per frame, tower reference "
            f"{_size(sizes['tower_reference_bytes'])}, all state {_size(sizes['state_bytes'])}, "
            f"peak memory {_size(sizes['peak_memory_bytes'])}"
        )
    launch = row["launch"]["method"]
    lines.append(f"launch: {launch}" + (_IN_GRAPH if launch.startswith("graph") else ""))
    if row["launch"]["dense"] != row["launch"]["method"]:
        lines.append(f"WARNING: dense was launched as {row['launch']['dense']}, so the ratio is not fair")
    return "\n".join(lines)


def warnings(card: dict[str, Any]) -> str:
    """One line for every stage in which the method is slower than dense, or one that says there is none."""
    lines = [
        f"WARNING: {w['stage'].removesuffix('_ms')} at {_frames(w['frames'])} takes {w['ratio']:.3f} "
        f"of dense (slower in {w['slower']} of {w['rounds']} rounds)"
        for w in card["slower_than_dense"]
    ]
    return "\n".join(["", *(lines or [f"No stage is slower than dense (ratio above {SLOWER})."])])


def emit(card: dict[str, Any], output: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Say the card as one line of JSON, and write it to `output` if there is one; returns the card."""
    line = json.dumps(card)  # fails before the file is opened
    if output is not None:
        output.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    say(line)
    return card


def _interval_bounds(card: dict[str, Any]) -> list[str]:
    tower, settings = card["shape"]["tower"], card["settings"]
    if "update_ratio" not in settings:
        return []
    selected = max(1, int(tower["tokens"] * settings["update_ratio"]))
    sizes = tower["tokens"], tower["width"], tower["mlp"], selected
    intervals = sorted({2, 4, 8, settings["cache_interval"]})
    bounds = ", ".join(f"{1 - saving(*sizes, interval):.3f} at interval {interval}" for interval in intervals)
    recomputed = f"{selected} of {tower['tokens']} tokens recomputed"
    return [f"tower blocks on an endless stream, {recomputed}: arithmetic bound {bounds}"]


def _work_line(static: dict[str, Any]) -> str:
    line = f"{static['frames']:>6}"
    for stage, what, unit in _WORK:
        work = [static["work"].get(side, {}).get(stage) for side in _SIDES]
        dense, method = (None if one is None else getattr(one, what) / unit for one in work)
        ratio = method / dense if dense and method is not None else None
        line += f"{_number(dense, '.3g'):>10}{_number(method, '.3g'):>9}{_number(ratio):>8}"
    return line


def _number(value: float | None, how: str = ".3f") -> str:
    return "-" if value is None else format(value, how)


def _frames(count: int) -> str:
    return f"{count} frame{'s' * (count > 1)}"


def _times(summary: dict[str, float]) -> str:
    return " / ".join(format(summary[name], ".2f") for name in ("min", "median", "p95"))


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
