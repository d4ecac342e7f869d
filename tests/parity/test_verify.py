"""`python -m parity`: the recorded cases pass, and what is wrong with a case is reported, never passed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from parity.__main__ import main
from parity.verify import summary, verify
from stc_lmms import compat
from stc_lmms.errors import CheckpointError
from tests.methods.towers import has_qwen3

GOLDEN = Path(__file__).parents[1] / "golden"
REKV, STREAMDYCOKE = "rekv/within_window_then_offload", "streamdycoke/ttm_w2_t08_a100"
DYCOKE_TTM, DYCOKE_DP = "dycoke/ttm_T9_odd_n25", "dycoke/dp_p08"
PRUNER, CACHER = "pruner/llava_ov_dual_anchor_f1_k49", "cacher/siglip_i3_r025_chunk2"
TOME = ("tome/match_n40_cls_dist_r9", "tome/encoder_s81_sched_noprop", "tome/stc_oneshot_n54")
VISIONZIP = ("visionzip/cls_n64_d13_c5", "visionzip/siglip_frame_k64", "visionzip/siglip_score_g9")
VIDCOM2 = ("vidcom2/qwen_T5_n36_b64of196", "vidcom2/llava_vid_T3", "vidcom2/rekv_stream_chunk1_two_score")
QWEN = "livecc/qwen25vl_tower_a"
FOREST = "streamforest/memory_c"
FOREST_MERGE, FOREST_PROJECTOR = "streamforest/merge_tokens_a", "streamforest/projector_a"
FOREST_TABLES, FOREST_PIXELS = "streamforest/pos_tables_a", "streamforest/preprocess_a"
FOREST_WHOLE = "streamforest/e2e_small_c"


@pytest.fixture
def case(tmp_path):
    """`case(name, as_name)` copies a golden case into the test's folder and gives the path of its json."""

    def copy(name, as_name=None):
        for suffix in (".json", ".safetensors"):
            target = tmp_path / f"{as_name or name}{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(GOLDEN / f"{name}{suffix}", target)
        return target.with_suffix(".json")

    return copy


def change(path, name, how):
    """Replace one tensor of a case."""
    file = path.with_suffix(".safetensors")
    tensors = load_file(file)
    tensors[name] = how(tensors[name].clone())
    save_file(tensors, file)


def run(capsys, *argv):
    """(exit status, output as JSON) of `python -m parity --json`."""
    status = main([*map(str, argv), "--json"])

    def refuse(word):
        raise ValueError(f"{word} is not JSON")

    return status, json.loads(capsys.readouterr().out, parse_constant=refuse)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_recorded_cases_of_the_originals_pass(dtype):
    areas = ["cacher", "pruner", "livecc", "rekv", "dycoke", "streamdycoke", "tome", "visionzip", "vidcom2"]
    areas.append("streamforest")
    outcomes = list(verify(GOLDEN, areas, dtype))
    if not has_qwen3:
        outcomes = [o for o in outcomes if o.result is not None or o.case != "qwen3vl_tower_a"]
    assert {(o.area, o.case) for o in outcomes} >= {tuple(c.split("/")) for c in (CACHER, PRUNER, QWEN)}
    assert len(outcomes) >= 24 and summary(outcomes)["passed"] == len(outcomes), [o.line() for o in outcomes]


def test_output_for_people(capsys, case, tmp_path):
    case(PRUNER)
    assert main([str(tmp_path)]) == 0
    line, total = capsys.readouterr().out.splitlines()
    assert (
        line.startswith("pass  pruner")
        and "llava_ov_dual_anchor_f1_k49" in line
        and "tolerance 1e-05" in line
    )
    assert total == "1 passed, 0 failed, 0 skipped (area not implemented)"


@pytest.mark.parametrize(
    ("name", "tensor", "how", "message"),
    [
        (PRUNER, "scores", lambda x: x + 1e-3, "scores differs"),
        (PRUNER, "scores", lambda x: x * float("nan"), "scores differs"),
        (PRUNER, "scores", lambda x: x[:-1], "scores differs"),
        (PRUNER, "memory_mean", lambda x: x + 1, "memory_mean differs"),
        (PRUNER, "kept_indices", lambda x: x.flip(-1), "kept_indices differs"),
        (PRUNER, "kept_channels", lambda x: x.roll(1, -1), "kept_channels differs"),
        (CACHER, "last_hidden_state", lambda x: x + 0.1, "hidden states or similarities differ"),
        (CACHER, "last_hidden_state", lambda x: x * float("nan"), "hidden states or similarities differ"),
        pytest.param(
            *(CACHER, "hidden_states", lambda x: x * float("nan"), "hidden states or similarities differ"),
        ),
        (CACHER, "is_reference", torch.ones_like, "wrong role"),
        (TOME[0], "source", lambda x: x.flip(1), "source differs"),
        (TOME[0], "size_out", lambda x: x + 1, "size_out differs"),
        (TOME[1], "hidden.2", lambda x: x.flip(1), "hidden.2 differs"),
        (TOME[1], "size.1", lambda x: x + 1, "size.1 differs"),
        (TOME[2], "out", lambda x: x * float("nan"), "out differs"),
        (VISIONZIP[0], "all_indices", lambda x: x + 1, "all_indices differs"),
        (VISIONZIP[1], "kept_indices", lambda x: x + 1, "kept_indices differs"),
        (VISIONZIP[2], "score_pooled", lambda x: x.flip(1), "score_pooled differs"),
        (VIDCOM2[0], "kept_per_frame", lambda x: x + 1, "kept_per_frame differs"),
        (VIDCOM2[0], "channels", lambda x: x.flip(0), "channels differs"),
        (VIDCOM2[1], "img_feat", lambda x: x.flip(0), "out differs"),
        (VIDCOM2[2], "memory", lambda x: x + 1, "memory differs"),
        (VIDCOM2[2], "kept_indices", lambda x: x.flip(-1), "kept_indices differs"),
        (CACHER, "selected_indices", lambda x: (x + 1) % 16, "selected index sets differ"),
        (CACHER, "frames", lambda x: x.flip(0), "differ"),
        (CACHER, "similarity", lambda x: x + 0.01, "hidden states or similarities differ"),
        (QWEN, "main.dense.hidden.1", lambda x: x + 0.1, "main.dense.hidden.1 differs"),
        (QWEN, "main.stc_i2_r0.25_token.merged.1", lambda x: x * float("nan"), "merged.1 differs"),
        (QWEN, "main.stc_i2_r0.25_token.sim.1.2", lambda x: x + 0.01, "sim.1.2 differs"),
        (QWEN, "main.stc_i4_r0.4_token.sel.3.0", lambda x: (x + 1) % 96, "sel.3.0 differs"),
        (QWEN, "main.pixels.2", lambda x: x + 0.01, "differs"),
        (REKV, "frames", lambda x: x.flip(0), "frame embeddings differ"),
        (REKV, "stream_logits", lambda x: x + 1e-3, "stream logits differ"),
        (REKV, "qa1.logits", lambda x: x * float("nan"), "question 1 logits differ"),
        (REKV, "qa1.block_scores", lambda x: x * 1.01, "question 1 block scores differ"),
        (REKV, "qa2.retrieved_blocks", lambda x: x + 1, "question 2: blocks"),
        (REKV, "qa0.generated", lambda x: x.flip(0), "question 0: answer"),
        (DYCOKE_TTM, "kept_indices", lambda x: x + 1, "kept tokens of frames"),
        (DYCOKE_TTM, "out", lambda x: x + 1e-6, "gathered values differ"),
        (DYCOKE_DP, "kept.0", lambda x: x + 1, "visible tokens of step 0 differ"),
        (DYCOKE_DP, "key_out.1", lambda x: x * float("nan"), "gathered values differ"),
        (FOREST, "tokens_batch", lambda x: x.flip(1), "batch: tokens differs"),
        (FOREST, "tokens_online", lambda x: x * float("nan"), "online: tokens differs"),
        (FOREST, "features", lambda x: x.flip(0), "differs"),
        (FOREST_MERGE, "y2", lambda x: x.flip(1), "merge 2 differs"),
        (FOREST_PROJECTOR, "output", lambda x: x + 1e-3, "output differs"),
        (FOREST_TABLES, "spatial_rows", lambda x: x.flip(1), "spatial differs"),
        (FOREST_PIXELS, "pixels1", lambda x: x + 1 / 255, "pixels 1 differs"),
        (
            FOREST_WHOLE,
            "visual_tokens",
            lambda x: x.flip(0),
            "28 frames a call differs",
        ),
        (FOREST_WHOLE, "generated_ids", lambda x: x + 1, "generated ids differs"),
        (STREAMDYCOKE, "kept_mask", lambda x: 1 - x, "kept tokens of frame 0 differ"),
        (STREAMDYCOKE, "max_sim", lambda x: x + 1e-3, "values differ"),
    ],
)
def test_a_corrupted_tensor_fails(capsys, case, tmp_path, name, tensor, how, message):
    change(case(name), tensor, how)
    case(PRUNER, "pruner/good")
    status, found = run(capsys, tmp_path)
    assert status == 1 and (found["passed"], found["failed"]) == (1, 1)
    (failed,) = (c for c in found["cases"] if not c["passed"])
    assert failed["case"] == name.split("/")[1] and message in failed["detail"]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: path.with_suffix(".safetensors").unlink(), "safetensors is missing next to"),
        (lambda path: path.with_suffix(".safetensors").write_bytes(b"no tensors"), "SafetensorError"),
        (lambda path: edit(path, token_per_frame=0), "SettingsError"),
        (lambda path: edit(path, golden={"area": "pruner", "kind": "dance"}), "unknown kind 'dance'"),
        (lambda path: edit(path, golden={"area": "pruner"}), "stopped by KeyError"),
    ],
)
def test_a_broken_case_is_a_failed_case_and_not_the_end(capsys, case, tmp_path, break_it, message):
    break_it(case(PRUNER))
    case(CACHER)
    status, found = run(capsys, tmp_path)
    assert status == 1 and (found["passed"], found["failed"]) == (1, 1)
    (failed,) = (c for c in found["cases"] if not c["passed"])
    assert message in failed["detail"] and "\n" not in failed["detail"]


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_cases_are_known_by_content_not_by_name_or_place(capsys, case, tmp_path):
    case(CACHER, "deep/er/x1")
    case(PRUNER, "cacher/x2")
    (tmp_path / "notes.json").write_text('{"area": "cacher"}')
    (tmp_path / "list.json").write_text('["golden"]')
    status, found = run(capsys, tmp_path)
    assert status == 0
    assert [(c["area"], c["kind"], c["case"]) for c in found["cases"]] == [
        ("cacher", "tower", "x1"),
        ("pruner", "stream", "x2"),
    ]


def test_an_area_without_an_implementation_is_skipped_and_counted(capsys, case, tmp_path):
    case(PRUNER)
    (tmp_path / "other.json").write_text('{"golden": {"area": "decoder", "kind": "x"}}')
    status, found = run(capsys, tmp_path)
    assert status == 0 and (found["passed"], found["failed"], found["skipped"]) == (1, 0, 1)
    skipped = {"skipped": True, "reason": "area not implemented"}
    assert {"area": "decoder", "kind": "x", "case": "other"} | skipped in found["cases"]
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 0 failed, 1 skipped (area not implemented)"


def test_a_run_that_checked_nothing_is_no_success(capsys, tmp_path):
    (tmp_path / "other.json").write_text('{"golden": {"area": "decoder", "kind": "x"}}')
    (tmp_path / "later.json").write_text('{"golden": {"area": "tower", "kind": "y"}}')
    for json_option in ([], ["--json"]):
        assert main([str(tmp_path), *json_option]) == 2
        out, err = capsys.readouterr()
        assert err == "parity: error: nothing was checked: all 2 cases were skipped\n"
    assert json.loads(out)["skipped"] == 2


def test_areas_that_come_later_and_towers_that_are_missing_are_skipped(capsys, case, tmp_path, monkeypatch):
    def missing(kind):
        raise CheckpointError(f"{kind} is not in transformers 4.56.2; it needs 4.57 or newer")

    monkeypatch.setattr(compat, "vision_classes", missing)
    case(QWEN)
    case(PRUNER)
    (tmp_path / "later.json").write_text('{"golden": {"area": "decoder", "kind": "x"}}')
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "1 passed, 0 failed, 2 skipped (area not implemented; "
        "qwen2_5_vl is not in transformers 4.56.2; it needs 4.57 or newer)"
    )


def test_areas_can_be_chosen(capsys, case, tmp_path):
    case(CACHER)
    case(PRUNER)
    for areas, names in (("pruner", {"pruner"}), ("pruner,cacher,", {"pruner", "cacher"})):
        _, found = run(capsys, tmp_path, "--areas", areas)
        assert {c["area"] for c in found["cases"]} == names


@pytest.mark.parametrize(
    ("content", "argv", "message"),
    [
        (None, (), "is not a folder; give one with"),
        ({}, (), "no golden case below"),
        ({"a.json": '{"golden"'}, (), "a.json cannot be read as JSON"),
        ({"a.json": b"\xff\xfe"}, (), "a.json cannot be read as JSON"),
        (
            {"a.json": '{"golden": {"area": "pruner"}}'},
            ("--areas", "cacher"),
            "no golden case of cacher below",
        ),
        ({"a.json": '{"golden": {"area": "pruner"}}'}, ("--areas", "prunner"), "did you mean 'pruner'?"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_2(capsys, tmp_path, content, argv, message):
    folder = tmp_path / "cases"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main([str(folder), *argv]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith("parity: error: ") and message in line
