"""A long synthetic stream through a memory on a CPU: what stays flat, what grows, what a question costs.

    python benchmarks/stream_memory.py --hours 2 --memory memory=rekv,n_local=2048,retrieve_size=16

The tiny random checkpoint's decoder is fed random visual tokens (0.5 fps), so this is about bytes and the
shape of curves, not about seconds on a real model. Prints a line every ten minutes of stream; the last line
is one JSON object.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import torch

from stc_lmms.engine.timers import environment
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.settings import resolve
from training.demo.checkpoint import build_checkpoint

FPS, GROUP = 0.5, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=2)
    parser.add_argument("--tokens", type=int, default=64, help="per frame")
    parser.add_argument("--memory", default="memory=rekv,n_local=2048,retrieve_size=16")
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    args = parser.parse_args()
    torch.set_num_threads(1)

    options = dict(pair.split("=", 1) for pair in args.memory.split(","))
    with tempfile.TemporaryDirectory() as folder:
        given = {"pretrained": str(build_checkpoint(Path(folder))), "method": "none", "device": "cpu"}
        model = LlavaOnevision(resolve(given | options, environ={}))
    memory, llm = model.memory.open(model.llm), model.llm
    generator = torch.Generator().manual_seed(0)
    question = llm.embed(torch.arange(30))
    rows = []
    with torch.no_grad():
        memory.begin(llm.embed(torch.arange(14)))
        start, spent = time.perf_counter(), 0.0
        for frame in range(0, int(args.hours * 3600 * FPS), GROUP):
            embeds = torch.randn(GROUP * args.tokens, question.shape[1], generator=generator) / 50
            memory.append(embeds, [args.tokens] * GROUP)
            minutes = (frame + GROUP) / FPS / 60
            if minutes // 10 > frame / FPS / 60 // 10:
                spent, since = time.perf_counter() - start, time.perf_counter()
                with memory.ask(question) as reader:
                    reader.next_logits(question)
                    context = reader.context_tokens
                rows.append(
                    {
                        "minutes": round(minutes),
                        "device_mib": memory.nbytes / 2**20,
                        "archive_mib": memory.archive_nbytes / 2**20,
                        "resident_mib": _resident_bytes() / 2**20,
                        "first_token_ms": (time.perf_counter() - since) * 1e3,
                        "context_tokens": context,
                        "stream_s": spent,
                    }
                )
                print("  ".join(f"{key} {value:8.1f}" for key, value in rows[-1].items()), flush=True)
    per_frame = llm.layers * llm.kv_heads * llm.head_dim * (2 * args.tokens + 1) * 4
    result = {
        "benchmark": "stream_memory",
        "arguments": {key: value for key, value in vars(args).items() if key != "output"},
        "archive_bytes_per_frame": per_frame,
        "archive_is_exact": memory.archive_nbytes == per_frame * (frame + GROUP),
        "peak_resident_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "rows": [{key: round(value, 2) for key, value in row.items()} for row in rows],
        "environment": environment(torch.device("cpu")),
    }
    memory.close()
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
