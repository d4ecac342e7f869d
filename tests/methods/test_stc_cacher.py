"""STC-Cacher: grouped execution against the frame-by-frame definition, and what follows from it."""

import itertools

import pytest
import torch

from stc_lmms.errors import SettingsError
from stc_lmms.methods.stc_cacher import STCCacher, Trace
from stc_lmms.ops.rows import lowest
from tests.methods.towers import drifting_frames, frame_by_frame, tiny_tower

INTERVALS, RATIOS, LONGEST = (1, 2, 4, 8), (0.1, 0.25, 0.5, 1.0), 17


def encode(tower, frames, cacher, pieces=None):
    """Encode in pieces of the given lengths (default: one piece)."""
    state = cacher.open_state()
    parts = frames.split(pieces) if pieces else [frames]
    return torch.cat([cacher.encode(tower, part, state) for part in parts]), state


@pytest.mark.parametrize("kind", ["siglip", "clip"])
@pytest.mark.parametrize("selection", ["per_layer", "shared"])
@pytest.mark.parametrize(("interval", "ratio"), itertools.product(INTERVALS, RATIOS))
def test_grouped_equals_frame_by_frame(kind, selection, interval, ratio):
    tower, frames = tiny_tower(kind), drifting_frames(LONGEST)
    expected = frame_by_frame(tower, frames, interval, ratio, shared=selection == "shared")
    cacher = STCCacher(cache_interval=interval, update_ratio=ratio, selection=selection)
    for length in range(1, LONGEST + 1):
        got, _ = encode(tower, frames[:length], cacher)
        assert (got - expected[:length]).abs().max() < 1e-5, f"clip of {length} frames"


@pytest.mark.parametrize("pieces", [1, 3, 5, 16])
@pytest.mark.parametrize("chunk_frames", [1, 2, 3])
def test_any_cut_of_a_stream_gives_the_same(pieces, chunk_frames):
    tower, frames = tiny_tower("siglip"), drifting_frames(LONGEST)
    cacher = STCCacher(cache_interval=3, chunk_frames=chunk_frames)
    whole, whole_state = encode(tower, frames, cacher)
    cut, cut_state = encode(tower, frames, cacher, pieces)
    assert (whole - cut).abs().max() < 1e-5
    assert whole_state.tokens_recomputed == cut_state.tokens_recomputed
    assert whole_state.nbytes == cut_state.nbytes


def test_still_background_does_not_depend_on_the_cut():
    """Unchanged tokens tie; rounding noise, which differs with the batch, must not choose among them."""
    tower = tiny_tower("siglip", image_size=96)
    frames = drifting_frames(1, 96).repeat(LONGEST, 1, 1, 1)
    frames[:, :, 40:48, 40:48] = drifting_frames(LONGEST, 8, seed=1)
    cacher = STCCacher(cache_interval=4)
    whole, _ = encode(tower, frames, cacher)
    for pieces in (1, 2, 7):
        assert (whole - encode(tower, frames, cacher, pieces)[0]).abs().max() < 1e-5


@pytest.mark.parametrize("metric", ["cosine", "dot", "l1", "l2"])
def test_all_metrics_recompute_what_changed(metric):
    tower = tiny_tower("siglip")
    frames = drifting_frames(1).repeat(2, 1, 1, 1)
    frames[1, :, 8:16, 16:24] += 3.0  # one patch: row 1, column 2 of 6
    trace = Trace()
    STCCacher(cache_interval=2, update_ratio=0.03, metric=metric).encode(
        tower, frames, STCCacher().open_state(), trace
    )
    assert trace.indices[0].tolist() == [[8]] or metric == "dot"  # dot also depends on the keys' lengths
    assert trace.selective == [1]


def test_ratio_one_equals_dense():
    tower, frames = tiny_tower("clip"), drifting_frames(6)
    got, state = encode(tower, frames, STCCacher(cache_interval=4, update_ratio=1.0))
    assert (got - tower.encode(frames)).abs().max() < 1e-5
    assert state.tokens_recomputed == state.tokens_seen == 6 * tower.num_tokens


def test_static_video_equals_its_reference():
    tower, frame = tiny_tower("siglip"), drifting_frames(1)
    got, _ = encode(tower, frame.repeat(5, 1, 1, 1), STCCacher(cache_interval=8))
    assert (got - tower.encode(frame)).abs().max() < 1e-5


def test_interval_one_is_dense():
    tower, frames = tiny_tower("siglip"), drifting_frames(3)
    got, _ = encode(tower, frames, STCCacher(cache_interval=1, update_ratio=0.1))
    assert (got - tower.encode(frames)).abs().max() < 1e-5


def test_selective_frames_differ_from_dense():
    """The other tests would also pass on a cacher that always computes everything."""
    tower, frames = tiny_tower("siglip"), drifting_frames(4)
    got, state = encode(tower, frames, STCCacher(cache_interval=4, update_ratio=0.25))
    dense = tower.encode(frames)
    assert (got[0] - dense[0]).abs().max() < 1e-5
    assert all((got[i] - dense[i]).abs().max() > 1e-2 for i in (1, 2, 3))
    assert state.tokens_recomputed == 36 + 3 * 9


def test_streams_do_not_mix():
    tower, cacher = tiny_tower("siglip"), STCCacher(cache_interval=4)
    clips = [drifting_frames(6, seed=s) for s in (1, 2)]
    alone = [encode(tower, clip, cacher)[0] for clip in clips]
    states = [cacher.open_state() for _ in clips]
    woven = [[cacher.encode(tower, clip[i : i + 1], s) for clip, s in zip(clips, states)] for i in range(6)]
    for stream in (0, 1):
        assert (torch.cat([step[stream] for step in woven]) - alone[stream]).abs().max() < 1e-5


def test_the_tower_is_left_as_it_was():
    tower, frames = tiny_tower("siglip"), drifting_frames(5)
    before = tower.encode(frames)
    encode(tower, frames, STCCacher())
    assert torch.equal(tower.encode(frames), before)


def test_half_precision_scores_are_float32():
    tower = tiny_tower("siglip")
    tower.model.to(torch.bfloat16)
    got, _ = encode(tower, drifting_frames(4).bfloat16(), STCCacher())
    assert got.dtype == torch.bfloat16 and got.isfinite().all()


def test_state_size_is_four_tensors_per_block():
    tower = tiny_tower("siglip")
    cacher = STCCacher()
    assert cacher.open_state().nbytes == 0
    _, state = encode(tower, drifting_frames(2), cacher)
    assert state.nbytes == 4 * 3 * 36 * 32 * 4


def test_lowest_breaks_ties_by_position():
    score = torch.tensor([[1.0, 0.5, 1.0 + 1e-7, 0.9, 1.0]])
    assert sorted(lowest(score, 3)[0].tolist()) == [0, 1, 3]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cache_interval", 0),
        ("update_ratio", 0.0),
        ("update_ratio", 1.01),
        ("update_ratio", float("nan")),
        ("chunk_frames", 0),
    ],
)
def test_bad_values_name_the_field(field, value):
    with pytest.raises(SettingsError, match=field):
        STCCacher(**{field: value})
