"""The latency card: first the work of every stage, then measurements, then one JSON object on the last line.

In the JSON `arithmetic_bound` is FLOPs of the method over FLOPs of dense. `bound`, to which
`measured_over_bound` refers, is the ratio of the least times at the machine's measured rates (`floor_ms`): in
calls of few frames a stage waits for its weights, which both read. `work` is by stage; where `launch` is a
graph, the times, floors and bounds of `vit_ms` have projector and pooling in them.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from stc_lmms.bench import models, render
from stc_lmms.bench.entry import Entry, Pair
from stc_lmms.bench.frames import SIZE, synthetic_frames, video_frames
from stc_lmms.bench.hardware import Machine, gpu_state, measure_machine
from stc_lmms.bench.measure import Comparison, compare, summary
from stc_lmms.bench.options import PROTOCOLS, Options
from stc_lmms.bench.work import ModelShape, Workload, bounds, captured, kv_bytes_per_token, reference_bytes
from stc_lmms.errors import StcError
from stc_lmms.ops.rows import kernels

SCHEMA = 1
_DEVICE_PEAK = (
    "tensors on the device: weights, the stream, and what the other side's empty stream keeps for its next "
    "video; not the scratch memory of captured graphs"
)


def run(options: Options, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure and print the card; returns what the last line holds.

    Raises:
        StcError: an option does not fit the model or the machine; before any weight is made or loaded.
    """
    entry = models.entry(options.model)
    settings = entry.check(options)
    decode_ms: dict[int, list[float]] = {}
    if options.video is None:
        frames, times_s = synthetic_frames(max(options.frames))
    else:
        frames, times_s, decode_ms = video_frames(
            options.video, options.frames, settings.fps, options.repeats
        )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with _memory_errors("holding the model"):
        pair = entry.open(options, settings)
    shape, prompt = entry.shape(pair.method), entry.prompt_tokens(pair.method)
    work = [_work(entry, pair, _job(pair, count, prompt)) for count in options.frames]
    card = _static(options, pair, shape, prompt) | {"static": work}
    say(render.head(card))

    with _memory_errors("measuring its rates beside the model"):
        machine = measure_machine(pair.dense.device, pair.dense.dtype)
    card["machine"] = {"flops_per_s": machine.flops_per_s, "bytes_per_s": machine.bytes_per_s}
    card["gpu_before"] = gpu_state()
    say(render.machine(card))
    card["rows"], card["slower_than_dense"] = [], []
    for static in card.pop("static"):
        count = static["frames"]
        with _memory_errors(f"{count} frames"):
            measured = compare(
                pair,
                frames[:count],
                times_s[:count],
                repeats=options.repeats,
                warmup=options.warmup,
                new_tokens=options.new_tokens,
            )
        row = _row(card, static, measured, machine, decode_ms.get(count))
        card["rows"].append(row)
        card["slower_than_dense"] += [{"frames": count} | found for found in measured.slower()]
        say(render.row(row, options.method))
    after = pair.method.describe()  # capturing may have failed
    card["launch"], card["launch_reason"] = after["launch"], after["launch_reason"]
    card["gpu_after"] = gpu_state()
    say(render.warnings(card))
    line = json.dumps(card)
    if options.output is not None:
        options.output.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    say(line)
    return card


def _static(options: Options, pair: Pair, shape: ModelShape, prompt: tuple[int, int]) -> dict[str, Any]:
    """All that is known before anything runs, whatever the frame count."""
    how = pair.method.describe()
    return {
        "benchmark": "card",
        "schema": SCHEMA,
        "model": options.model,
        "weights": options.pretrained or f"random, {options.size}",
        "method": options.method,
        "settings": pair.method.settings.flat(),
        "protocol": options.protocol,
        "protocol_summary": PROTOCOLS[options.protocol].summary,
        "prefill_frames": pair.method.settings.prefill_frames,
        "launch": how["launch"],
        "launch_reason": how["launch_reason"],
        "execution": PROTOCOLS[options.protocol].execution,
        "attention": how["attention"],
        "row_kernels": kernels(pair.method.device.type, getattr(torch, how["dtype"])).name,
        "dtype": how["dtype"],
        "repeats": options.repeats,
        "warmup": options.warmup,
        "new_tokens": options.new_tokens,
        "frames_from": str(options.video)
        if options.video
        else f"synthetic drifting noise, {SIZE[0]}x{SIZE[1]}",
        "preprocess": models.entry(options.model).preprocess(options),
        "clock": "CUDA events" if pair.dense.device.type == "cuda" else "wall clock",
        "peak_memory_of": _DEVICE_PEAK if pair.dense.device.type == "cuda" else "whole process so far",
        "shape": {"tower": vars(shape.tower), "decoder": vars(shape.decoder)}
        | {"tokens_per_frame": shape.tokens_per_frame, "itemsize": shape.itemsize},
        "prompt_tokens": {"before": prompt[0], "behind": prompt[1]},
        "kv_bytes_per_token": kv_bytes_per_token(shape),
        "reference_bytes": reference_bytes(shape, pair.method.method.tower),
        "environment": how["environment"],
    }


def _job(pair: Pair, count: int, prompt: tuple[int, int]) -> Workload:
    return Workload(count, pair.method.settings.prefill_frames, *prompt)


def _work(entry: Entry, pair: Pair, job: Workload) -> dict[str, Any]:
    work = {"dense": entry.stages(pair.dense, job), "method": entry.stages(pair.method, job)}
    found = bounds(work["dense"], work["method"] or {}, lambda one: one.flops)
    return {
        "frames": job.frames,
        "work": {who: stages for who, stages in work.items() if stages is not None},
        "arithmetic_bound": _rounded(found),
    }


def _launch(graphed: int, frames: int) -> str:
    return "graph" if graphed == frames else f"graph for {graphed} of {frames} frames" if graphed else "eager"


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {stage: round(value, 4) for stage, value in values.items()}


@contextmanager
def _memory_errors(what: str) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise StcError(
            f"the device has too little memory for {what}; give smaller --frames, or --size 0.5b"
        ) from error


def _row(
    card: dict[str, Any],
    static: dict[str, Any],
    measured: Comparison,
    machine: Machine,
    decode_ms: list[float] | None,
) -> dict[str, Any]:
    ratios = {stage: None if r is None else round(r, 4) for stage, r in measured.ratios().items()}
    sides = {"dense": measured.dense, "method": measured.method}
    prompt_bytes = card["prompt_tokens"]["before"] * card["kv_bytes_per_token"]
    graphed = {who: samples.sizes["frames_graphed"] for who, samples in sides.items()}
    timed = {who: captured(work) if graphed[who] else work for who, work in static["work"].items()}
    bound = _rounded(bounds(timed["dense"], timed.get("method", {}), machine.floor_ms))
    return static | {
        "launch": {who: _launch(count, static["frames"]) for who, count in graphed.items()},
        "work": {
            who: {stage: {"flops": one.flops, "bytes": one.bytes} for stage, one in work.items()}
            for who, work in static["work"].items()
        },
        "floor_ms": {
            who: _rounded({stage: machine.floor_ms(one) for stage, one in work.items()})
            for who, work in timed.items()
        },
        "bound": bound,
        "ratio": ratios,
        "ratio_of_minima": {
            stage: None if r is None else round(r, 4) for stage, r in measured.minima().items()
        },
        "measured_over_bound": {
            stage: round(ratios[stage] / least, 4) for stage, least in bound.items() if ratios[stage]
        },
        "summary_ms": {who: samples.summary() for who, samples in sides.items()},
        "samples_ms": {who: samples.ms for who, samples in sides.items()},
        "decode_ms": None if decode_ms is None else summary(decode_ms) | {"samples": decode_ms},
        "sizes": {
            who: samples.sizes
            | {"kv_bytes_per_frame": (samples.sizes["kv_bytes"] - prompt_bytes) / static["frames"]}
            for who, samples in sides.items()
        },
    }
