"""Replayed frames equal decoded ones, however the reads are divided."""

import numpy as np
import pytest

from stc_lmms.video import shared
from stc_lmms.video.decode import open_video
from tests.media import encode_video, numbered_frames


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "numbers.mp4"
    return encode_video(path, numbered_frames(96), fps=8)  # 12 s, 6 sampled frames


def observed(reader, pieces):
    """Frames of every piece, and the reader's state after it."""
    found = []
    for until_s in pieces:
        frames = list(reader.read(until_s))
        about = (reader.ended, reader.cut_short, reader.duration_s if reader.ended else None)
        found.append(([time_s for time_s, _ in frames], [image for _, image in frames], about))
    reader.close()
    return found


def same(found, wanted):
    assert len(found) == len(wanted)
    for (times, images, about), (other_times, other_images, other_about) in zip(found, wanted, strict=True):
        assert times == other_times and about == other_about
        assert all(np.array_equal(a, b) for a, b in zip(images, other_images, strict=True))


PIECES = ([3.0, 7.0], [7.0], [None], [1.0, 2.0, 9.0, 60.0], [60.0, 60.0], [0.0, 5.0])


@pytest.mark.parametrize("first", PIECES, ids=str)
@pytest.mark.parametrize("second", PIECES, ids=str)
def test_a_second_reader_gets_what_decoding_gives(video, first, second):
    videos = shared.SharedVideos()
    same(observed(videos.open(video, fps=0.5), first), observed(open_video(video, fps=0.5), first))
    same(observed(videos.open(video, fps=0.5), second), observed(open_video(video, fps=0.5), second))
    same(observed(videos.open(video, fps=0.5), [None]), observed(open_video(video, fps=0.5), [None]))


def test_recorded_frames_are_not_decoded_again(video, monkeypatch):
    opened = []
    monkeypatch.setattr(shared, "open_video", lambda *a, **k: opened.append(k) or open_video(*a, **k))
    videos = shared.SharedVideos()
    observed(videos.open(video, fps=0.5), [None])
    again = videos.open(video, fps=0.5)
    decode_ms = again.decode_ms
    assert len(list(again.read())) == 6 and again.ended and opened == [{"fps": 0.5}]
    assert again.decode_ms > decode_ms  # what decoding took the first time
    videos.open(video, fps=1.0).close()  # other sampling times are another video
    assert opened == [{"fps": 0.5}, {"fps": 1.0}]


def test_the_cap_is_kept_and_changes_no_frame(video):
    frame = 64 * 96 * 3
    videos = shared.SharedVideos(cap_bytes=2 * frame)
    for _ in range(2):
        same(
            observed(videos.open(video, fps=0.5), [5.0, None]),
            observed(open_video(video, fps=0.5), [5.0, None]),
        )
        assert videos.nbytes == 2 * frame
