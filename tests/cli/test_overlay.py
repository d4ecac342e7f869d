"""The drawing, pixel by pixel."""

import numpy as np
import pytest

from stc_lmms.cli.overlay import (
    BLUE,
    DROPPED,
    GAP,
    GREEN,
    KEPT,
    MERGED,
    ORANGE,
    WIDTH,
    FrameView,
    draw_kept,
    draw_recomputed,
    picture,
    shrink,
    upsample,
)

RED = (240, 30, 60)
GREY = round(sum(RED) / 3 / 3)


def plain(height=40, width=60, colour=RED):
    return np.full((height, width, 3), colour, np.uint8)


def view(share=None, kept=None, image=None, time_s=2.5):
    return FrameView(time_s, plain() if image is None else image, share, 3, 4, kept, 1, 4)


def test_a_map_covers_the_frame_evenly():
    wide = upsample(np.arange(6).reshape(2, 3), 4, 9)
    assert wide.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 2 + [[3, 3, 3, 4, 4, 4, 5, 5, 5]] * 2
    # 14 places on 27 pixels: none is left out
    counts = np.bincount(upsample(np.arange(14)[None], 1, 27)[0])
    assert len(counts) == 14 and set(counts) == {1, 2}


def test_recomputed_patches_are_orange_by_share():
    drawn = draw_recomputed(plain(), np.array([[0.0, 1.0], [0.5, 0.0]]))
    orange = [(a + b) / 2 for a, b in zip(RED, ORANGE, strict=True)]
    assert (drawn[:20, :30] == GREY).all() and (drawn[20:, 30:] == GREY).all()
    assert np.abs(drawn[:20, 30:] - orange).max() <= 0.5
    assert np.abs(drawn[20:, :30] - (np.array(orange) + GREY) / 2).max() <= 0.75


def test_kept_tokens_keep_their_colour():
    drawn = draw_kept(plain(), np.array([[DROPPED, KEPT], [MERGED, DROPPED]]))
    assert (drawn[:20, :30] == GREY).all() and (drawn[20:, 30:] == GREY).all()
    assert (drawn[1:19, 31:59] == RED).all()
    assert (drawn[0, 30:] == GREEN).all() and (drawn[:20, 59] == GREEN).all()
    assert np.abs(drawn[20:, :30] - (np.array(RED) + BLUE) / 2).max() <= 0.5


def test_a_dark_frame_shows_what_was_kept():
    drawn = draw_kept(plain(colour=(0, 0, 0)), np.array([[KEPT, DROPPED]]))
    assert (drawn[:, :30] == GREEN).all(-1).any() and not drawn[:, 30:].any()


def test_picture_has_a_row_per_frame_and_three_columns():
    share, kept = np.array([[1.0, 0.0]]), np.array([[KEPT, DROPPED]])
    one, two = (picture([view(share, kept)] * n, "a title") for n in (1, 2))
    row = len(two) - len(one)
    assert one.dtype == np.uint8 and one.shape[1] == 3 * WIDTH + 4 * GAP
    assert row >= WIDTH * 40 // 60 and all(side % 2 == 0 for side in (*one.shape[:2], *two.shape[:2]))
    middle = [GAP + i * (WIDTH + GAP) + WIDTH // 4 for i in range(3)]
    bottom = len(one) - row // 2
    assert (one[bottom, middle[0]] == RED).all() and (one[bottom, middle[2]] == RED).all()
    assert (one[bottom, middle[2] + WIDTH // 2] == GREY).all()
    assert (one[bottom, middle[1]] != GREY).any() and (one[bottom, middle[1] + WIDTH // 2] == GREY).all()


def test_what_cannot_be_shown_stays_empty():
    drawn = picture([view(None, None)], "t", ["a line " * 60])
    edge = drawn[70 : 70 + 60, GAP + WIDTH + GAP : GAP + WIDTH + GAP + 5]
    assert (edge == 255).all()
    assert len(drawn) > len(picture([view(None, None)], "t"))  # the note is there, in several lines
    assert drawn.shape[1] == 3 * WIDTH + 4 * GAP


@pytest.mark.parametrize("shape", [(40, 60), (600, 200), (1, 900)], ids=str)
def test_aspect(shape):
    small = shrink(plain(*shape))
    assert small.shape == (max(1, round(WIDTH * shape[0] / shape[1])), WIDTH, 3)
    assert picture([view(np.ones((2, 2)), np.ones((2, 2), np.int8), small)], "t").size


def test_captions():
    assert view().counts == ("3 of 4 patches recomputed", "1 of 4 tokens kept")
