"""STC-Cacher against dense on a CPU: SigLIP-so400m blocks, float32, measured alternately in one process.

    python benchmarks/cacher_cpu.py --layers 4 --frames 16 --interval 4 --ratio 0.25

Both run the same blocks, batched, on the same attention kernel (SDPA). Prints a card with the arithmetic
bound first, then the measured ratio; the last line is one JSON object with every sample. Random weights:
the time of a block does not depend on their values.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from stc_lmms.bench.cost import saving, selective_over_dense
from stc_lmms.methods.stc_cacher import STCCacher
from stc_lmms.streaming.timers import environment
from stc_lmms.towers import SiglipTower

SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--interval", type=int, default=4)
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--selection", choices=["per_layer", "shared"], default="per_layer")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    config = SiglipVisionConfig(**SO400M, num_hidden_layers=args.layers, vision_use_head=False)
    config._attn_implementation = "sdpa"
    tower = SiglipTower(SiglipVisionModel(config).eval())
    cacher = STCCacher(cache_interval=args.interval, update_ratio=args.ratio, selection=args.selection)
    # A drifting scene: every frame differs from the one before.
    pixels = torch.randn(1, 3, 384, 384) + 0.1 * torch.randn(args.frames, 3, 384, 384).cumsum(0)

    sizes = {"tokens": tower.num_tokens, "width": config.hidden_size, "mlp": config.intermediate_size}
    k = cacher.selected(tower.num_tokens)
    bound = 1 - saving(**sizes, selected=k, interval=args.interval)
    print(f"SigLIP-so400m blocks x {args.layers}, {args.frames} frames, float32, {args.threads} threads")
    print(
        f"interval {args.interval}, update ratio {args.ratio} ({k} of {tower.num_tokens}), {args.selection}"
    )
    print(f"selective / dense block, arithmetic: {selective_over_dense(**sizes, selected=k):.3f}")
    print(f"grouped / dense, arithmetic bound:   {bound:.3f}")

    runs = {
        "dense": lambda: tower.encode(pixels),
        "grouped": lambda: cacher.encode(tower, pixels, cacher.open_state()),
    }
    samples_ms = {name: [] for name in runs}
    for repeat in range(args.repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:  # the first round warms up
                samples_ms[name].append((time.perf_counter() - start) * 1e3)
    medians = {name: statistics.median(times) for name, times in samples_ms.items()}
    ratio = medians["grouped"] / medians["dense"]
    for name, times in samples_ms.items():
        print(f"{name:8s} median {medians[name]:8.0f} ms   min {min(times):8.0f} ms   of {len(times)}")
    print(f"grouped / dense, measured:           {ratio:.3f}   (bound {bound:.3f})")
    result = {
        "benchmark": "cacher_cpu",
        "arguments": {key: value for key, value in vars(args).items() if key != "output"},
        "bound": round(bound, 4),
        "measured": round(ratio, 4),
        "samples_ms": {name: [round(t, 1) for t in times] for name, times in samples_ms.items()},
        "environment": environment(torch.device("cpu")),
    }
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
