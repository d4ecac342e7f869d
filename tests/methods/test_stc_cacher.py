"""STC-Cacher: grouped execution against the frame-by-frame definition, and what follows from it."""

import itertools

import pytest
import torch

from stc_lmms.methods.stc_cacher import STCCacher, Trace
from stc_lmms.ops.rows import lowest
from tests.methods.towers import (
    FAMILIES,
    IMAGE,
    QWENS,
    drifting,
    drifting_frames,
    frame_by_frame,
    part,
    tiny_tower,
)

INTERVALS, RATIOS, LONGEST = (1, 2, 4, 8), (0.1, 0.25, 0.5, 1.0), 17


def encode(tower, frames, cacher, pieces=None):
    """Encode in pieces of the given length (default: one piece)."""
    state, step = cacher.open_state(), pieces or len(frames)
    parts = (part(frames, i, min(i + step, len(frames))) for i in range(0, len(frames), step))
    return torch.cat([cacher.encode(tower, piece, state) for piece in parts]), state


@pytest.mark.parametrize("kind", IMAGE)
@pytest.mark.parametrize("selection", ["per_layer", "shared"])
@pytest.mark.parametrize(("interval", "ratio"), itertools.product(INTERVALS, RATIOS))
def test_grouped_equals_frame_by_frame(kind, selection, interval, ratio):
    tower, frames = tiny_tower(kind), drifting_frames(LONGEST)
    expected = frame_by_frame(tower, frames, interval, ratio, every=1 if selection == "per_layer" else 99)
    cacher = STCCacher(cache_interval=interval, update_ratio=ratio, selection=selection)
    for length in range(1, LONGEST + 1):
        got, _ = encode(tower, frames[:length], cacher)
        assert (got - expected[:length]).abs().max() < 1e-5, f"clip of {length} frames"


@pytest.mark.parametrize("kind", QWENS)
@pytest.mark.parametrize("options", [{}, {"selection": "shared"}, {"granularity": "group"}])
@pytest.mark.parametrize(("interval", "ratio"), [(2, 0.25), (4, 0.25), (4, 1.0), (8, 0.1)])
def test_grouped_equals_frame_by_frame_in_qwen_towers(kind, options, interval, ratio):
    tower, slices = tiny_tower(kind), drifting(kind, LONGEST)
    group = 4 if "granularity" in options else 1
    expected = frame_by_frame(
        tower, slices, interval, ratio, every=99 if "selection" in options else 1, group=group
    )
    cacher = STCCacher(cache_interval=interval, update_ratio=ratio, **options)
    for length in (1, 2, 4, 9, LONGEST):
        got, _ = encode(tower, part(slices, 0, length), cacher)
        assert (got - expected[:length]).abs().max() < 1e-5, f"clip of {length} slices"


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_cut_stream_gives_the_same_taps(kind):
    """Deepstack takes hidden states from the middle of the tower; later blocks must not overwrite them."""
    tower, x = tiny_tower(kind), drifting(kind, 7)
    cacher, whole, states = STCCacher(cache_interval=4), [], []
    cacher.encode(tower, x, cacher.open_state(), taps=whole)
    state = cacher.open_state()
    for i in range(7):
        taps = []
        cacher.encode(tower, part(x, i, i + 1), state, taps=taps)
        states.append(taps)
    assert len(whole) == len(tower.taps)
    for all_frames, one_by_one in zip(whole, zip(*states)):
        assert (all_frames - torch.cat(one_by_one)).abs().max() < 1e-5


@pytest.mark.parametrize("pieces", [1, 3, 5, 16])
@pytest.mark.parametrize("kind", ["siglip", "qwen2_5_vl"])
def test_any_cut_of_a_stream_gives_the_same(kind, pieces):
    tower, frames = tiny_tower(kind), drifting(kind, LONGEST)
    cacher = STCCacher(cache_interval=3)
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
def test_what_changed_is_recomputed(metric):
    tower = tiny_tower("siglip")
    frames = drifting_frames(1).repeat(2, 1, 1, 1)
    frames[1, :, 8:16, 16:24] += 3.0  # one patch: row 1, column 2 of 6
    trace = Trace()
    cacher = STCCacher(cache_interval=2, update_ratio=0.03, metric=metric)
    cacher.encode(tower, frames, cacher.open_state(), trace)
    # The dot product also depends on the norms of the keys.
    assert (trace.indices[0].tolist() == [[8]] or metric == "dot") and trace.selective == [1]


@pytest.mark.parametrize("kind", FAMILIES)
def test_ratio_one_equals_dense(kind):
    tower, frames = tiny_tower(kind), drifting(kind, 6)
    got, state = encode(tower, frames, STCCacher(cache_interval=4, update_ratio=1.0))
    dense = tower.encode(frames)
    assert (got - dense).abs().max() < 1e-5
    assert state.tokens_recomputed == state.tokens_seen == 6 * dense.shape[1]


@pytest.mark.parametrize("kind", FAMILIES)
def test_static_video_equals_its_reference(kind):
    tower, frame = tiny_tower(kind), drifting(kind, 1)
    cacher = STCCacher(cache_interval=8)
    state = cacher.open_state()
    got = torch.cat([cacher.encode(tower, frame, state) for _ in range(5)])
    assert (got - tower.encode(frame)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", FAMILIES)
def test_interval_one_is_dense_and_keeps_nothing(kind):
    tower, frames = tiny_tower(kind), drifting(kind, 3)
    got, state = encode(tower, frames, STCCacher(cache_interval=1, update_ratio=0.1))
    assert (got - tower.encode(frames)).abs().max() < 1e-5
    assert state.nbytes == 0


def test_selective_frames_differ_from_dense():
    """The other tests would also pass on a cacher that always computes everything."""
    tower, frames = tiny_tower("siglip"), drifting_frames(4)
    got, state = encode(tower, frames, STCCacher(cache_interval=4, update_ratio=0.25))
    dense = tower.encode(frames)
    assert (got[0] - dense[0]).abs().max() < 1e-5
    assert all((got[i] - dense[i]).abs().max() > 1e-2 for i in (1, 2, 3))
    assert state.tokens_recomputed == 36 + 3 * 9


@pytest.mark.parametrize("options", [{}, {"refresh": "adaptive", "cut_similarity": 0.5}])
def test_no_frames_change_nothing(options):
    tower, frames, cacher = tiny_tower("siglip"), drifting_frames(5), STCCacher(**options)
    whole, _ = encode(tower, frames, cacher)
    state = cacher.open_state()
    parts = [cacher.encode(tower, x, state) for x in (frames[:0], frames[:2], frames[:0], frames[2:])]
    assert (torch.cat(parts) - whole).abs().max() < 1e-5 and state.frames == 5


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


def test_lowest_breaks_ties_by_position():
    score = torch.tensor([[1.0, 0.5, 1.0 + 1e-7, 0.9, 1.0]])
    assert sorted(lowest(score, 3)[0].tolist()) == [0, 1, 3]
