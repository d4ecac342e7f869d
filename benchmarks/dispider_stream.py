"""A long stream through Dispider: bytes per clip, and the cost of retrieval as clips accumulate.

    python benchmarks/dispider_stream.py                                   # tiny random model, CPU
    python benchmarks/dispider_stream.py --size 7b --device cuda           # random weights of the real size
    python benchmarks/dispider_stream.py --pretrained Mar2Ding/Dispider --device cuda

One clip is encoded; the others are copies of it, which cost a question as much as different ones. Retrieval
is one pass of the compact model over all memory states. Prints a line per measured number of clips; the last
line is one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from stc_lmms.bench.entry import QUESTION, find_entry
from stc_lmms.bench.frames import synthetic_frames
from stc_lmms.bench.hardware import synchronize
from stc_lmms.bench.options import Options
from stc_lmms.engine.timers import environment
from stc_lmms.models.dispider.model import Dispider
from stc_lmms.settings import resolve
from training.demo.dispider_checkpoint import build_dispider


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--every", type=int, default=100, help="measure once per this many clips")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pretrained", help="a checkpoint; without it, random weights")
    parser.add_argument("--size", choices=["tiny", "7b"], default="tiny", help="of the random weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    args = parser.parse_args()

    model = load(args)
    frames, times_s = synthetic_frames(model.options.frames_per_clip)
    stream, words, rows = model.open_stream(), model.words(QUESTION), []
    stream.observe(frames, times_s)
    for count in range(1, args.clips + 1):
        if count > 1:
            stream.clips.append(stream.clips[0])
        if count % args.every:
            continue
        rows.append(
            {
                "clips": count,
                "retrieval_ms": milliseconds(
                    lambda: stream.retrieve(stream.clips, words), args.repeats, model.device
                ),
                "device_bytes_per_clip": stream.clips.nbytes / count,
                "archive_bytes_per_clip": stream.clips.archive_nbytes / count,
                "memory_tokens": count * len(stream.clips[0].memory_MD),
            }
        )
        print("  ".join(f"{key} {value:10.1f}" for key, value in rows[-1].items()), flush=True)
    result = {
        "benchmark": "dispider_stream",
        "arguments": {key: value for key, value in vars(args).items() if key != "output"},
        "rows": rows,
        "environment": environment(model.device),
    }
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def load(args: argparse.Namespace) -> Dispider:
    given = {"method": "none", "device": args.device}
    if args.pretrained is not None:
        return Dispider(resolve(given | {"pretrained": args.pretrained}, environ={}, model="dispider"))
    if args.size == "tiny":
        with tempfile.TemporaryDirectory() as folder:
            pretrained = {"pretrained": str(build_dispider(Path(folder)))}
            return Dispider(resolve(given | pretrained, environ={}, model="dispider"))
    options = Options(model="dispider", method="none", size=args.size, device=args.device)
    entry = find_entry("dispider")
    return entry.open(options, entry.check(options)).dense


@torch.no_grad()
def milliseconds(run, repeats: int, device: torch.device) -> float:
    """Median wall-clock time; the first call warms up."""
    spent = []
    for _ in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        spent.append((time.perf_counter() - start) * 1e3)
    return statistics.median(spent[1:])


if __name__ == "__main__":
    main()
