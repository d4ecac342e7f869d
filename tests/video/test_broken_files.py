"""Files that are damaged or no videos at all: what can be had of them, or exactly one clear error."""

from pathlib import Path

import numpy as np
import pytest

from stc_lmms.errors import SettingsError, VideoError
from stc_lmms.video import iter_frames, open_video, probe
from tests import media

REASONS = "damaged, incomplete or not a video|no frame could be decoded"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_damage_in_the_middle_loses_a_few_frames(ok, tmp_path, seed):
    path = media.damage(ok, tmp_path / "damaged.mp4", seed=seed)
    with open_video(path, fps=10) as stream:
        got = [(t, media.read_number(image)) for t, image in stream.read()]
        assert stream.backend == "pyav" and "decord failed near" in stream.warnings[0]
        assert stream.n_damaged > 0 and any("damaged pieces" in w for w in stream.warnings)
    assert [t for t, _ in got] == [pytest.approx(i / 10) for i in range(100)]  # each time exactly once
    assert all(number <= i for i, (_, number) in enumerate(got))  # nothing from the future
    assert sum(number == i for i, (_, number) in enumerate(got)) > 50


def broken_file(kind: str, ok: Path, folder: Path) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "moov_lost":
        media.truncate(media.encode_video(folder / "w.mp4", media.numbered_frames(50), 10), path)
    elif kind == "empty":
        path.touch()
    elif kind == "random":
        path.write_bytes(np.random.default_rng(0).bytes(50_000))
    elif kind == "audio":
        media.encode_audio_only(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "codec":
        media.unknown_codec_mp4(ok, path)
    elif kind == "no_frames":
        data = ok.read_bytes()
        start = data.index(b"mdat") + 4
        path.write_bytes(data[:start] + bytes(len(data) - start))
    elif kind == "playlist":
        path.write_text("#EXTM3U\nhttp://localhost:9/x.ts\n")
    return path


@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("moov_lost", REASONS),
        ("empty", r"is empty \(0 bytes\)"),
        ("random", REASONS),
        ("audio", "no video stream"),
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("codec", "codec is not supported"),
        ("no_frames", REASONS),
        ("playlist", "is a playlist"),
    ],
)
def test_hopeless_files_give_one_clear_line(ok, tmp_path, kind, reason, decoder):
    path = broken_file(kind, ok, tmp_path)
    if decoder == "decord":
        reason = f"{reason}|no stream it can decode|try decoder=auto"
    with pytest.raises(VideoError, match=reason) as caught:
        list(iter_frames(path, decoder=decoder))
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 300 + len(str(path))
    assert ".cc:" not in message and "Check failed" not in message
    if decoder == "auto":
        with pytest.raises(VideoError, match=reason):
            probe(path)


@pytest.mark.parametrize("address", ["http://localhost:9/a.mp4", "rtsp://localhost/a", "file:///etc/hosts"])
def test_addresses_are_refused(address):
    with pytest.raises(VideoError, match="is an address, not a local file"):
        open_video(address)


def test_protocols_without_slashes_are_just_missing_files(ok):
    with pytest.raises(VideoError, match="does not exist"):
        open_video(f"concat:{ok}|{ok}")


@pytest.mark.parametrize(
    "options",
    [{"decoder": "ffmpeg"}, {"fps": 0}, {"start_s": -1.0}, {"start_s": float("nan")}, {"timeout_s": 0}],
)
def test_bad_arguments_are_named(ok, options):
    (name, value), *_ = options.items()
    with pytest.raises(SettingsError, match=f"{name}={value!r}"):
        open_video(ok, **options)
