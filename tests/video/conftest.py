from pathlib import Path

import pytest

from tests import media


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A folder with one 10 s, 10 fps H.264 MP4, index first, as most tests need it."""
    folder = tmp_path_factory.mktemp("clips")
    media.encode_video(
        folder / "ok.mp4", media.numbered_frames(100), 10, container_options={"movflags": "faststart"}
    )
    return folder


@pytest.fixture
def ok(clips) -> Path:
    return clips / "ok.mp4"
