"""STC-Cacher against dense on a CPU, float32, measured alternately in one process.

    python benchmarks/cacher_cpu.py --layers 4 --frames 16 --interval 4 --ratio 0.25
    python benchmarks/cacher_cpu.py --tower clip
    python benchmarks/cacher_cpu.py --tower qwen2_vl --interval 2

Both run the same blocks, batched, on the same attention kernel (SDPA). Prints a card with the arithmetic
bound first, then the measured ratio; the last line is one JSON object with every sample. Random weights:
the time of a block does not depend on their values.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from alternate import alternate

from stc_lmms import compat
from stc_lmms.bench.cost import saving, selective_over_dense
from stc_lmms.engine.timers import environment
from stc_lmms.methods.stc_cacher import STCCacher
from stc_lmms.towers import Patches, Tower, open_tower

# Sizes of the real towers. `layers`: SigLIP-so400m has 27; four take a quarter of a minute per pass.
TOWERS = {
    "siglip": {
        "name": "SigLIP-so400m",
        "layers": 4,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
    "clip": {
        "name": "CLIP-L/14",
        "layers": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
    },
    # Of Qwen2-VL-7B and LiveCC-7B; a frame is a temporal slice of 420 patches, LiveCC's smallest.
    "qwen2_vl": {
        "name": "Qwen2-VL-7B",
        "layers": 4,
        "embed_dim": 1280,
        "hidden_size": 3584,
        "mlp_ratio": 4,
        "num_heads": 16,
    },
}
QWEN_GRID = (14, 30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tower", choices=TOWERS, default="siglip")
    parser.add_argument("--layers", type=int, help="blocks (default: 4 of 27, all 24, 4 of 32)")
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

    sizes = dict(TOWERS[args.tower])
    name, depth = sizes.pop("name"), sizes.pop("layers")
    args.layers = args.layers or depth
    tower, frames, shape = _qwen(args, sizes) if args.tower == "qwen2_vl" else _image(args, sizes)
    cacher = STCCacher(cache_interval=args.interval, update_ratio=args.ratio, selection=args.selection)
    k = cacher.selected(shape["tokens"])
    bound = 1 - saving(**shape, selected=k, interval=args.interval)
    print(f"{name} blocks x {args.layers}, {args.frames} frames, float32, {args.threads} threads")
    print(f"interval {args.interval}, update ratio {args.ratio} ({k} of {shape['tokens']}), {args.selection}")
    print(f"selective / dense block, arithmetic: {selective_over_dense(**shape, selected=k):.3f}")
    print(f"grouped / dense, arithmetic bound:   {bound:.3f}")

    runs = {
        "dense": lambda: tower.encode(frames),
        "grouped": lambda: cacher.encode(tower, frames, cacher.open_state()),
    }
    samples_ms = alternate(runs, args.repeats)
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


def _image(args: argparse.Namespace, sizes: dict) -> tuple[Tower, torch.Tensor, dict[str, int]]:
    """Tower, frames and block shape of SigLIP or CLIP."""
    config_class, model_class = compat.vision_classes(args.tower)
    config = config_class(**sizes, num_hidden_layers=args.layers)
    config.vision_use_head = False
    tower = open_tower(model_class._from_config(config, attn_implementation="sdpa").eval())
    pixels = _drifting(args.frames, 3, config.image_size, config.image_size)
    shape = {"tokens": tower.num_tokens, "width": config.hidden_size, "mlp": config.intermediate_size}
    return tower, pixels, shape


def _qwen(args: argparse.Namespace, sizes: dict) -> tuple[Tower, Patches, dict[str, int]]:
    """The same of Qwen2-VL."""
    config_class, model_class = compat.vision_classes(args.tower)
    config = config_class(**sizes, depth=args.layers)
    tower = open_tower(model_class._from_config(config, attn_implementation="sdpa").eval())
    tokens, values = QWEN_GRID[0] * QWEN_GRID[1], tower.patch_weight[0].numel()
    rows = _drifting(args.frames, tokens, values).flatten(0, 1)
    width = config.embed_dim
    shape = {"tokens": tokens, "width": width, "mlp": int(width * config.mlp_ratio)}
    return tower, Patches(rows, [(args.frames, *QWEN_GRID)]), shape


def _drifting(frames: int, *shape: int) -> torch.Tensor:
    """A drifting scene: every frame differs from the one before."""
    return torch.randn(1, *shape) + 0.1 * torch.randn(frames, *shape).cumsum(0)


if __name__ == "__main__":
    main()
