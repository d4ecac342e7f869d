"""`stc-lmms plan`: what is read by chunks and by streams, what it costs, and the published files' totals."""

import json
import os
from pathlib import Path

import pytest
from transformers import LlavaOnevisionConfig

from stc_lmms.bench import cost
from stc_lmms.bench.plan import ALL, frames, load_parts, plan, reading
from stc_lmms.bench.shapes import public_shape
from stc_lmms.benchmarks.base import make_row
from stc_lmms.cli.main import main
from stc_lmms.errors import DataError
from stc_lmms.models.llava_onevision.config import tokens_per_frame
from stc_lmms.models.public_sizes import LLAVA_ONEVISION, SO400M
from stc_lmms.settings import resolve
from tests.benchmarks.test_rounds import proactive, question

PUBLISHED = os.environ.get("STC_TEST_ANNOTATIONS", "")
published = pytest.mark.skipif(not PUBLISHED, reason="STC_TEST_ANNOTATIONS names no folder with annotations")
CHOICE = {"task": "EPM", "question": "What?", "answer": "b", "options": ["a", "b"], "gt": 1}
OVO = [
    {"id": 0, "video": "a.mp4", "realtime": 9.5} | CHOICE,
    {"id": 1, "video": "a.mp4", "realtime": 20} | CHOICE,
    {"id": 2, "video": "b.mp4", "realtime": 6} | CHOICE,
    {"id": 3, "video": "a.mp4", "realtime": 30} | CHOICE | {"task": "OCR"},
]


def methods(*names):
    return [resolve({"method": name}, environ={}).built_method for name in names]


@pytest.fixture
def annotations(tmp_path):
    path = tmp_path / "ovo.json"
    path.write_text(json.dumps(OVO))
    return path


def test_seconds_by_chunk_and_by_stream(annotations):
    parts = load_parts("ovobench", [annotations])
    assert list(parts) == ["backward", "realtime"]
    backward = reading(parts["backward"])
    assert sorted(backward.chunks) == [6, 10, 20] and sorted(backward.stream_lengths) == [6, 20]
    assert (backward.questions, backward.videos, backward.ratio) == (3, 2, 36 / 26)
    both = reading(row for rows in parts.values() for row in rows)
    assert sorted(both.stream_lengths) == [6, 30]  # a.mp4 is played once for both parts


def test_proactive_questions_count_their_polls_and_are_streams_of_their_own():
    row = make_row(
        "v", "proactive", [proactive("p", 6.0, 8.0), proactive("q", 8.0, 8.0), question("r", 10.0)]
    )
    found = reading([row])
    assert sorted(found.chunks) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 10]
    assert sorted(found.stream_lengths) == [4, 6, 10] and (found.questions, found.videos) == (3, 1)


def test_no_round_at_all_is_an_error():
    with pytest.raises(DataError, match="none of the 1 questions has a time"):
        reading([make_row("v", "proactive", [proactive("p", 20.0, 8.0)])])


@pytest.mark.parametrize(
    ("seconds", "fps", "count"), [(10, 0.5, 5), (10.5, 0.5, 6), (0.03, 0.5, 1), (7, 1, 7), (0.3, 10, 3)]
)
def test_frames_of_a_clip(seconds, fps, count):
    assert frames(seconds, fps) == count


@pytest.mark.parametrize(("size", "bytes_per_token"), [("7b", 57344), ("0.5b", 12288)])
def test_shapes_are_those_of_the_public_checkpoints(size, bytes_per_token):
    shape = public_shape(size)
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model"} | SO400M,
        text_config={"model_type": "qwen2"} | LLAVA_ONEVISION[size],
    )
    assert shape.tokens_per_frame == tokens_per_frame(config) == 196 and shape.tower.tokens == 729
    assert shape.decoder.kv_per_token * shape.itemsize == bytes_per_token


def test_costs_are_those_of_the_cost_model(annotations):
    shape = public_shape("0.5b")
    found = plan(load_parts("ovobench", [annotations]), shape, methods("none", "stc_pruner", "stc"), 0.5)
    json.dumps(found)
    part = found["parts"]["backward"]
    assert part["chunks"]["frames"] == 3 + 5 + 10 and part["streams"]["frames"] == 3 + 10
    dense, pruned, stc = (part["methods"][name] for name in ("none", "stc_pruner", "stc"))
    assert dense["kv_bytes_largest"] == 10 * 196 * 12288 and dense["kv_bytes_sum"] == 13 * 196 * 12288
    assert pruned["tokens_per_frame"] == 64 and pruned["kv_bytes_sum"] == 13 * 64 * 12288
    assert dense["flops_streams"]["vit"] == 2 * cost.tower_macs(shape.tower, 13)
    assert pruned["flops_chunks"]["vit"] == 2 * cost.tower_macs(shape.tower, 18)
    prefill = sum(cost.prefill_macs(shape.decoder, n * 64) for n in (3, 5, 10))
    assert pruned["flops_chunks"]["prefill"] == 2 * prefill
    assert stc["flops_streams"]["vit"] < dense["flops_streams"]["vit"]
    assert found["parts"][ALL]["streams"]["frames"] == 3 + 15


def test_one_part_has_no_total_and_an_unknown_cost_is_none(annotations, monkeypatch):
    monkeypatch.setattr("stc_lmms.bench.plan.stages", lambda *_: None)
    annotations.write_text(json.dumps(OVO[:3]))
    found = plan(load_parts("ovobench", [annotations]), public_shape("7b"), methods("none"), 1.0)
    assert list(found["parts"]) == ["backward"]
    cost_of = found["parts"]["backward"]["methods"]["none"]
    assert cost_of["flops_chunks"] is None and cost_of["kv_bytes_sum"] == 26 * 196 * 57344


def test_command(annotations, capsys):
    assert main(["plan", "ovobench", "--annotations", str(annotations), "--fps", "1"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert "ovobench at 1 fps" in out and "all, stc" in out
    assert ["backward", "2", "3", "36", "26", "1.4x", "36", "26"] in lines
    assert (
        main(["plan", "ovobench", "--annotations", str(annotations), "--model-size", "0.5b", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["model_size"] == "0.5b" and found["parts"]["all"]["ratio"] == pytest.approx(66 / 36)


def test_a_time_far_beyond_the_others_is_pointed_at(tmp_path, capsys):
    rows = [dict(OVO[0], realtime=12450), OVO[2]]
    (tmp_path / "ovo.json").write_text(json.dumps(rows))
    assert main(["plan", "ovobench", "--annotations", str(tmp_path / "ovo.json")]) == 0
    assert "a.mp4 at 12450 s, is more than twice the next (6 s): a typo?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("ovo --annotations {}", "unknown benchmark 'ovo'; did you mean 'ovobench'?"),
        ("ovobench --annotations {}/no.json", "no.json: cannot be read"),
        ("streamingbench --annotations {}", "must end in sample_N_part.mp4"),
        ("ovobench --annotations {} --methods stcc", "unknown method 'stcc'; did you mean 'stc'?"),
        ("ovobench --annotations {} --model-size 8b", "unknown model size '8b'"),
        ("ovobench --annotations {} --fps 0", "fps=0.0 must be a positive number"),
    ],
)
def test_errors_are_one_line_and_status_2(annotations, capsys, args, message):
    if args.startswith("streamingbench"):
        annotations.write_text(json.dumps([{"video_path": "a.mp4", "questions": []}]))
    assert main(["plan", *args.format(annotations).split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stc-lmms: error:") and message in line


@published
def test_ovobench_as_published():
    parts = load_parts("ovobench", [Path(PUBLISHED) / "ovo_bench_new.json"])
    found = {name: reading(rows) for name, rows in parts.items()}
    assert {name: f"{part.ratio:.1f}" for name, part in found.items()} == {
        "backward": "2.1",
        "realtime": "2.7",
        "forward": "12.0",
    }
    whole = reading(row for rows in parts.values() for row in rows)
    assert (sum(whole.chunks), sum(whole.stream_lengths)) == (641175, 167324)
    assert (whole.videos, whole.questions, f"{whole.ratio:.1f}") == (644, 3035, "3.8")


@published
@pytest.mark.parametrize(
    ("file", "part", "chunks", "streams"),
    [
        ("real", "real", 671077, 262365),
        ("omni", "omni", 184433, 63544),
        ("omni", "contextual", 113346, 50585),
        ("sqa", "sqa", 61265, 22214),
        ("proactive", "proactive", 28024, 3284),
    ],
)
def test_streamingbench_as_published(file, part, chunks, streams):
    rows = load_parts("streamingbench", [Path(PUBLISHED) / f"streamingbench_questions_{file}.json"])[part]
    found = reading(rows)
    assert (sum(found.chunks), sum(found.stream_lengths)) == (chunks, streams)


@published
def test_the_readme_shows_what_the_command_prints(capsys):
    assert main(["plan", "ovobench", "--annotations", str(Path(PUBLISHED) / "ovo_bench_new.json")]) == 0
    assert f"\n{capsys.readouterr().out}```" in (Path(__file__).parents[2] / "README.md").read_text("utf-8")
