"""Options of STC-Cacher against the frame-by-frame definition, and what refuses them."""

import pytest
import torch

from stc_lmms.errors import SettingsError
from stc_lmms.methods.stc_cacher import STCCacher, Trace
from tests.methods.test_stc_cacher import encode
from tests.methods.towers import FAMILIES, drifting, drifting_frames, frame_by_frame, part, tiny_tower


def traced(tower, x, cacher):
    trace = Trace()
    cacher.encode(tower, x, cacher.open_state(), trace)
    return trace


def scenes(*lengths):
    """Frames of several scenes, one after the other."""
    return torch.cat([drifting_frames(n, seed=10 + i) for i, n in enumerate(lengths)])


def test_groups_are_selected_whole():
    tower, x = tiny_tower("qwen2_vl"), drifting("qwen2_vl", 4)
    cacher = STCCacher(granularity="group", update_ratio=0.3)
    trace = traced(tower, x, cacher)
    for index in trace.indices:
        assert index.shape == (3, 4 * int(15 * 0.3)) == (3, cacher.selected(60, 4))
        for row in index.tolist():
            assert sorted(row) == sorted(4 * g + i for g in {r // 4 for r in row} for i in range(4))


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("cut", [-0.5, 0.5, 0.8, 0.95])
def test_adaptive_is_its_definition(kind, cut):
    tower, x = tiny_tower(kind), drifting(kind, 17)
    cacher = STCCacher(cache_interval=5, refresh="adaptive", cut_similarity=cut)
    expected = frame_by_frame(tower, x, 5, 0.25, cut=cut)
    for pieces in (None, 1, 3, 16):
        assert (encode(tower, x, cacher, pieces)[0] - expected).abs().max() < 1e-5, pieces


def test_a_scene_cut_makes_a_reference_frame():
    tower, x = tiny_tower("siglip"), scenes(3, 2, 6)
    cacher = STCCacher(cache_interval=4, refresh="adaptive", cut_similarity=0.5)
    # Frames 0, 3 and 5 begin scenes; 9 is due four frames after 5.
    for pieces in (1, 2, 11):
        state, dense = cacher.open_state(), []
        for start in range(0, 11, pieces):
            trace = Trace()
            count = len(cacher.encode(tower, x[start : start + pieces], state, trace))
            dense += [start + i for i in range(count) if i not in trace.selective]
        assert dense == [0, 3, 5, 9]
        assert state.tokens_recomputed == 4 * 36 + 7 * 9


def test_adaptive_does_not_look_ahead():
    tower, x = tiny_tower("siglip"), scenes(5, 6)
    cacher = STCCacher(cache_interval=8, refresh="adaptive", cut_similarity=0.7)
    whole, _ = encode(tower, x, cacher)
    for length in range(1, len(x)):
        assert (encode(tower, x[:length], cacher)[0] - whole[:length]).abs().max() < 1e-5


def test_the_role_of_the_next_frame_is_known():
    tower, x = tiny_tower("siglip"), drifting_frames(13)
    for options in ({}, {"cache_interval": 1}):
        cacher = STCCacher(**{"cache_interval": 3} | options)
        state = cacher.open_state()
        for frame in x:
            role, trace = cacher.role(state), Trace()
            cacher.encode(tower, frame[None], state, trace)
            assert role == ("selective" if trace.selective else "reference")
        state.reset()
        assert cacher.role(state) == "reference"
    adaptive = STCCacher(refresh="adaptive", cut_similarity=0.5)
    assert adaptive.role(adaptive.open_state()) is None


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_groups_need_a_tower_that_merges(kind):
    tower, cacher = tiny_tower(kind), STCCacher(granularity="group")
    with pytest.raises(SettingsError, match="granularity=group needs a tower that merges"):
        cacher.encode(tower, drifting_frames(1), cacher.open_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_interval": 0}, "cache_interval=0 must be at least 1"),
        ({"update_ratio": 0.0}, r"update_ratio=0.0 must be in \(0, 1\]"),
        ({"update_ratio": 1.01}, "update_ratio"),
        ({"update_ratio": float("nan")}, "update_ratio"),
        ({"refresh": "adaptive"}, "refresh=adaptive needs cut_similarity"),
        ({"cut_similarity": 0.5}, "cut_similarity=0.5 is only for refresh=adaptive, not refresh=interval"),
        ({"refresh": "adaptive", "cut_similarity": 2.0}, r"cut_similarity=2.0 must be in \(-1, 1\]"),
        ({"refresh": "adaptive", "cut_similarity": float("nan")}, "cut_similarity=nan"),
        ({"refresh": "adaptive", "cut_similarity": 0.5, "cache_interval": 1}, "nothing to decide"),
    ],
)
def test_bad_values_and_combinations_are_one_clear_line(options, message):
    with pytest.raises(SettingsError, match=message) as error:
        STCCacher(**options)
    assert "\n" not in str(error.value)


def test_options_do_not_depend_on_the_cut():
    tower, x = tiny_tower("qwen2_5_vl"), drifting("qwen2_5_vl", 11)
    options = {"granularity": "group", "selection": "shared"}
    cacher = STCCacher(cache_interval=3, update_ratio=0.6, **options)
    whole, _ = encode(tower, x, cacher)
    for pieces in (1, 4):
        assert (whole - encode(tower, x, cacher, pieces)[0]).abs().max() < 1e-5
    assert (part(x, 0, 3).rows_PC == x.rows_PC[: 3 * 60]).all()
