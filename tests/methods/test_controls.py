"""Controls: what they keep, and that they look at nothing else."""

import math

import pytest
import torch

from stc_lmms.errors import StcError
from stc_lmms.methods.base import Context
from stc_lmms.methods.controls import Random, Uniform, UniformFrames
from stc_lmms.methods.downsample import Downsample
from stc_lmms.methods.pixel_diff import PixelDiff
from stc_lmms.methods.select import lowest_preferring, token_grid, uniform_positions
from tests.methods.streams import logits, play
from tests.methods.towers import drifting_frames, tiny_tower


def kept(method, x, state=None, **context):
    out, state = method.compress(x, Context(**context), state or method.open_state())
    parts = out.kept_M.split(out.tokens_per_frame)
    return [(part - i * x.shape[1]).tolist() for i, part in enumerate(parts)], state


@pytest.mark.parametrize("grid", [(14, 14), (6, 6), (3, 9), (1, 7), (7, 2)])
def test_uniform_positions_for_every_count(grid):
    for count in range(1, math.prod(grid) + 1):
        found = uniform_positions(grid, count)
        assert len(set(found)) == count and found == sorted(found)
        assert found[0] >= 0 and found[-1] < math.prod(grid)


def test_uniform_is_a_grid_and_the_same_in_every_frame():
    found, _ = kept(Uniform(token_budget=64), torch.zeros(3, 196, 4))
    assert found[0] == found[1] == found[2]
    rows = {p // 14 for p in found[0]}
    assert rows == {p % 14 for p in found[0]} == {0, 2, 4, 6, 7, 9, 11, 13}


def test_random_depends_on_seed_and_frame_number_alone():
    x = torch.randn(5, 36, 4)
    whole, _ = kept(Random(token_budget=9), x)
    other, _ = kept(Random(token_budget=9), torch.zeros(5, 36, 8))
    assert whole == other and len({tuple(p) for p in whole}) == 5
    first, state = kept(Random(token_budget=9), x[:2])
    rest, _ = kept(Random(token_budget=9), x[2:], state)
    assert first + rest == whole
    assert kept(Random(token_budget=9, seed=1), x)[0] != whole


def test_random_covers_a_frame_evenly():
    found, _ = kept(Random(token_budget=9), torch.zeros(400, 36, 1))
    counts = torch.tensor(found).flatten().bincount(minlength=36)
    assert counts.min() > 60 and counts.max() < 140  # 100 expected


def test_uniform_frames_keeps_whole_frames_at_equal_distances():
    found, state = kept(UniformFrames(token_budget=9), torch.zeros(9, 36, 4))
    assert [len(p) for p in found] == [36, 0, 0, 0, 36, 0, 0, 0, 36] and state.frames == 9
    found, _ = kept(UniformFrames(token_budget=64), torch.zeros(98, 196, 1))
    assert sum(map(len, found)) == 98 * 64  # 32 of 98 frames: exactly the budget
    assert len(found[0]) == 196


def test_pixel_diff_keeps_what_changed():
    pixels = torch.zeros(3, 3, 48, 48)
    pixels[1, :, 8:16, 16:24] = 1.0  # cell (1, 2) of 6 x 6; it changes back in frame 2
    x = torch.zeros(3, 36, 4)
    found, state = kept(PixelDiff(token_budget=4), x, pixels_FCHW=pixels)
    even = uniform_positions((6, 6), 4)
    assert found[0] == even
    for frame in found[1:]:
        assert 8 in frame and len(set(frame) & set(even)) == 3
    assert torch.equal(state.pixels, pixels[-1:]) and state.nbytes == pixels[-1:].nbytes


def test_pixel_diff_without_pixels_is_one_line():
    with pytest.raises(StcError, match="needs the pixel values"):
        kept(PixelDiff(token_budget=4), torch.zeros(1, 36, 4))


def test_ties_go_to_the_preferred():
    score = torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0]])
    assert sorted(lowest_preferring(score, 3, [4, 1])[0].tolist()) == [1, 2, 4]


def test_a_grid_that_does_not_count_the_tokens_is_refused():
    with pytest.raises(StcError, match="5 x 7 does not hold 36 tokens"):
        token_grid(torch.zeros(1, 36, 2), Context(grid=(5, 7)))


def test_downsample_runs_the_small_frame():
    tower, frames = tiny_tower("siglip"), drifting_frames(2)  # 6 x 6 patches
    method = Downsample(token_budget=4)
    assert method.output_grid((6, 6)) == (4, 4)
    state = method.open_state()
    assert method.encode(tower, frames, state).shape == (2, 16, 32)
    assert (state.tokens_seen, state.tokens_recomputed) == (72, 32)
    odd = Downsample(token_budget=9)  # 27 x 27 patches have 14 x 14 tokens; 3 x 3 of 5 x 5 need 5 x 5 patches
    assert odd.output_grid((5, 5)) == (5, 5)


def test_downsample_to_the_full_size_is_dense(load, clip):
    frames, times = clip(3)
    small = play(load(method="downsample", token_budget=36), frames, times)
    assert (logits(small) - logits(play(load(method="none"), frames, times))).abs().max() < 1e-4
