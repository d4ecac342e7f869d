"""Cost of StreamForest's memory relative to the dense tower on a CPU: per frame, and per question.

    python benchmarks/forest_cost.py --output benchmarks/results/forest_cost.json

Released constants on 128 frames of 729 tokens of width 1152, float32, random scenes that change every few
frames; frames are appended 16 at a time, and one by one. Each time is the median of `--repeats` runs on one
thread, in processor time, so that other programs on the machine do not count. The tower is SigLIP-so400m as
in StreamForest: 26 layers, random weights, one frame per call; with `--layers` fewer are run and the time is
scaled up. Shares are relative to the tower's time for the same frames. Then a stream of `--stream` frames,
one by one, for both settings of `consolidate`: cost of a frame, cost of a read, and bytes held as the stream
grows. The last line is one JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from stc_lmms.engine.timers import environment
from stc_lmms.models.public_sizes import SO400M
from stc_lmms.models.streamforest.memory import Forest
from stc_lmms.models.streamforest.options import ForestOptions
from stc_lmms.towers import SiglipTower

TOKENS, LIMIT, CONSOLIDATE = 729, 0.25, ("ask", "frame")


def clock(run: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of processor time; the first call warms up."""
    return statistics.median([milliseconds(run) for _ in range(repeats + 1)][1:])


def milliseconds(run: Callable[[], object]) -> float:
    """Milliseconds of processor time of one call."""
    start = time.process_time()
    run()
    return (time.process_time() - start) * 1e3


def long_stream(count: int, every: int, width: int, consolidate: str) -> list[dict[str, float]]:
    """One row per `every` frames: cost of a frame since the last row, cost of a read, and bytes."""
    forest, rows = Forest(ForestOptions(consolidate=consolidate), SO400M["num_attention_heads"]), []
    for seen in range(every, count + 1, every):
        frames = scenes(every, width)
        update_ms = [milliseconds(lambda frame=frame: forest.append(frame)) for frame in frames.split(1)]
        rows.append(
            {
                "frames": seen,
                "update_ms": round(statistics.median(update_ms), 2),
                "update_ms_mean": round(statistics.fmean(update_ms), 2),
                "read_ms": round(clock(forest.read, 3), 2),
                "events": len(forest.events),
                "tokens_read": len(forest.read()),
                "memory_bytes": forest.nbytes,
            }
        )
        print("  ".join(f"{key} {value:11.1f}" for key, value in rows[-1].items()), flush=True)
    return rows


def scenes(count: int, width: int) -> torch.Tensor:
    """[count,729,width]: noise around a picture that changes every few frames."""
    lengths = torch.randint(2, 12, (count,))
    picture = torch.randn(count, TOKENS, width).repeat_interleave(lengths, 0)[:count]
    return picture + 0.3 * torch.randn(count, TOKENS, width)


def taken_in(frames: torch.Tensor, step: int, **options: str) -> Forest:
    """A memory that has seen all frames, `step` per call."""
    forest = Forest(ForestOptions(**options), SO400M["num_attention_heads"])
    for part in frames.split(step):
        forest.append(part)
    return forest


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=SO400M["num_hidden_layers"])
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stream", type=int, default=2000, help="frames of the long stream")
    parser.add_argument("--every", type=int, default=200, help="one row per this many frames of it")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    config = SiglipVisionConfig(**SO400M | {"num_hidden_layers": args.layers}, vision_use_head=False)
    config._attn_implementation = "sdpa"
    tower = SiglipTower(SiglipVisionModel(config).eval())
    pixels = torch.randn(1, 3, SO400M["image_size"], SO400M["image_size"])
    scale = SO400M["num_hidden_layers"] / args.layers
    tower_ms = clock(lambda: tower.encode(pixels), args.repeats) * scale * args.frames
    print(f"dense tower: {tower_ms / args.frames:.0f} ms per frame, one thread, float32")

    frames = scenes(args.frames, SO400M["hidden_size"])
    forest = taken_in(frames, 16)
    found = {
        "append_by_16": clock(lambda: taken_in(frames, 16), args.repeats),
        "append_by_1": clock(lambda: taken_in(frames, 1), args.repeats),
        "append_by_1_consolidating": clock(lambda: taken_in(frames, 1, consolidate="frame"), args.repeats),
        "consolidate": clock(forest.consolidated, args.repeats),
        "read": clock(forest.read, args.repeats),
    }
    for name, ms in found.items():
        print(f"{name:26s} {ms:9.1f} ms for {args.frames} frames  {ms / tower_ms:8.3%} of the dense tower")
    share = found["consolidate"] / tower_ms
    print(f"consolidate: {share:.3%} of the dense tower, {'under' if share < LIMIT else 'OVER'} {LIMIT:.0%}")
    streams = {}
    for when in CONSOLIDATE:
        print(f"{args.stream} frames, consolidate={when}:")
        streams[when] = long_stream(args.stream, args.every, SO400M["hidden_size"], when)
    result = {
        "benchmark": "forest_cost",
        "arguments": {key: value for key, value in vars(args).items() if key != "output"},
        "tower_ms": round(tower_ms, 1),
        "memory_ms": {name: round(ms, 2) for name, ms in found.items()},
        "share_of_dense": {name: round(ms / tower_ms, 6) for name, ms in found.items()},
        "events": [len(forest.events), len(forest.consolidated())],
        "tokens_read": len(forest.read()),
        "memory_bytes": forest.nbytes,
        "stream": streams,
        "environment": environment(torch.device("cpu")),
    }
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
