"""What choosing tokens costs on a CPU: every method's time per frame beside the dense tower's.

    python benchmarks/selection_cost.py --output benchmarks/results/selection_cost.json

Token methods get 196 tokens of width 3584 per frame in float32, in one call of 16 frames (evaluation) and one
frame at a time (live). What a method needs besides is billed to it: VisionZip's attention weights of the
last layer. Times are processor time on one thread, so that other programs on the machine do not count.
Methods that act in the tower are measured as the whole tower's time with them. The tower is
SigLIP-so400m as LLaVA-OneVision uses it, 26 layers, random weights. The last line is one JSON object.
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
from stc_lmms.methods.base import ATTENTION, Context, TokenMethod
from stc_lmms.methods.registry import METHODS
from stc_lmms.ops.grid import halve
from stc_lmms.towers import SiglipTower
from stc_lmms.towers.attention_scores import received_in

GRID, TOKENS, WIDTH, LIMIT = (14, 14), 196, 3584, 0.05
# Beyond the defaults of every method: the other modes.
MODES = [("visionzip", {"mode": "full"}), ("vidcom2", {"mode": "original"})]


def clock(run: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of processor time; the first call warms up."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        run()
        times.append((time.process_time() - start) * 1e3)
    return statistics.median(times[1:])


def play(method: TokenMethod, tower: SiglipTower, frames: dict[str, torch.Tensor], step: int) -> None:
    """One stream through a method, `step` frames per call."""
    state = method.open_state()
    for start in range(0, len(frames["tokens"]), step):
        part = {name: x[start : start + step] for name, x in frames.items()}
        more = {}
        if method.needs & ATTENTION:
            seen = received_in(tower.blocks[-1], part["hidden"])
            more["attention_FN"] = halve(seen.attention_FT[..., None], (27, 27))[..., 0]
            more["keys_FNE"] = halve(seen.keys_FTE, (27, 27))
        if "pixels" in method.needs:
            more["pixels_FCHW"] = part["pixels"]
        _, state = method.compress(part["tokens"], Context(grid=GRID, **more), state)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tower-repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    config = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_attention_heads=16,
        num_hidden_layers=args.layers,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )
    config._attn_implementation = "sdpa"
    tower = SiglipTower(SiglipVisionModel(config).eval())
    # A drifting scene: every frame differs from the one before.
    scene = {"tokens": (TOKENS, WIDTH), "hidden": (729, 1152), "pixels": (3, 384, 384)}
    frames = {
        name: torch.randn(1, *shape) + 0.1 * torch.randn(args.frames, *shape).cumsum(0)
        for name, shape in scene.items()
    }
    one = frames["pixels"][:1]
    dense_ms = clock(lambda: tower.encode(one), args.tower_repeats)
    print(f"dense tower, {args.layers} layers: {dense_ms:.0f} ms per frame, one thread, float32")

    token, in_tower = {}, {}
    for name, options in [*((name, {}) for name in METHODS), *MODES]:
        method = METHODS[name].build(options)
        label = " ".join([name, *options.values()])
        if method.tower is None and method.token is not None:
            ms = {
                key: clock(lambda s=step, m=method.token: play(m, tower, frames, s), args.repeats)
                / args.frames
                for key, step in (("batch", args.frames), ("live", 1))
            }
            share = max(ms.values()) / dense_ms
            token[label] = {f"{key}_ms_per_frame": round(t, 3) for key, t in ms.items()} | {
                "share_of_dense": round(share, 5)
            }
            times = f"{ms['batch']:8.2f} ms {ms['live']:8.2f} ms live"
            print(f"{label:20s} {times}   {share:7.2%} of the dense tower")
        elif method.token is None and method.budget == "per frame":
            m = method.tower
            ms = clock(lambda m=m: m.encode(tower, one, m.open_state()), args.tower_repeats)
            in_tower[label] = {"tower_ms_per_frame": round(ms, 1), "over_dense": round(ms / dense_ms, 4)}
            print(f"{label:20s} {ms:8.0f} ms in the tower, {ms / dense_ms:.2f} of dense")
    over = [label for label, found in token.items() if found["share_of_dense"] > LIMIT]
    print(f"above {LIMIT:.0%} of the dense tower: {', '.join(over) or 'none'}")
    result = {
        "benchmark": "selection_cost",
        "arguments": {key: value for key, value in vars(args).items() if key != "output"},
        "dense_ms_per_frame": round(dense_ms, 1),
        "token_methods": token,
        "tower_methods": in_tower,
        "above_limit": over,
        "environment": environment(torch.device("cpu")),
    }
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
