"""Area `streamforest`: merging, position tables, the memory's choices, and a small model end to end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from parity.base import Case, CaseResult, distance, tensor_file, worst
from parity.networks import entries_of
from stc_lmms.models.streamforest import model
from stc_lmms.models.streamforest.config import StreamForestSpec
from stc_lmms.models.streamforest.memory import Forest
from stc_lmms.models.streamforest.options import ForestOptions
from stc_lmms.models.streamforest.prompt import PREFIX, suffix, time_sentence
from stc_lmms.models.streamforest.weights import load_networks
from stc_lmms.ops.merge import merge_to
from stc_lmms.ops.sincos import spatial_table, temporal_table
from stc_lmms.settings import resolve
from stc_lmms.video.sampling import spread_indices

# Stated in the cases for float64; for float32 they state 1e-4 for merging and less for everything else.
EXACT = {torch.float64: 1e-9, torch.float32: 1e-4}
_BOOKKEEPING = 1e-6  # for times and similarities, which the original keeps in float32
_TABLES, _PROJECTED, _END_TO_END, _PIXELS = 5e-5, 1e-6, 2e-5, 1e-6


def run_case(case: Case, case_path: Path, siblings: Sequence[Case], dtype: torch.dtype) -> CaseResult:
    """Values within tolerance; choices, counts, token order, answers and texts equal."""
    run = _KINDS.get(case["golden"]["kind"])
    if run is None:
        return CaseResult(float("inf"), 0.0, False, f"unknown kind {case['golden']['kind']!r}")
    texts = case["golden"]["kind"] in ("frames", "prompt")
    return run(case, {} if texts else load_file(tensor_file(case_path)), dtype)


class _Checks:
    """Compares values and collects differences."""

    def __init__(self, tolerance: float):
        self.tolerance, self.errors, self.problems = tolerance, [0.0], []

    def near(self, name: str, got: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
        error = distance(got, expected)
        limit = self.tolerance if tolerance is None else tolerance
        self.errors.append(error * self.tolerance / limit if limit else error)
        if not error <= limit:
            self.problems.append(f"{name} differs by {error:.1e}")

    def same(self, name: str, got: Any, expected: Any) -> None:
        if got != expected:
            self.errors.append(float("inf"))
            self.problems.append(f"{name} differs")

    def result(self, detail: str) -> CaseResult:
        shown = "; ".join(self.problems[:3]) or detail
        return CaseResult(worst(self.errors), self.tolerance, not self.problems, shown)


def _merge_tokens(case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> CaseResult:
    checks = _Checks(EXACT[dtype])
    for one in case["cases"]:
        i = one["index"]
        got = merge_to(tensors[f"x{i}"].to(dtype), one["target"], one["num_heads"])
        checks.near(f"merge {i}", got, tensors[f"y{i}"])
    return checks.result(f"{len(case['cases'])} merges, tokens in order")


def _pos_tables(case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> CaseResult:
    checks, width = _Checks(_TABLES), tensors["spatial_rows"].shape[1]
    moments = 1 + max(case["temporal_row_index"])
    spatial, temporal = spatial_table((27, 27), width), temporal_table(moments, width)
    checks.near("spatial", spatial[case["spatial_row_index"]], tensors["spatial_rows"])
    checks.near("temporal", temporal[case["temporal_row_index"]], tensors["temporal_rows"])
    return checks.result("rows of both tables")


def _options(config: Case, **more: Any) -> dict[str, Any]:
    """The constants of the memory by our names."""
    names = ("event_split_window", "long_memory_tokens_per_frame", "long_memory_tokens_quota")
    weights = ("similarity_weight", "time_weight", "merge_weight")
    return (
        dict(zip(("now_frames", "short_frames"), config["st_memory_windows"], strict=True))
        | dict(zip(("now_tokens", "short_tokens"), config["st_memory_tokens"], strict=True))
        | dict(zip(("event_window", "long_tokens", "long_quota"), map(config.get, names), strict=True))
        | dict(zip(weights, map(config.get, ("sim_weight", "time_weight", "merge_weight")), strict=True))
        | more
    )


class _Choices:
    """Collects the choices of a memory, to compare them with a recorded log."""

    def __init__(self) -> None:
        self.found: list[tuple[list[float], int]] = []

    def __call__(self, values: Sequence[float], chosen: int) -> None:
        self.found.append((list(values), chosen))

    def compare(self, checks: _Checks, name: str, log: Sequence[Case], tolerance: float) -> None:
        checks.same(f"{name}: choices", [i for _, i in self.found], [one["chosen"] for one in log])
        for (got, _), one in zip(self.found, log, strict=False):
            expected = torch.tensor(one["values"], dtype=torch.float64)
            checks.near(
                f"{name}: compared values", torch.tensor(got, dtype=torch.float64), expected, tolerance
            )


def _memory(case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> CaseResult:
    if any(case[mode]["float32_max_abs_diff"] is None for mode in ("batch", "online")):
        dtype = torch.float64  # the original's order of tokens depends on differences below float32 precision
    stored = 1e-5 if tensors["tokens_batch"].dtype == torch.float32 else 0.0
    checks, config = _Checks(max(EXACT[dtype], stored)), case["config"]
    features = tensors["features"].to(dtype)
    loose = max(_BOOKKEEPING, EXACT[dtype])
    for mode, consolidate in (("batch", "ask"), ("online", "frame")):
        choices, expected = _Choices(), case[mode]
        options = ForestOptions(**_options(config, consolidate=consolidate))
        forest = Forest(options, config["num_attention_heads"], choices)
        for frame, counts in zip(features, expected.get("per_step") or [None] * len(features), strict=True):
            forest.append(frame[None])
            if counts is not None:
                checks.same(f"{mode}: counts of frame {forest.frames - 1}", _counts(forest), counts)
        checks.near(f"{mode}: tokens", forest.read()[None], tensors[f"tokens_{mode}"])
        choices.compare(checks, mode, expected["argmin_log"], loose)
        _final_state(checks, mode, forest, expected["final_state"], loose)
    pieces = Forest(ForestOptions(**_options(config)), config["num_attention_heads"])
    for part in features.split(7):
        pieces.append(part)
    checks.near("in pieces of 7: tokens", pieces.read()[None], tensors["tokens_batch"])
    return checks.result(f"{len(features)} frames, batch and online, all choices equal")


def _counts(forest: Forest) -> list[int]:
    long = sum(event.tokens_fKC.shape[:2].numel() for event in forest.events)
    return [len(forest.read()), len(forest.events), long, forest.short_frames, len(forest.now)]


def _final_state(checks: _Checks, mode: str, forest: Forest, expected: Case, tolerance: float) -> None:
    events = forest.consolidated()
    checks.same(f"{mode}: frames", [len(e.tokens_fKC) for e in events], expected["event_frames"])
    checks.same(f"{mode}: merges", [e.merges for e in events], expected["merge_count"])
    checks.same(f"{mode}: short", forest.short_frames, expected["short_frames"])
    checks.same(f"{mode}: now", len(forest.now), expected["now_frames"])
    checks.same(f"{mode}: newest", forest.frames - 1 - len(forest.recent), expected["last_time_pos"])
    for name, got in (
        ("time", [float(e.time) for e in events]),
        ("similarity", [e.similarity for e in events[1:]]),
    ):
        found, recorded = (torch.tensor(x, dtype=torch.float64) for x in (got, expected[name]))
        checks.near(f"{mode}: {name}", found, recorded, tolerance)


def _projector(case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> CaseResult:
    config, checks = case["config"], _Checks(max(_PROJECTED, EXACT[dtype]))
    grid, width = (config["grid"], config["grid"]), config["mm_hidden_size"]
    table = temporal_table(config["temporal_pos_window"], width)
    checks.near("spatial table", spatial_table(grid, width), tensors["spatial_pos"].flatten(0, 2), _TABLES)
    wrapped = table[torch.arange(508, 520) % len(table)]
    checks.near("temporal table", wrapped, tensors["temporal_pos_rows_508_to_519"], _TABLES)
    choices, features = _Choices(), tensors["features"].to(dtype)
    forest = Forest(ForestOptions(**_options(config)), config["num_attention_heads"], choices)
    codes = model.PositionCodes(grid, width, torch.device("cpu"), dtype, config["temporal_pos_window"])
    forest.append(codes.add(features, 0))
    first, second = (
        (tensors[f"mlp.{i}.weight"].to(dtype), tensors[f"mlp.{i}.bias"].to(dtype)) for i in (0, 2)
    )
    linear, gelu = torch.nn.functional.linear, torch.nn.functional.gelu
    checks.near("output", linear(gelu(linear(forest.read(), *first)), *second)[None], tensors["output"])
    choices.compare(checks, "memory", case["argmin_log"], checks.tolerance)
    return checks.result(f"{len(features)} frames, all choices equal")


def _e2e(case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> CaseResult:
    checks = _Checks(_END_TO_END)
    weights = {k.removeprefix("state_dict."): v for k, v in tensors.items() if k.startswith("state_dict.")}
    vision = {k: v for k, v in case["vision_config"].items() if k != "layers_kept"}
    vision["num_hidden_layers"] = case["vision_config"]["layers_kept"]
    spec = StreamForestSpec.of(Path("golden"), case["config"] | {"vision_config": vision})
    args = {"method": "none", "device": "cpu", "pretrained": "golden", "dtype": str(dtype)[6:]}
    settings = resolve(args | _options(case["memory"]), {}, model="streamforest")
    networks = load_networks(spec, entries_of(weights), dtype)
    forest = model.StreamForest.from_parts(settings, spec, networks, None)

    frames = tensors["frames"].numpy()
    pixels = forest.pixels(frames)
    checks.near("pixel values", pixels[0], tensors["pixel_values_frame0"], _PIXELS)
    for name, i in (("frame0", 0), ("last", -1)):
        checks.near(name, forest.tower.encode(pixels[[i]])[0], tensors[f"tower_features_{name}"], 1e-5)
    before, after = _around(tensors["input_ids"][0])
    for step in (len(frames), 7):
        stream = forest.open_stream()
        for start in range(0, len(frames), step):
            group = frames[start : start + step]
            stream.observe(group, [float(start + i) for i in range(len(group))])
        visual = stream.visual_tokens()
        checks.near(f"visual tokens, {step} frames a call", visual, tensors["visual_tokens"])
        embeds = torch.cat((forest.llm.embed(before), visual, forest.llm.embed(after)))
        cache = forest.llm.new_cache()
        hidden = forest.llm.hidden(embeds, cache)
        checks.near("logits", forest.llm.head(hidden[-4:]), tensors["logits_last4"])
        ids = [int(forest.llm.head(hidden[-1]).argmax())]
        while len(ids) < len(tensors["generated_ids"]):
            last = forest.llm.hidden(forest.llm.embed(torch.tensor(ids[-1:])), cache)[-1]
            ids.append(int(forest.llm.head(last).argmax()))
        checks.same("generated ids", ids, tensors["generated_ids"].tolist())
    return checks.result(f"{len(frames)} frames, {len(visual)} visual tokens, greedy ids equal")


def _around(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The prompt before and after the video."""
    at = int((ids == -200).nonzero())
    return ids[:at], ids[at + 1 :]


def _preprocess(case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> CaseResult:
    checks, count = _Checks(_PIXELS), sum(name.startswith("frames") for name in tensors)
    for i in range(count):
        got = model.pixel_values(
            tensors[f"frames{i}"].numpy(), case["out_size"], torch.device("cpu"), torch.float32
        )
        checks.near(f"pixels {i}", got, tensors[f"pixels{i}"])
    return checks.result(f"{count} sizes of frames")


def _frames(case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> CaseResult:
    checks = _Checks(0.0)
    for i, one in enumerate(case["cases"]):
        clip = tuple(one["clip"]) if one["clip"] else None
        indices = spread_indices(one["num_video_frames"], one["video_fps"], clip, one["max_frames"])
        checks.same(f"case {i}: indices", indices, one["frame_indices"])
        times = [index / one["video_fps"] for index in one["frame_indices"]]
        text = time_sentence(one["time_msg"], times, one["duration"])
        checks.same(f"case {i}: text", text, one["time_text"])
    return checks.result(f"{len(case['cases'])} clips, indices and sentences equal")


def _prompt(case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> CaseResult:
    checks = _Checks(0.0)
    for i, one in enumerate(case["prompts"]):
        got = f"{PREFIX}<image>{suffix(one['text'], one['time_text'])}"
        checks.same(f"prompt {i}", got, one["prompt"])
    return checks.result(f"{len(case['prompts'])} prompts equal")


_KINDS = {
    "merge_tokens": _merge_tokens,
    "pos_tables": _pos_tables,
    "memory": _memory,
    "projector": _projector,
    "e2e": _e2e,
    "preprocess": _preprocess,
    "frames": _frames,
    "prompt": _prompt,
}
