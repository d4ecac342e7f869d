"""The latency card: first the work of every stage, then measurements, then one JSON object on the last line.

In the JSON, `arithmetic_bound` is FLOPs of the method over FLOPs of dense. `bound`, to which
`measured_over_bound` refers, is the ratio of the least times at the machine's measured rates (`floor_ms`): in
calls of few frames a stage waits for its weights, which both sides read. Where `launch` is a graph, the
times, floors and bounds of `vit_ms` include projector and pooling.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from stc_lmms.bench import render
from stc_lmms.bench.entry import Entry, Pair, StaticCard, find_entry
from stc_lmms.bench.frames import SIZE, synthetic_frames, video_frames
from stc_lmms.bench.hardware import Machine, gpu_state, measure_machine
from stc_lmms.bench.measure import Comparison, compare, summary
from stc_lmms.bench.options import PROTOCOLS, Options
from stc_lmms.bench.work import Workload, bounds, captured, kv_bytes_per_token, reference_bytes
from stc_lmms.errors import StcError
from stc_lmms.ops.rows import kernels

SCHEMA = 1
_ROUNDS = ("repeats", "warmup", "new_tokens")
_DESCRIBED = ("launch", "launch_reason", "attention", "dtype", "environment")
_DEVICE_PEAK = (
    "tensors on the device: weights, the stream, and what the other side's empty stream keeps for its next "
    "video; not the scratch memory of captured graphs"
)


def run(options: Options, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Compute or measure the card of a model and print it; returns what its last line holds.

    Raises:
        StcError: an option does not fit the model or the machine; raised before any weight is made or loaded.
    """
    entry = find_entry(options.model)
    return entry.run(options, say) if isinstance(entry, StaticCard) else _measured(entry, options, say)


def _measured(entry: Entry, options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    settings = entry.check(options)
    decode_ms: dict[int, list[float]] = {}
    if options.video is None:
        frames, times_s = synthetic_frames(max(options.frames))
    else:
        sampled = video_frames(options.video, options.frames, settings.fps, options.repeats)
        frames, times_s, decode_ms = sampled
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with _memory_errors("holding the model"):
        pair = entry.open(options, settings)
    card = _static(entry, options, pair)
    card["static"] = [_work(entry, pair, card["prompt_tokens"], count) for count in options.frames]
    say(render.head(card))

    with _memory_errors("measuring its rates with the model loaded"):
        machine = measure_machine(pair.dense.device, pair.dense.dtype)
    card["machine"] = vars(machine)
    card["gpu_before"] = gpu_state()
    say(render.machine(card))
    card["rows"], card["slower_than_dense"] = [], []
    for static in card.pop("static"):
        count = static["frames"]
        with _memory_errors(f"{count} frames"):
            rounds = {name: card[name] for name in _ROUNDS}
            measured = compare(pair, frames[:count], times_s[:count], **rounds)
        row = _row(card, static, measured, machine, decode_ms.get(count))
        card["rows"].append(row)
        card["slower_than_dense"] += [{"frames": count} | stage for stage in measured.slower()]
        say(render.row(row, options.method))
    after = pair.method.describe()  # capturing graphs may have failed
    card["launch"], card["launch_reason"] = after["launch"], after["launch_reason"]
    card["gpu_after"] = gpu_state()
    say(render.warnings(card))
    return render.emit(card, options.output, say)


def _static(entry: Entry, options: Options, pair: Pair) -> dict[str, Any]:
    """Everything that is known before anything runs and is the same for all frame counts."""
    model, description = pair.method, pair.method.describe()
    shape, (before, after) = entry.shape(model), entry.prompt_tokens(model)
    protocol = PROTOCOLS[options.protocol]
    on_gpu = model.device.type == "cuda"
    return {
        "benchmark": "card",
        "schema": SCHEMA,
        **{name: getattr(options, name) for name in ("model", "method", "protocol", *_ROUNDS)},
        **{name: description[name] for name in _DESCRIBED},
        "weights": options.pretrained or f"random, {options.size}",
        "settings": model.settings.flat(),
        "protocol_summary": protocol.summary,
        "prefill_frames": model.settings.prefill_frames,
        "execution": protocol.execution,
        "row_kernels": kernels(model.device.type, getattr(torch, description["dtype"])).name,
        "frames_from": str(options.video or f"synthetic drifting noise, {SIZE[0]}x{SIZE[1]}"),
        "preprocess": entry.preprocess(options),
        "clock": "CUDA events" if on_gpu else "wall clock",
        "peak_memory_of": _DEVICE_PEAK if on_gpu else "whole process so far",
        "shape": asdict(shape),
        "prompt_tokens": {"before": before, "behind": after},
        "kv_bytes_per_token": kv_bytes_per_token(shape),
        "reference_bytes": reference_bytes(shape, model.method.tower),
    }


def _work(entry: Entry, pair: Pair, prompt: dict[str, int], frames: int) -> dict[str, Any]:
    group = pair.method.settings.prefill_frames
    workload = Workload(frames, group, prompt["before"], prompt["behind"])
    work = {"dense": entry.stages(pair.dense, workload), "method": entry.stages(pair.method, workload)}
    return {
        "frames": frames,
        "work": {side: stages for side, stages in work.items() if stages is not None},
        "arithmetic_bound": _rounded(bounds(work["dense"], work["method"] or {}, lambda one: one.flops)),
    }


def _row(
    card: dict, static: dict, measured: Comparison, machine: Machine, decode_ms: list[float] | None
) -> dict[str, Any]:
    frames, ratios = static["frames"], _rounded(measured.ratios())
    sides = {"dense": measured.dense, "method": measured.method}
    prompt_bytes = card["prompt_tokens"]["before"] * card["kv_bytes_per_token"]
    graphed = {side: samples.sizes["frames_graphed"] for side, samples in sides.items()}
    timed = {side: captured(work) if graphed[side] else work for side, work in static["work"].items()}
    bound = _rounded(bounds(timed["dense"], timed.get("method", {}), machine.floor_ms))
    return static | {
        "launch": {side: _launch(count, frames) for side, count in graphed.items()},
        "work": {
            side: {stage: {"flops": one.flops, "bytes": one.bytes} for stage, one in work.items()}
            for side, work in static["work"].items()
        },
        "floor_ms": {
            side: _rounded({stage: machine.floor_ms(one) for stage, one in work.items()})
            for side, work in timed.items()
        },
        "bound": bound,
        "ratio": ratios,
        "ratio_of_minima": _rounded(measured.minima()),
        "measured_over_bound": {
            stage: round(ratios[stage] / least, 4) for stage, least in bound.items() if ratios[stage]
        },
        "summary_ms": {
            side: {stage: summary(times) for stage, times in samples.ms.items()}
            for side, samples in sides.items()
        },
        "samples_ms": {side: samples.ms for side, samples in sides.items()},
        "decode_ms": None if decode_ms is None else summary(decode_ms) | {"samples": decode_ms},
        "sizes": {
            side: samples.sizes | {"kv_bytes_per_frame": (samples.sizes["kv_bytes"] - prompt_bytes) / frames}
            for side, samples in sides.items()
        },
    }


def _launch(graphed: int, frames: int) -> str:
    return "graph" if graphed == frames else f"graph for {graphed} of {frames} frames" if graphed else "eager"


def _rounded(values: dict[str, float | None]) -> dict[str, float | None]:
    return {stage: None if value is None else round(value, 4) for stage, value in values.items()}


@contextmanager
def _memory_errors(what: str) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        cure = "give smaller --frames, or --size 0.5b"
        raise StcError(f"the device has too little memory for {what}; {cure}") from error
