"""The cost model gives the published and independently computed numbers, and the work of a run adds up."""

import dataclasses

import pytest

from stc_lmms.bench.cost import (
    dense_block_macs,
    prefill_macs,
    projector_macs,
    saving,
    selective_over_dense,
    tower_macs,
)
from stc_lmms.bench.hardware import Machine
from stc_lmms.bench.shapes import DecoderShape, ModelShape, TowerShape
from stc_lmms.bench.work import (
    Work,
    Workload,
    bounds,
    captured,
    kv_bytes_per_token,
    reference_bytes,
    stages,
)
from stc_lmms.methods.registry import build
from stc_lmms.methods.stc_cacher import STCCacher

SIGLIP, CLIP = (729, 1152, 4304), (257, 1024, 4096)
TOWER = TowerShape(27, *SIGLIP, 14)
QWEN2_7B = DecoderShape(28, 3584, 28, 4, 128, 18944, 152064)
MODEL = ModelShape(TOWER, QWEN2_7B, 196, 2)


@pytest.mark.parametrize(
    ("sizes", "selected", "ratio", "savings"),
    [
        (SIGLIP, 72, 0.170, (41.5, 62.3, 72.7)),
        (SIGLIP, 182, 0.309, (34.6, 51.9, 60.5)),
        (SIGLIP, 364, 0.539, (23.1, 34.6, 40.4)),
        (CLIP, 25, 0.170, (41.5, 62.3, 72.7)),
        (CLIP, 64, 0.309, (34.5, 51.8, 60.5)),
        (CLIP, 128, 0.538, (23.1, 34.6, 40.4)),
    ],
)
def test_block_table(sizes, selected, ratio, savings):
    assert selective_over_dense(*sizes, selected) == pytest.approx(ratio, abs=6e-4)
    for interval, percent in zip((2, 4, 8), savings):
        assert 100 * saving(*sizes, selected, interval) == pytest.approx(percent, abs=0.06)


def test_whole_towers():
    assert 2 * dense_block_macs(*SIGLIP) / 1e9 == pytest.approx(24.65, abs=0.01)
    assert 2 * 27 * dense_block_macs(*SIGLIP) / 1e9 == pytest.approx(665, abs=1)
    assert 2 * dense_block_macs(*CLIP) / 1e9 == pytest.approx(6.74, abs=0.01)
    assert 2 * 24 * dense_block_macs(*CLIP) / 1e9 == pytest.approx(161.7, abs=0.1)
    embed = tower_macs(TOWER, 1) - 27 * dense_block_macs(*SIGLIP)
    assert embed == 729 * 1152 * 3 * 14 * 14
    assert tower_macs(TOWER, 3, 5, 182) == 3 * tower_macs(TOWER, 1) + 5 * tower_macs(TOWER, 0, 1, 182)
    # The authors store 4 T d per layer, 181 MB for SigLIP in half precision; here three quarters of that.
    assert reference_bytes(MODEL, STCCacher()) == pytest.approx(0.75 * 181e6, rel=0.01)
    shared = 2 + 1 / 27  # keys in the one block that scores
    wanted = pytest.approx(shared / 4 * 181e6, rel=0.01)
    assert reference_bytes(MODEL, STCCacher(selection="shared")) == wanted
    assert reference_bytes(MODEL, None) == 0


def test_decoder():
    assert kv_bytes_per_token(MODEL) == 57344
    assert QWEN2_7B.token_macs == pytest.approx(6.53e9, rel=0.01)  # 7.6 B parameters less the embeddings
    whole = prefill_macs(QWEN2_7B, 100)
    assert whole == prefill_macs(QWEN2_7B, 60) + prefill_macs(QWEN2_7B, 40, past=60)
    assert projector_macs(2, 3, 5) == 2 * (3 * 5 + 5 * 5)


def test_work_of_a_run():
    job = Workload(frames=10, group=4, prefix_tokens=23, question_tokens=30)
    assert [list(g) for g in job.groups] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    dense = stages(MODEL, build("none", {}), job)
    stc = stages(MODEL, build("stc", {}), job)
    assert dense["vit_ms"].flops == 2 * tower_macs(TOWER, 10)
    assert stc["vit_ms"].flops == 2 * tower_macs(TOWER, 3, 7, 182)
    assert dense["prefill_ms"].flops == 2 * prefill_macs(QWEN2_7B, 23 + 10 * 196)
    assert stc["prefill_ms"].flops == 2 * prefill_macs(QWEN2_7B, 23 + 10 * 64)
    assert dense["project_ms"] == stc["project_ms"]
    one_by_one = stages(MODEL, build("none", {}), dataclasses.replace(job, group=1))
    assert one_by_one["vit_ms"].flops == dense["vit_ms"].flops
    assert one_by_one["vit_ms"].bytes - dense["vit_ms"].bytes == 7 * 2 * TOWER.weights  # 10 calls, not 3
    found = bounds(dense, stc, lambda work: work.flops)
    assert found["project_ms"] == 1 and 0.5 < found["vit_ms"] < 0.55 and 0.32 < found["prefill_ms"] < 0.34
    read = bounds(dense, stc, lambda work: work.bytes)
    assert 0.9 < read["per_token_ms"] < 1  # weights dominate


def test_bound_of_a_stage_is_what_its_calls_wait_for():
    gpu = Machine(flops_per_s=700e12, bytes_per_s=4e12)

    def bound(frames, group):
        job = Workload(frames, group, prefix_tokens=23, question_tokens=30)
        none, stc = (stages(MODEL, build(name, {}), job) for name in ("none", "stc"))
        return bounds(none, stc, gpu.floor_ms)["prefill_ms"]

    # 64 tokens and the 23 of the prompt wait for 13 GB of weights, 196 tokens for arithmetic, just about.
    weights_ms, frame_ms = 1e3 * 2 * QWEN2_7B.token_macs / 4e12, 1e3 * 2 * 196 * QWEN2_7B.token_macs / 700e12
    for frames in (1, 16):
        wanted = (frames + 1) * weights_ms / (weights_ms + frames * frame_ms)
        assert bound(frames, 1) == pytest.approx(wanted, rel=0.05) and wanted > 0.89
    # In a group the frames wait for arithmetic, but the prompt's own call still for the weights.
    grouped = [weights_ms + 4 * frame_ms * kept / 196 for kept in (64, 196)]
    assert bound(4, 4) == pytest.approx(grouped[0] / grouped[1], rel=0.02) and bound(4, 4) > 0.4


def test_captured_frames_are_timed_with_their_projection():
    work = {"vit_ms": Work(3, 5), "project_ms": Work(7, 11), "ttft_ms": Work(1, 1)}
    assert captured(work) == {"vit_ms": Work(3, 5) + Work(7, 11), "ttft_ms": Work(1, 1)}
    assert captured({"vit_ms": Work(3, 5)})["vit_ms"].flops == 3  # StreamForest projects when it is asked
    # One side captured, the other not: what only one of them has, has no bound.
    assert set(bounds(work, captured(work), lambda one: one.flops)) == {"vit_ms", "ttft_ms"}


def test_floor_is_the_slower_of_arithmetic_and_memory():
    machine = Machine(flops_per_s=1e12, bytes_per_s=1e9)
    assert machine.floor_ms(Work(10**12, 1)) == pytest.approx(1000)
    assert machine.floor_ms(Work(1, 10**9)) == pytest.approx(1000)
    total = sum((Work(10**12, 1), Work(1, 10**9)), Work())
    assert (total.flops, total.bytes) == (10**12 + 1, 10**9 + 1)
    assert machine.floor_ms(total) == pytest.approx(2000)  # one after the other
