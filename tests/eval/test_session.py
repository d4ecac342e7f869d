"""The player: real files into the tiny model, forward only, every frame once, and what breaks stays told."""

import pytest
import torch

from stc_lmms.engine.api import Generation
from stc_lmms.errors import StcError, VideoError
from stc_lmms.eval import session as module
from stc_lmms.eval.session import Clip, Note, VideoSession
from stc_lmms.video import iter_frames, open_video
from tests import media
from tests.methods.streams import prompt_embeds

QUESTION, SHORT = "What is the man doing now?", Generation(max_new_tokens=4)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Folder with a.mp4 and b.mp4: 20 s at 5 fps each, so 10 sampled frames."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate("ab"):
        frames = media.moving_square_frames(100, seed=seed)
        media.encode_video(folder / f"{name}.mp4", frames, 5, codec_options={"preset": "ultrafast"})
    return folder


@pytest.fixture
def opened(monkeypatch):
    """(name, start_s) of every video opened."""
    calls = []

    def counting(path, **options):
        calls.append((str(path).rsplit("/", 1)[-1], options["start_s"]))
        return real(path, **options)

    real = module.open_video
    monkeypatch.setattr(module, "open_video", counting)
    return calls


@pytest.fixture
def player(load):
    player = VideoSession(load(method="stc", token_budget=9, prefill_frames=3))
    yield player
    player.close()


def ask(player, path, end_s=None, start_s=0.0):
    return player.ask(QUESTION, Clip(str(path), start_s, end_s), SHORT)


def by_hand(model, path, end_s=None, start_s=0.0):
    stream = model.open_stream()
    for time_s, frame in iter_frames(path, end_s=end_s, start_s=start_s, fps=model.settings.fps):
        stream.observe(frame[None], [time_s])
    return stream.ask(QUESTION, SHORT)


def test_forward_questions_decode_and_encode_every_frame_once(player, videos, opened):
    path = videos / "a.mp4"
    costs = [ask(player, path, end_s)[0].efficiency for end_s in (5, 5, 11, 20, None)]
    assert [cost.frames_encoded for cost in costs] == [3, 0, 3, 4, 0]
    assert [cost.frames_seen for cost in costs] == [3, 3, 6, 10, 10]
    assert opened == [("a.mp4", 0.0)]
    assert costs[0].decode_ms > 0 and costs[1].decode_ms == 0


@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 5.0), (0.0, 11.0), (0.0, None), (6.0, 15.0)])
def test_answers_are_those_of_observing_by_hand(player, videos, start_s, end_s):
    path = videos / "a.mp4"
    ask(player, path, start_s + 3, start_s)
    got, note = ask(player, path, end_s, start_s)
    expected = by_hand(player.model, path, end_s, start_s)
    assert got.token_ids == expected.token_ids and len(got.token_ids) == 4 and note == Note()
    assert got.efficiency.frames_seen == expected.efficiency.frames_seen
    assert got.efficiency.kv_bytes == expected.efficiency.kv_bytes


def test_the_model_sees_the_video(player, videos):
    """The comparisons of answers above and below can fail."""
    states = []
    for name, end_s in (("a", 5), ("a", 20), ("b", 20)):
        ask(player, videos / f"{name}.mp4", end_s)
        stream = player._stream
        with torch.no_grad():
            states.append(stream.memory.next_logits(prompt_embeds(stream, QUESTION)))
        player.close()
    assert not torch.allclose(states[0], states[1]) and not torch.allclose(states[1], states[2])


def test_going_back_another_start_and_another_video_open_a_new_stream(player, videos, opened):
    a, b = videos / "a.mp4", videos / "b.mp4"
    asked = [(a, 11, 0.0), (a, 5, 0.0), (a, 11, 4.0), (a, 13, 4.0), (b, 5, 0.0), (a, 5, 0.0), (a, None, 0.0)]
    seen = [ask(player, *clip)[0] for clip in asked]
    assert opened == [("a.mp4", 0), ("a.mp4", 0), ("a.mp4", 4), ("b.mp4", 0), ("a.mp4", 0)]
    assert [answer.efficiency.frames_seen for answer in seen] == [6, 3, 4, 5, 3, 3, 10]
    assert seen[1].token_ids == seen[5].token_ids
    assert player.restarts == 2  # back to 5 s, and a.mp4 again after b.mp4


def test_after_the_whole_file_a_question_inside_it_goes_back(player, videos, opened):
    answers = [ask(player, videos / "a.mp4", end_s)[0] for end_s in (None, 11)]
    assert len(opened) == 2 and answers[1].efficiency.frames_seen == 6
    assert player.restarts == 1


def test_a_broken_video_is_told_and_not_tried_again(player, videos, tmp_path, opened):
    broken = media.truncate(videos / "a.mp4", tmp_path / "broken.mp4", 0.3)
    errors = []
    for end_s in (5, 11, 3):
        with pytest.raises(VideoError, match=r"broken\.mp4") as caught:
            ask(player, broken, end_s)
        assert "\n" not in str(caught.value)
        errors.append(caught.value)
    assert opened == [("broken.mp4", 0.0)] and errors[0] is errors[2]
    assert ask(player, videos / "b.mp4", 5)[0].efficiency.frames_seen == 3


def test_a_missing_video_does_not_disturb_the_stream_of_another(player, videos):
    good = ask(player, videos / "a.mp4", 11)[0]
    with pytest.raises(VideoError, match="does not exist"):
        ask(player, videos / "gone.mp4", 5)
    assert ask(player, videos / "a.mp4", 11)[0].token_ids == good.token_ids


@pytest.mark.parametrize("name", ["a.mp4", "long_sound.mkv"])
def test_a_question_past_the_end_is_asked_at_the_end_and_noted(player, videos, tmp_path, name):
    path = videos / name
    if name != "a.mp4":  # the file claims the 30 s of its sound
        frames = media.moving_square_frames(100)
        path = media.encode_video(tmp_path / name, frames, 5, audio=30.0)
    at_end, quiet = ask(player, path, 20.5)
    past, note = ask(player, path, 50)
    assert past.token_ids == at_end.token_ids and past.efficiency.frames_seen == 10
    assert quiet == Note()
    assert note == Note("question past the video's end at 20.0 s: asked at its end", past_end=True)
    assert ask(player, path, 60)[1] == note  # one text for all of them
    assert ask(player, path)[1] == Note()  # the whole file, whatever its length


def cut(kind, videos, folder):
    """A part of a.mp4 that claims 20 s, and where it really ends in s."""
    frames = media.moving_square_frames(100)
    if kind == "cut.mkv":
        whole = media.encode_video(folder / "whole.mkv", frames, 5, audio=True)
        path = media.truncate(whole, folder / kind, 0.6)
    else:
        options = {"container_options": {"movflags": "faststart"}}
        whole = media.encode_video(folder / "whole.mp4", frames, 5, **options)
        if kind == "between.mp4":
            path = media.cut_after(whole, folder / kind, 61)
        elif kind == "torn.mp4":
            path = media.truncate(whole, folder / kind, 0.6)
        else:
            path = media.damage(whole, folder / kind, first=0.7, last=1.0)
    with open_video(path) as stream:
        list(stream.read())
        return path, stream.duration_s


@pytest.mark.parametrize("kind", ["torn.mp4", "between.mp4", "damaged.mp4", "cut.mkv"])
def test_a_question_past_the_end_of_a_cut_video_fails(player, videos, tmp_path, opened, kind):
    path, end_s = cut(kind, videos, tmp_path)
    assert 6 < end_s < 16
    inside, note = ask(player, path, end_s - 1)
    assert inside.token_ids and not note.past_end
    told = f"{path}: cut short: claims 20.0 s, delivers {end_s:.1f} s; download or convert it again"
    for past_s in (end_s + 2.5, 20, 50, None):
        with pytest.raises(VideoError) as caught:
            ask(player, path, past_s)
        assert str(caught.value) == told
    assert len(opened) == 1  # once it is known, it is not read again
    assert ask(player, path, end_s - 1)[0].token_ids == inside.token_ids
    assert ask(player, videos / "b.mp4", 5)[0].efficiency.frames_seen == 3


def test_what_the_decoder_says_is_noted(player, videos, tmp_path):
    _, note = ask(player, media.damage(videos / "a.mp4", tmp_path / "damaged.mp4"))
    assert "decoding with pyav from" in note.text and "\n" not in note.text
    assert "damaged.mp4" not in note.text  # whoever shows the note knows the video


def test_a_clip_without_frames_is_an_error_of_that_question_only(player, videos, opened):
    path = videos / "a.mp4"
    for _ in range(2):
        with pytest.raises(VideoError, match=r"a\.mp4: no frame between 0 s and 0 s"):
            ask(player, path, 0)
    assert ask(player, path, 5)[0].efficiency.frames_seen == 3
    assert opened == [("a.mp4", 0.0)]


def test_a_clip_behind_the_end_is_an_error_however_far_it_goes(player, videos, opened):
    for end_s, told in ((40, "40 s"), (60, "60 s"), (None, "its end")):
        with pytest.raises(VideoError, match=f"no frame between 30 s and {told}"):
            ask(player, videos / "a.mp4", end_s, start_s=30)
    assert opened == [("a.mp4", 30)]


def test_too_long_a_stream_fails_where_it_is_too_long(load, videos):
    player = VideoSession(load(method="none", max_frames=4))
    path = videos / "a.mp4"
    assert ask(player, path, 7)[0].efficiency.frames_seen == 4
    with pytest.raises(StcError, match="max_frames=4"):
        ask(player, path, 11)
    assert ask(player, path, 7)[0].efficiency.frames_seen == 4
    player.close()


def test_close_may_be_called_twice_and_the_player_goes_on(player, videos):
    first = ask(player, videos / "a.mp4", 5)[0]
    player.close()
    player.close()
    assert ask(player, videos / "a.mp4", 5)[0].token_ids == first.token_ids
