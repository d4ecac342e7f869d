"""StreamWorld: seeded, consistent, and the same at every scale and in a file."""

import numpy as np
import pytest

from stc_lmms.video.decode import open_video
from training.demo import world as stream_world
from training.demo.video import write_mp4
from training.demo.world import CELL_PX, COLORS, make_world, render

WORLDS = [make_world(9, index, frames) for index, frames in enumerate((12, 16, 16, 24, 60, 16, 16, 13))]


def test_a_world_is_a_function_of_its_seed_and_number():
    again = make_world(9, 3, 24)
    for name in ("shape", "color", "visible", "place", "digit", "lit"):
        assert np.array_equal(getattr(again, name), getattr(WORLDS[3], name))
    assert np.array_equal(render(again), render(WORLDS[3]))
    assert not np.array_equal(render(make_world(9, 4, 24)), render(WORLDS[3]))
    assert not np.array_equal(render(make_world(10, 3, 24)), render(WORLDS[3]))


@pytest.mark.parametrize("world", WORLDS, ids=lambda w: f"{w.frames} frames")
def test_nothing_is_ambiguous(world):
    assert len(set(world.shape)) == len(world.shape)
    for f in range(world.frames):
        colors = world.color[world.visible[:, f], f]
        assert len(set(colors)) == len(colors)
    assert world.visible[0, 0] and world.visible.any(1).all()
    assert len(set(world.first_seen)) == len(world.shape)  # one comes at a time
    still = np.delete(np.arange(len(world.shape)), 1)
    assert (world.place[still] == world.place[still, :1]).all()
    assert set(world.motion[still].ravel()) <= {-1, 0}
    steps = np.unique(np.abs(np.diff(world.digit)) % 8)
    assert set(steps) <= {0, 1}  # by one, past 9 to 0
    assert not (world.lit[1:] & world.lit[:-1]).any()
    # nothing stands on anything else
    places = [*world.place[:, 0], world.sign, world.lamp]
    for i, a in enumerate(places):
        for b in places[i + 1 :]:
            assert np.abs(a - b).max() > 0.6


def test_some_worlds_shake_flicker_and_cut():
    looks = [make_world(9, index, 16).look for index in range(80)]
    shares = [
        np.mean([look.shake.any() for look in looks]),
        np.mean([np.abs(np.diff(look.gain)).max() > 0.05 for look in looks]),
        np.mean([look.cut < 16 for look in looks]),
    ]
    expected = (stream_world.SHAKE_SHARE, stream_world.FLICKER_SHARE, stream_world.CUT_SHARE)
    assert shares == pytest.approx(expected, abs=0.15)


def test_pictures_show_what_the_world_says():
    """The middle of every full shape has its colour, whatever is around it."""
    palette, solid = np.array(list(COLORS.values())), {"circle", "square", "diamond", "heart", "cross"}
    seen = 0
    for world in WORLDS:
        pictures = render(world)
        for k, f in np.argwhere(world.visible):
            if stream_world.SHAPES[world.shape[k]] in solid:
                x, y = (world.place[k, f] * CELL_PX + world.look.shake[f]).astype(int)
                pixel = pictures[f, y, x] / world.look.gain[f]
                assert np.abs(palette - pixel).sum(1).argmin() == world.color[k, f]
                seen += 1
    assert seen > 100


def test_a_window_is_the_same_frames():
    world = WORLDS[4]
    assert np.array_equal(render(world.window(17, 5)), render(world)[17:22])
    assert np.array_equal(world.window(17, 5).motion[:, 1:], world.motion[:, 18:22])


def test_scale_adds_detail_only():
    world = make_world(9, 5, 8)
    large = render(world, scale=2).reshape(8, 96, 2, 96, 2, 3).mean((2, 4))
    assert np.abs(large - render(world)).mean() < 2.5


def test_a_file_sampled_at_half_a_frame_per_second_is_the_world(tmp_path):
    world = make_world(9, 2, 12)
    assert write_mp4(world, tmp_path / "world.mp4") == 24.0
    with open_video(tmp_path / "world.mp4", fps=0.5) as video:
        times, frames = zip(*video.read(), strict=True)
    assert list(times) == [2.0 * f for f in range(12)]
    small = np.stack(frames).reshape(12, 96, 2, 96, 2, 3).mean((2, 4))
    assert np.abs(small - render(world)).mean() < 4  # lossy, and with chroma at half the resolution


def test_too_short_a_world_is_refused():
    with pytest.raises(ValueError, match="at least 4 frames, got 3"):
        make_world(0, 0, 3)
