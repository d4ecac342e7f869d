"""What the tests of decoding compare."""

import pytest

from stc_lmms.video import iter_frames
from tests import media


def numbers(path, **options):
    """[(time_s, painted frame number), ...] of a whole read."""
    return [(time_s, media.read_number(image)) for time_s, image in iter_frames(path, **options)]


def expected(n_frames, rate, step):
    return [(pytest.approx(i / rate, abs=1e-5), i) for i in range(0, n_frames, step)]
