"""Prefill with 64 and with 196 LLM tokens per frame: Qwen2-7B width, CPU, float32, alternating.

    python benchmarks/prefill_cpu.py --layers 2 --frames 16

Both use the same memory and attention (SDPA), one group of frames per forward call. Prints the bound first
(ratio of tokens, and of all arithmetic including attention), then the measured ratio; the last line is one
JSON object with every sample. Weights are random: the time does not depend on their values.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import torch
from alternate import alternate

from stc_lmms.bench.cost import prefill_macs
from stc_lmms.bench.options import Options
from stc_lmms.engine.timers import environment
from stc_lmms.models.llava_onevision.bench import ENTRY
from stc_lmms.models.llava_onevision.model import LlavaOnevision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--budget", type=int, default=64)
    parser.add_argument("--dense", type=int, default=196)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    model = _model(args.layers)
    width = model.model.config.text_config.hidden_size
    tokens = {"dense": args.dense, "budget": args.budget}
    embeds = {name: torch.randn(args.frames * count, width) for name, count in tokens.items()}
    decoder = ENTRY.shape(model).decoder
    macs = {name: prefill_macs(decoder, len(x)) for name, x in embeds.items()}
    bound = macs["budget"] / macs["dense"]
    print(f"Qwen2-7B width, {args.layers} layers, {args.frames} frames in one group, {args.threads} threads")
    print(f"tokens over tokens:                {args.budget / args.dense:.3f}")
    print(f"arithmetic bound, attention too:   {bound:.3f}")

    @torch.no_grad()
    def prefill(name: str) -> None:
        model.memory.open(model.llm).append(embeds[name], [tokens[name]] * args.frames)

    samples_ms = alternate({name: partial(prefill, name) for name in tokens}, args.repeats)
    medians = {name: statistics.median(times) for name, times in samples_ms.items()}
    ratio = medians["budget"] / medians["dense"]
    for name, times in samples_ms.items():
        spent = f"median {medians[name]:8.0f} ms   min {min(times):8.0f} ms   of {len(times)}"
        print(f"{tokens[name]:4d} tokens per frame: {spent}")
    print(f"measured:                          {ratio:.3f}   (bound {bound:.3f})")
    result = {
        "benchmark": "prefill_cpu",
        "arguments": {key: value for key, value in vars(args).items() if key != "output"},
        "bound": round(bound, 4),
        "measured": round(ratio, 4),
        "samples_ms": {name: [round(t, 1) for t in times] for name, times in samples_ms.items()},
        "environment": environment(torch.device("cpu")),
    }
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def _model(layers: int) -> LlavaOnevision:
    """The sizes of the 7B checkpoint, with few layers and one vision layer that is not used."""
    options = Options(method="none", layers=1, llm_layers=layers, device="cpu", dtype="float32")
    return ENTRY.open(options, ENTRY.check(options)).dense


if __name__ == "__main__":
    main()
