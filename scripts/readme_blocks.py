"""Fill the generated parts of README.md: tables of methods from the registry, figures from recorded JSON.

python scripts/readme_blocks.py          write README.md
python scripts/readme_blocks.py --check  exit with status 1 if it is not up to date
"""

import json
import sys
from pathlib import Path

from blocks import fill

from stc_lmms.cli.method_tables import HEADER, NOTES, methods, table_rows

REPO = Path(__file__).resolve().parents[1]


RESULTS = REPO / "benchmarks" / "results"
TOWERS = {"siglip": "SigLIP-so400m", "clip": "CLIP-L/14", "qwen2_vl": "Qwen2-VL-7B"}


def _read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def cacher_cpu_block() -> str:
    """Every recorded run of benchmarks/cacher_cpu.py."""
    found = [_read(path.stem) for path in sorted(RESULTS.glob("cacher_cpu*.json"))]
    env = found[0]["environment"]
    lines = [
        f"Time of STC-Cacher relative to dense (update ratio 0.25, {found[0]['arguments']['frames']} frames, "
        f"float32, {env['device']}, {env['threads']} threads, torch {env['torch']}; alternated in one "
        "process by `benchmarks/cacher_cpu.py`):",
        "",
        "| tower | blocks | interval | measured | arithmetic bound |",
        "|---|---|---|---|---|",
    ]
    for result in found:
        given = result["arguments"]
        shown = (TOWERS[given["tower"]], given["layers"], given["interval"])
        lines.append(
            f"| {' | '.join(map(str, shown))} | **{result['measured']:.2f}** | {result['bound']:.2f} |"
        )
    lines += [
        "",
        "The bound counts multiply-accumulates. A ratio below it comes from the CPU's caches, not the "
        "method: both run 16 frames in one call, where dense is slower per frame than in calls of 4, and "
        "STC-Cacher works on smaller batches.",
    ]
    return "\n".join(lines)


def prefill_cpu_block() -> str:
    result = _read("prefill_cpu")
    given, env = result["arguments"], result["environment"]
    return (
        f"Prefill of {given['budget']} instead of {given['dense']} tokens per frame takes "
        f"**{result['measured']:.2f}** of the time (bound {result['bound']:.2f}; Qwen2-7B width, "
        f"{given['layers']} layers, {given['frames']} frames in one forward, float32, {env['device']}, "
        f"{env['threads']} threads: `python benchmarks/prefill_cpu.py`)."
    )


def stream_memory_block() -> str:
    result = _read("stream_memory")
    given, rows = result["arguments"], result["rows"]
    device = [row["device_mib"] for row in rows]
    rest = [row["resident_mib"] - row["archive_mib"] for row in rows]
    first = [row["first_token_ms"] for row in rows]
    exact = "exactly" if result["archive_is_exact"] else "NOT"
    return (
        f"A stream of {given['hours']:g} hours through `{given['memory']}` ({given['tokens']} tokens per "
        f"frame, 0.5 fps, tiny decoder, CPU): from the first ten minutes to the last, the KV on the "
        f"device takes {min(device):.2f} to {max(device):.2f} MiB and the process without its archive "
        f"{min(rest):.0f} to {max(rest):.0f} MiB; the archive grows by {exact} the predicted "
        f"{result['archive_bytes_per_frame']:,} bytes per frame. A question's first token takes "
        f"{first[0]:.0f} ms after ten minutes and {first[-1]:.0f} ms at the end: scoring is one dot product "
        "per frame and layer, so it grows only slightly with the stream "
        "(`python benchmarks/stream_memory.py`)."
    )


def gpu_card_block(folder: Path = RESULTS) -> str:
    """One row for every recorded GPU card and frame count: medians of method over dense."""
    cards = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("gpu_card_*.json"))]
    if not cards:
        return "No GPU figures yet: on a machine with a GPU, run `PYTHONPATH=. bash benchmarks/gpu_card.sh`."
    rows = [row for card in cards for row in _card_rows(card)]
    machines = sorted({f"{c['environment']['device']}, torch {c['environment']['torch']}" for c in cards})
    slower = [
        f"{w['stage'].removesuffix('_ms')} at {w['frames']} frames of {_what(card)}: {w['ratio']:.2f}"
        for card in cards
        for w in card["slower_than_dense"]
    ]
    return "\n".join(
        [
            "Method over dense; in brackets the bound at the machine's measured rates. Recorded on "
            + "; ".join(machines)
            + ".",
            "",
            "| method, interval, selection, budget | frames | vision tower | prefill | all up to the cache | "
            "first token |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "Stages slower than dense (ratio above 1.03): " + ("; ".join(slower) or "none") + ".",
        ]
    )


def _what(card: dict) -> str:
    shown = ("cache_interval", "selection", "token_budget")
    options = "".join(f", {card['settings'][name]}" for name in shown if name in card["settings"])
    launch = card["rows"][-1]["launch"]["method"]
    return f"{card['method']}{options} ({card['weights']}, {card['dtype']}, {card['execution']}, {launch})"


def _card_rows(card: dict) -> list[str]:
    stages = ("vit_ms", "prefill_ms", "observe_ms", "ttft_ms")
    return [
        f"| {_what(card)} | {row['frames']} | " + " | ".join(_ratio(row, stage) for stage in stages) + " |"
        for row in card["rows"]
    ]


def _ratio(row: dict, stage: str) -> str:
    bound = row["bound"].get(stage)
    return f"{row['ratio'][stage]:.2f}" + (f" ({bound:.2f})" if bound is not None else "")


def selection_cost_block() -> str:
    result = _read("selection_cost")
    env, found = result["environment"], result["token_methods"]
    worst = max(found, key=lambda name: found[name]["share_of_dense"])
    others = max(row["share_of_dense"] for name, row in found.items() if "visionzip" not in name)
    tower = ", ".join(f"`{name}` {row['over_dense']:.2f}" for name, row in result["tower_methods"].items())
    return (
        f"Choosing tokens is cheap: on a CPU the most expensive method (`{worst}`) takes "
        f"{found[worst]['share_of_dense']:.1%} of the dense tower's time per frame; those that read no "
        f"attention take at most {others:.2%}. "
        f"The tower's time with a method in it, relative to dense: {tower}. (196 x 3584 tokens, "
        f"SigLIP-so400m with {result['arguments']['layers']} layers, float32, one thread, processor time, "
        f"{env['device']}, torch {env['torch']}: `python benchmarks/selection_cost.py`.)"
    )


def forest_cost_block() -> str:
    result = _read("forest_cost")
    env, (asked, bounded) = result["environment"], (result["stream"][when] for when in ("ask", "frame"))

    def updates(rows: list[dict]) -> str:
        times = [row["update_ms"] for row in rows]
        return f"{min(times):.0f} to {max(times):.0f} ms"

    frames = result["arguments"]["frames"]
    held = [row["memory_bytes"] / 1e6 for row in bounded]
    read = max(row["read_ms"] for row in bounded)
    return (
        f"Over {result['arguments']['stream']:,} frames (729 tokens of width 1152, float32, one thread, "
        f"processor time, {env['device']}), adding a frame to the memory takes {updates(asked)} with "
        f"`consolidate=ask` and {updates(bounded)} with `frame`, early and late alike; the dense tower takes "
        f"{result['tower_ms'] / frames:,.0f} ms per frame. With `frame` the memory stays at {min(held):.0f} "
        f"to {max(held):.0f} MB and a read takes at most {read:.0f} ms; with `ask` the memory grows to "
        f"{asked[-1]['memory_bytes'] / 1e6:.0f} MB and a read, which then merges all events, to "
        f"{asked[-1]['read_ms'] / 1e3:.1f} s. Merging events after {frames} frames takes "
        f"{result['share_of_dense']['consolidate']:.3%} of the time the dense tower takes for them "
        "(`python benchmarks/forest_cost.py --layers 1`)."
    )


def dispider_stream_block() -> str:
    result = _read("dispider_stream")
    first, last = result["rows"][0], result["rows"][-1]
    model, env = result["arguments"]["size"], result["environment"]
    return (
        f"With the {model} random model on {env['device']}, {env['threads']} threads, retrieval takes "
        f"{first['retrieval_ms']:.0f} ms at {first['clips']} clips and {last['retrieval_ms']:,.0f} ms at "
        f"{last['clips']:,} ({last['memory_tokens']:,} tokens in one pass), and a clip always takes "
        f"{last['device_bytes_per_clip']:,.0f} bytes on the device and {last['archive_bytes_per_clip']:,.0f} "
        "on the host (`python benchmarks/dispider_stream.py`)."
    )


def methods_block() -> str:
    """The table of methods."""
    lines = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    lines += [f"| `{name}` | {' | '.join(cells)} |" for name, *cells in table_rows(methods())]
    return "\n".join([*lines, "", *NOTES])


BLOCKS = {
    "methods": methods_block,
    "cacher_cpu": cacher_cpu_block,
    "prefill_cpu": prefill_cpu_block,
    "stream_memory": stream_memory_block,
    "gpu_card": gpu_card_block,
    "selection_cost": selection_cost_block,
    "forest_cost": forest_cost_block,
    "dispider_stream": dispider_stream_block,
}


def main() -> int:
    readme = REPO / "README.md"
    new = fill(readme, BLOCKS)
    if "--check" in sys.argv[1:]:
        return int(new != readme.read_text(encoding="utf-8"))
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
