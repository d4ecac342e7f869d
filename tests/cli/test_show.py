"""`stc-lmms show` on the tiny checkpoint (12 x 12 patches, 6 x 6 tokens) and real videos."""

import av
import numpy as np
import pytest
from PIL import Image

from stc_lmms.cli.main import main
from stc_lmms.cli.overlay import DROPPED, GAP, GREEN, KEPT, MERGED, WIDTH
from stc_lmms.cli.watch import MERGED_TOKENS, NO_PATCHES, NO_TOKENS, watch
from stc_lmms.methods.stc_cacher import Trace
from tests import media
from tests.methods.streams import play


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "square.mp4"
    return media.encode_video(path, media.moving_square_frames(40), 2)  # 20 s: 10 frames at 0.5 fps


@pytest.fixture
def show(checkpoint, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*args, source=video, model_args="token_budget=9"):
        given = f"pretrained={checkpoint},device=cpu,{model_args}"
        return main(["show", str(source), "--model_args", given, *map(str, args)])

    return run


def watched(model, clip, count=6):
    frames, times = clip(count)
    return watch(model, zip(times, frames, strict=True))


def columns(picture, views, height):
    """The three panels [height,WIDTH,3] of every row, read from the bottom, where there are no notes."""
    step = height + 18 + GAP
    first = len(picture) - GAP - step * views
    for row in range(views):
        y = first + row * step
        yield [picture[y : y + height, GAP + i * (WIDTH + GAP) :][:, :WIDTH] for i in range(3)]


def test_the_picture_shows_what_stc_recomputes_and_keeps(show, tmp_path, capsys):
    assert show("--frames", 6) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("square.mp4, stc: cache_interval=4, update_ratio=0.25")
    assert out[1] == "     0 s: 144 of 144 patches recomputed, 9 of 36 tokens kept"
    assert out[2] == "     2 s: 36 of 144 patches recomputed, 9 of 36 tokens kept"
    assert out[5] == "     8 s: 144 of 144 patches recomputed, 9 of 36 tokens kept"
    assert out[7:] == ["written: show.png"]
    picture = np.asarray(Image.open(tmp_path / "show.png"))
    height = WIDTH * 64 // 96
    assert picture.shape[1] == 3 * WIDTH + 4 * GAP and len(picture) > 6 * height
    rows = list(columns(picture, 6, height))
    for time, (frame, recomputed, kept) in enumerate(rows):
        coloured = (np.ptp(recomputed.astype(int), axis=-1) > 20).mean()
        assert coloured == 1 if time % 4 == 0 else 0.2 < coloured < 0.75  # 36 of 144 in each of three blocks
        outlined = (kept == GREEN).all(-1).any() and (kept == frame).all(-1).mean()
        assert 0.15 < outlined < 0.25  # a quarter of the tokens, without their edges


def test_an_mp4_shows_one_frame_after_the_other(show, tmp_path):
    assert show("--frames", 3, "--output", "out.mp4", "--method", "none", model_args="fps=0.5") == 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 2
    assert len(frames) == 3 and frames[0].shape[1] == 3 * WIDTH + 4 * GAP
    assert np.abs(frames[1].astype(int) - frames[0]).max() > 60


def test_the_counts_are_those_of_the_stream(load, clip):
    model = load(method="stc", token_budget=9)
    views, notes = watched(model, clip)
    stream = play(model, *clip(6))
    assert [view.kept for view in views] == stream.kept == [9] * 6
    assert sum(view.recomputed for view in views) == stream.encoder.state.tokens_recomputed
    assert [view.time_s for view in views] == stream.times_s and not notes
    for view in views:
        assert view.share_RC.shape == (12, 12) and view.kept_RC.shape == (6, 6)
        assert view.share_RC.sum() == pytest.approx(view.recomputed)
        assert set(np.unique(view.share_RC * 3).round(4)) <= {0, 1, 2, 3}
        assert (view.kept_RC == KEPT).sum() == 9


def test_shares_are_those_of_the_whole_clip_at_once(load, clip):
    """Frame by frame, and 6 frames in one call of the cacher: the same tokens in every block."""
    model = load(method="stc_cacher")
    views, _ = watched(model, clip)
    trace, state = Trace(), model.method.tower.open_state()
    model.method.tower.encode(model.tower, model.pixels(clip(6)[0]), state, trace)
    assert trace.selective == [1, 2, 3, 5]
    for place, frame in enumerate(trace.selective):
        counts = np.bincount(np.concatenate([i[place].numpy() for i in trace.indices]), minlength=144)
        np.testing.assert_allclose(views[frame].share_RC.ravel(), counts / 3, rtol=1e-6)
    assert all((views[frame].share_RC == 1).all() for frame in (0, 4))


def test_kept_tokens_are_those_that_changed(load, clip):
    """`pixel_diff` keeps the token whose pixels changed: the picture marks that very place."""
    frames, _ = clip(1)
    frames = frames.repeat(2, axis=0)
    frames[1, 30:40, 0:13] = 255 - frames[1, 30:40, 0:13]  # row 3, column 0 of 6 x 6
    views, _ = watch(load(method="pixel_diff", token_budget=1), zip([0.0, 2.0], frames, strict=True))
    assert np.argwhere(views[1].kept_RC == KEPT).tolist() == [[3, 0]]


@pytest.mark.parametrize(
    ("args", "kept", "notes"),
    [
        ({"method": "none"}, [36] * 6, []),
        ({"method": "tome", "token_budget": 36}, [36] * 6, [NO_PATCHES, NO_TOKENS]),
        ({"method": "tome_oneshot", "token_budget": 9}, [9] * 6, [NO_TOKENS]),
        ({"method": "downsample", "token_budget": 9}, [9] * 6, [NO_PATCHES]),
        ({"method": "visionzip", "token_budget": 13, "mode": "full"}, [13] * 6, [MERGED_TOKENS]),
        ({"method": "vidcom2", "token_budget": 9, "mode": "original", "window": 4}, None, []),
        ({"method": "dycoke", "token_budget": 18}, [36, 12, 12, 12, 36, 12], []),
        ({"method": "uniform_frames", "token_budget": 12}, None, []),
    ],
    ids=lambda value: value.get("method") if isinstance(value, dict) else None,
)
def test_every_kind_of_method(load, clip, args, kept, notes):
    views, shown = watched(load(**args), clip)
    assert shown == notes and len(views) == 6
    assert kept is None or [view.kept for view in views] == kept
    for view in views:
        assert (view.share_RC is None) == (NO_PATCHES in notes)
        assert (view.kept_RC is None) == (NO_TOKENS in notes)
        if view.kept_RC is not None:
            assert (view.kept_RC != DROPPED).sum() == view.kept
    if MERGED_TOKENS in notes:
        assert [(view.kept_RC == MERGED).sum() for view in views] == [2] * 6  # 13 * 10 // 64


def test_frames_that_a_method_holds_back_are_shown(load, clip):
    """Six frames in windows of four: the last two come out as a question would see them."""
    model = load(method="vidcom2", token_budget=9, mode="original", window=4)
    views, _ = watched(model, clip)
    assert sum(view.kept for view in views[:4]) == 36 and sum(view.kept for view in views[4:]) == 18


def test_what_cannot_be_shown_is_message(show, capsys):
    assert show("--method", "tome", "--frames", 2, model_args="token_budget=36") == 0
    out = capsys.readouterr().out
    assert NO_PATCHES in out and NO_TOKENS in out


def test_the_demo_model_is_the_default(video, tmp_path, capsys):
    output = tmp_path / "demo.png"
    assert main(["show", str(video), "--frames", "2", "--output", str(output)]) == 0
    said = capsys.readouterr()
    assert "36 of 144 patches recomputed, 12 of 36 tokens kept" in said.out
    assert "trained on StreamWorld" in said.err and output.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--method", "stcc"], "unknown method 'stcc'; did you mean 'stc'?"),
        (["--output", "x.gif"], "--output x.gif must end in .png or .mp4"),
        (["--output", "no/such/x.png"], "there is no folder"),
        (["--frames", "0"], "--frames 0 must be at least 1"),
        (["--frames", "65"], "a .png has at most 64"),
        (["--model_args", "method=stc"], "give the method with --method"),
        (["--model_args", "fps"], "'fps' is not of the form name=value"),
        (["--model_args", "token_budget=500"], "the nearest that works is 36"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(video, tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    assert main(["show", str(video), *args]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stc-lmms: error: ") and message in line
    assert not list(tmp_path.iterdir())


def test_bad_videos_are_one_line(show, video, tmp_path, capsys):
    copy = tmp_path / "own.mp4"
    copy.write_bytes(video.read_bytes())
    assert show("--output", copy, source=copy) == 2
    assert "is the video itself" in capsys.readouterr().err
    assert copy.read_bytes() == video.read_bytes()
    assert show(source=tmp_path / "none.mp4") == 2
    assert "none.mp4 does not exist" in capsys.readouterr().err
    (tmp_path / "text.mp4").write_text("not a video")
    assert show(source=tmp_path / "text.mp4") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot decode" in line
