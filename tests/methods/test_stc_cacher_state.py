"""What a stream keeps: in place, as much as it says, and no more after thousands of frames."""

import dataclasses
import gc
import random

import pytest
import torch

from stc_lmms.methods.stc_cacher import STCCacher, Trace
from stc_lmms.methods.stc_cacher_roles import FrameRoles, adaptive_roles, interval_roles
from stc_lmms.towers import Patches
from tests.methods.towers import FAMILIES, drifting, drifting_frames, drifting_patches, part, tiny_tower


def held(state):
    """The tensors that a state can reach."""
    return [x for block in state.references or () for x in block if x is not None]


def addresses(state):
    return [x.data_ptr() for x in held(state)]


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("selection", ["per_layer", "shared"])
def test_size_is_three_tensors_per_block_or_two_where_nothing_is_scored(kind, selection):
    tower, cacher = tiny_tower(kind), STCCacher(selection=selection)
    state = cacher.open_state()
    assert state.nbytes == 0
    h = cacher.encode(tower, drifting(kind, 6), state)
    depth = len(tower.blocks)
    tensors = 3 * depth if selection == "per_layer" else 2 * depth + 1
    assert state.nbytes == tensors * h[0].nbytes
    assert state.nbytes == sum(x.untyped_storage().nbytes() for x in held(state))  # no views of more


@pytest.mark.parametrize("kind", FAMILIES)
def test_references_stay_where_they_are(kind):
    tower, cacher, x = tiny_tower(kind), STCCacher(cache_interval=2), drifting(kind, 9)
    state = cacher.open_state()
    cacher.encode(tower, part(x, 0, 1), state)
    first, values = addresses(state), [v.clone() for v in held(state)]
    for start, stop in ((1, 2), (2, 3), (3, 9)):
        cacher.encode(tower, part(x, start, stop), state)
        assert addresses(state) == first
    assert not any(torch.equal(old, new) for old, new in zip(values, held(state)))
    state.reset()
    assert state.nbytes and (state.frames, state.tokens_seen, state.tokens_recomputed) == (0, 0, 0)
    again = cacher.encode(tower, x, state)
    assert addresses(state) == first
    assert torch.equal(again, cacher.encode(tower, x, cacher.open_state()))


@pytest.mark.parametrize("options", [{}, {"refresh": "adaptive", "cut_similarity": 0.1}])
def test_a_new_grid_starts_anew(options):
    tower, cacher = tiny_tower("qwen2_5_vl"), STCCacher(cache_interval=4, **options)
    wide, high = drifting_patches(3, (6, 10)), drifting_patches(3, (10, 6), seed=1)
    state, roles = cacher.open_state(), []
    outputs = []
    for x in (wide, high, wide):
        trace = Trace()
        outputs.append(cacher.encode(tower, x, state, trace))
        roles.append(trace.selective)
    assert roles == [[1, 2]] * 3
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[1], cacher.encode(tower, high, cacher.open_state()))
    assert state.frames == 9 and state.tokens_seen == 9 * 60


def test_another_dtype_starts_anew():
    tower, cacher, x = tiny_tower("siglip"), STCCacher(), drifting_frames(4)
    state = cacher.open_state()
    cacher.encode(tower, x[:2], state)
    tower.model.double()
    assert (cacher.encode(tower, x[2:3].double(), state) - tower.encode(x[2:3].double())).abs().max() < 1e-12
    assert {v.dtype for v in held(state)} == {torch.float64}


def test_inference_mode_may_come_and_go():
    tower, cacher, x = tiny_tower("siglip"), STCCacher(cache_interval=2), drifting_frames(6)
    state, parts = cacher.open_state(), []
    for i in range(6):
        with torch.inference_mode(i % 4 < 2):
            parts.append(cacher.encode(tower, x[i : i + 1], state))
    assert (torch.cat(parts) - cacher.encode(tower, x, cacher.open_state())).abs().max() < 1e-5


@pytest.mark.parametrize("kind", FAMILIES)
def test_single_frames_can_be_run_without_the_host(kind):
    """What a graph runner needs: `run` on plans of one frame, references in place, counters by `commit`."""
    tower, cacher, x = tiny_tower(kind), STCCacher(cache_interval=3), drifting(kind, 8)
    expected = cacher.encode(tower, x, cacher.open_state())
    state = cacher.open_state()
    cacher.encode(tower, part(x, 0, 1), state)
    plans = {"reference": FrameRoles((True,)), "selective": FrameRoles((False,))}
    with torch.no_grad():
        for i in range(1, 8):
            h, layout = tower.embed(part(x, i, i + 1))
            plan = plans[cacher.role(state)]
            out = cacher.run(tower, h, layout, plan, state.references)
            cacher.commit(plan, layout, state)
            assert (out - expected[i]).abs().max() < 1e-5


def to_meta(tower, x):
    """Tower and input without data: whatever reads a value back to the host fails."""

    def move(value):
        if isinstance(value, torch.Tensor):
            return value.to("meta")
        if isinstance(value, tuple):
            return tuple(map(move, value))
        if dataclasses.is_dataclass(value):
            fields = {f.name: move(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return dataclasses.replace(value, **fields)
        return value

    if isinstance(x, Patches):
        _, layout = tower.embed(x)
        tower._layouts = {(x.size, torch.device("meta"), torch.float32): move(layout)}
    tower.model.to("meta")
    return tower, move(x)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"selection": "shared"}])
def test_the_host_reads_nothing_back(kind, options):
    tower, x = to_meta(tiny_tower(kind), drifting(kind, 7))
    cacher = STCCacher(**options)
    state, taps = cacher.open_state(), []
    for start, stop in ((0, 1), (1, 2), (2, 7)):
        h = cacher.encode(tower, part(x, start, stop), state, taps=taps)
        assert h.device.type == "meta" and len(h) == stop - start


def test_nothing_grows_over_two_thousand_frames():
    tower = tiny_tower("siglip", image_size=16, num_hidden_layers=1)
    cacher, frames = STCCacher(cache_interval=4), drifting_frames(40, 16)
    state = cacher.open_state()

    def after(calls):
        for i in range(calls):
            cacher.encode(tower, frames[i % 40 : i % 40 + 1], state)
        gc.collect()
        tensors = sum(isinstance(x, torch.Tensor) for x in gc.get_objects())
        return state.nbytes, tensors, addresses(state)

    first = after(100)
    assert after(1900) == first
    assert state.frames == 2000


def test_nothing_grows_when_the_grid_changes():
    tower = tiny_tower("qwen2_5_vl", depth=2)
    cacher = STCCacher(cache_interval=4)
    clips = [drifting_patches(1, grid) for grid in ((4, 4), (4, 6))]
    state = cacher.open_state()

    def after(calls):
        for i in range(calls):
            cacher.encode(tower, clips[i // 3 % 2], state)
        gc.collect()
        return state.nbytes, sum(isinstance(x, torch.Tensor) for x in gc.get_objects())

    first = after(120)
    assert after(240) == first


# ---------------------------------------------------------------- roles


def some_roles():
    rng = random.Random(0)
    for _ in range(200):
        yield tuple(rng.random() < 0.4 for _ in range(rng.randint(1, 12)))


def test_split_and_join_are_inverse():
    for roles in some_roles():
        h = torch.randn(len(roles), 3, 2)
        dense, selective = FrameRoles(roles).split(h)
        assert torch.equal(dense, h[torch.tensor(roles)])
        assert torch.equal(selective, h[~torch.tensor(roles)])
        assert torch.equal(FrameRoles(roles).join(dense, selective), h)


def test_groups_name_the_last_reference_of_every_selective_frame():
    for roles in some_roles():
        wanted, references = [], 0
        for dense in roles:
            references += dense
            if not dense:
                wanted.append(references - 1)  # -1: the one from before the call
        got = []
        for group in FrameRoles(roles).groups:
            assert group.start == len(got) and group.stored == (group.start == 0 and wanted[0] == -1)
            for reference in range(group.first, group.last):
                got += [-1 if group.stored else reference] * group.frames_each
            assert group.stop == len(got)
        assert got == wanted


def test_regular_groups_are_one():
    roles = interval_roles(2, 16, 4)
    assert [i for i, dense in enumerate(roles) if dense] == [2, 6, 10, 14]
    assert [(g.stored, g.last - g.first, g.frames_each) for g in FrameRoles(roles).groups] == [
        (True, 1, 2),
        (False, 3, 3),
        (False, 1, 1),
    ]


def test_adaptive_roles_do_not_depend_on_the_cut():
    rng = random.Random(1)
    for _ in range(100):
        frames, interval = 12, rng.choice([2, 3, 5, 20])
        alike = [[rng.random() for _ in range(frames)] for _ in range(frames)]
        roles, step, reference = [], 0, None
        size = rng.choice([1, 2, 5, 12])
        for start in range(0, frames, size):
            n = min(size, frames - start)
            known = [] if reference is None else [alike[reference][start + i] for i in range(n)]
            back = [[alike[start + i][start + i + d] for i in range(n - d)] for d in range(1, n)]
            found = adaptive_roles(step, n, interval, 0.3, known, back)
            for i, dense in enumerate(found):
                step = 1 if dense else step + 1
                reference = start + i if dense else reference
            roles += found
        wanted, reference = [], None
        for i in range(frames):
            dense = reference is None or i - reference >= interval or alike[reference][i] < 0.3
            reference = i if dense else reference
            wanted.append(dense)
        assert roles == wanted
