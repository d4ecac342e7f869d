"""Dispider as a streaming model, on tiny checkpoints in both released layouts."""

from functools import partial

import numpy as np
import pytest
import torch

from stc_lmms.engine.api import Generation
from stc_lmms.errors import StcError
from stc_lmms.eval.session import Clip as PlayerClip
from stc_lmms.eval.session import VideoSession
from stc_lmms.models.dispider.memory import ClipMemory
from stc_lmms.models.dispider.model import Dispider
from stc_lmms.models.dispider.prompt import clip_span, reaction_prompt, released_sampling, time_sentence
from stc_lmms.video.shared import SharedVideos
from tests.media import encode_video, moving_square_frames
from tests.models.dispider_helpers import LAYOUTS, fresh, play, scene, settings, states, undecided
from training.demo.dispider_checkpoint import build_dispider

QUESTION, SHORT = "What is shown?", Generation(6)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("dispider")
    return {layout: build_dispider(root / layout, layout=layout) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def base(folders):
    return Dispider(settings(folders["v1"], method="none"))


@pytest.fixture
def load(folders, base):
    """`load(**args)`: the same weights under other settings."""
    return lambda **args: base.with_settings(settings(folders["v1"], **args))


def near(got, wanted, tolerance=1e-5):
    return got.shape == wanted.shape and bool((got - wanted).abs().max() < tolerance)


def test_both_layouts_hold_the_same_model(folders, base):
    other = Dispider(settings(folders["v2"], method="none"))
    assert (base.spec.layout, other.spec.layout) == LAYOUTS
    assert base.spec.vision is None and other.spec.vision is not None  # shapes tell the same as the file
    streams = [play(model, *scene(9)) for model in (base, other)]
    assert torch.equal(*map(states, streams))
    answers = [stream.ask(QUESTION, SHORT) for stream in streams]
    assert answers[0].token_ids == answers[1].token_ids and len(answers[0].token_ids) == 6


@torch.no_grad()
def test_a_stream_equals_the_stock_modules_on_the_whole_video(base):
    frames, times = scene(24)
    stream = play(base, frames, times, chunk=5)
    net, parts = base.net, base.net.networks
    hidden = parts.vision(base.pixels(frames), output_hidden_states=True).hidden_states[-2][:, 1:]
    grid = hidden.view(24, 8, 8, -1)
    merged = torch.cat([grid[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=-1).flatten(1, 2)
    clips = ClipMemory()
    for at in range(0, 24, 4):
        tokens = merged[at : at + 4]
        rows = [tokens.flatten(0, 1), tokens.mean(1), tokens.mean((0, 1))[None]]  # one slot per frame
        ids = base.compact_tokenizer(f"This contains a clip sampled in {at} to {at + 4} seconds").input_ids
        text = parts.decision.embed_tokens(torch.tensor(ids))
        out = parts.decision(inputs_embeds=torch.cat((text, parts.pool(torch.cat(rows))))[None])
        clip = stream.clips[at // 4]
        assert near(clip.tokens_FRC, tokens) and (clip.start_s, clip.end_s) == (at, at + 4)
        assert near(clip.memory_MD, out.last_hidden_state[0, -5:-1])
        assert near(clip.indicator_D, out.last_hidden_state[0, -1])
        clips.append(clip)

    words = base.words(QUESTION)
    found = stream.retrieve(clips, words)
    assert len(found.clips) == 4 and list(found.clips) == sorted(set(found.clips))
    prompt = base.prompt(net.visual(clips, found.clips), QUESTION)
    ids = parts.reaction.generate(inputs_embeds=prompt[None], max_new_tokens=6, do_sample=False)
    answer = stream.ask(QUESTION, SHORT)
    assert list(answer.token_ids) == ids[0].tolist()
    assert answer.efficiency.context_tokens == len(prompt)
    before, after = reaction_prompt(QUESTION)
    text_tokens = sum(len(base.tokenizer(text).input_ids) for text in (before, after))
    assert (
        len(prompt) - text_tokens == 4 * (4 * 16 + 4) + 6
    )  # k clips of tokens and slots, one state per clip


@pytest.mark.parametrize("method", ["none", "stc_cacher"])
def test_pieces_of_any_size_give_the_same_clips(load, method):
    frames, times = scene(14)
    model = load(method=method)
    whole = play(model, frames, times)
    assert len(whole.clips) == 3 and whole.position_s == 13.0
    for chunk in (1, 3, 5):
        stream = play(model, frames, times, chunk)
        assert near(states(stream), states(whole), 1e-4)
        assert stream.ask(QUESTION, SHORT).token_ids == whole.ask(QUESTION, SHORT).token_ids
        assert stream.encoder.state is None or (
            stream.encoder.state.tokens_recomputed == whole.encoder.state.tokens_recomputed
        )


@pytest.mark.parametrize("method", ["none", "stc_cacher"])
def test_questions_along_a_pass_equal_prefixes(load, method):
    frames, times = scene(23)
    model = load(method=method)
    stream, at = model.open_stream(), 0
    for upto, question in ((2, "A?"), (8, "B?"), (15, "C?"), (23, "D?")):
        stream.observe(frames[at:upto], times[at:upto])
        at, alone = upto, play(model, frames[:upto], times[:upto])
        twice = [stream.ask(question, SHORT).token_ids for _ in range(2)]
        assert twice[0] == twice[1] == alone.ask(question, SHORT).token_ids
        assert stream.position_s == alone.position_s == upto - 1
    assert near(states(stream), states(play(model, frames, times)))


def test_streams_are_independent_and_start_anew(load):
    model = load()
    a, b = scene(8, seed=1), scene(8, seed=2)
    left, right = model.open_stream(), model.open_stream()
    for at in range(8):
        left.observe(a[0][at : at + 1], a[1][at : at + 1])
        right.observe(b[0][at : at + 1], b[1][at : at + 1])
    assert near(states(left), states(play(model, *a)), 1e-4)
    left.watch(QUESTION)
    left.reset()
    assert left.position_s == -float("inf") and not left.should_speak() and not left.clips
    left.observe(*b)
    assert near(states(left), states(right), 1e-4)


def test_full_ratio_and_interval_one_equal_dense(load):
    frames, times = scene(12)
    dense = states(play(load(method="none"), frames, times))
    for args in ({"update_ratio": 1.0}, {"cache_interval": 1}):
        assert near(states(play(load(**args), frames, times)), dense)
    assert not near(states(play(load(update_ratio=0.25), frames, times)), dense, 1e-2)


def test_a_still_video_equals_its_reference(load):
    frames, times = scene(8)
    frames[:] = frames[0]
    assert near(states(play(load(), frames, times)), states(play(load(method="none"), frames, times)))


def test_the_cacher_recomputes_a_quarter_of_the_tokens_class_token_included(load):
    """Counted where the work is done: rows that pass through the MLP of every tower layer used."""
    model, rows = load(cache_interval=4, update_ratio=0.25), []
    layers = [block.layer for block in model.tower.blocks]
    assert len(layers) == 2  # of 3: the last one leads nowhere
    hooks = [
        layer.mlp.fc1.register_forward_hook(lambda _, x, y: rows.append(y[..., 0].numel()))
        for layer in layers
    ]
    try:
        stream = play(model, *scene(12))
    finally:
        for hook in hooks:
            hook.remove()
    assert model.tower.num_tokens == 65
    expected = 3 * 65 + 9 * int(65 * 0.25)
    assert sum(rows) == 2 * expected
    assert stream.encoder.state.tokens_recomputed == expected and stream.encoder.state.tokens_seen == 12 * 65
    efficiency = stream.ask(QUESTION, SHORT).efficiency
    assert (efficiency.tower_tokens, efficiency.tower_tokens_recomputed) == (12 * 65, expected)
    assert stream.progress.recomputed == expected / (12 * 65)


def test_efficiency_counts_since_the_last_answer(load):
    frames, times = scene(10)
    model = load(method="none")
    stream = play(model, frames[:6], times[:6])
    first = stream.ask(QUESTION, SHORT).efficiency
    stream.observe(frames[6:], times[6:])
    second = stream.ask(QUESTION, SHORT).efficiency
    assert (first.frames_seen, first.frames_encoded) == (6, 6)
    assert (second.frames_seen, second.frames_encoded) == (10, 4)
    assert second.kv_bytes == 2 * first.kv_bytes and second.archive_bytes == 2 * first.archive_bytes
    assert first.llm_tokens_mean == first.llm_tokens_max == 16
    assert all(getattr(first, name) > 0 for name in ("preprocess_ms", "vit_ms", "prefill_ms", "ttft_ms"))


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_clips_take_what_they_are_predicted_to(load, count):
    model, step = load(frames_per_clip=1, method="none"), count // 10
    frames, times = scene(count)
    stream, sizes = model.open_stream(), []
    for at in range(0, count, step):
        stream.observe(frames[at : at + step], times[at : at + step])
        sizes.append((stream.clips.archive_nbytes, stream.clips.nbytes, stream.nbytes))
    tokens = 16 * 4 * 64 * 4  # R tokens of 4 tower widths in float32
    slots = (1 + 1) * 32 * 4  # one memory state and the indicator
    assert sizes == [(step * n * tokens, step * n * slots, step * n * slots) for n in range(1, 11)]
    held = {x.untyped_storage().nbytes() for c in stream.clips for x in (c.memory_MD, c.indicator_D)}
    assert held == {32 * 4}  # nothing larger is kept alive behind a view
    answer = stream.ask(QUESTION, SHORT)
    assert answer.efficiency.archive_bytes == count * tokens and len(answer.token_ids) == 6


def test_offline_retrieval_keeps_what_is_similar_enough(load):
    frames, times = scene(40)
    stream = play(load(method="none", retrieval="offline"), frames, times)
    found = stream.retrieve(stream.clips, stream.model.words(QUESTION))
    query = stream.model.net.offline_query(stream.clips, stream.model.words(QUESTION))
    similar = torch.nn.functional.cosine_similarity(stream.clips.indicators_ND, query[None])
    count = min(max(4, int((similar > 0.2).sum())), 28)
    assert list(found.clips) == sorted(similar.argsort(descending=True)[:count].tolist())
    assert torch.allclose(found.weights_N, (similar / 0.1).softmax(0))


def test_a_question_is_searched_by_what_the_task_says(load, monkeypatch):
    frames, times = scene(40)
    stream = play(load(method="none"), frames, times)
    asked, retrieve = [], stream.retrieve
    monkeypatch.setattr(stream, "retrieve", lambda *args: (asked.append(args[1]), retrieve(*args))[1])
    stream.ask("Q? A. yes B. no", SHORT, search="Q?")
    stream.ask("Q? A. yes B. no", SHORT)
    for found, searched in zip(asked, ("Q?", "Q? A. yes B. no"), strict=True):
        wanted = stream.model.words(searched)
        assert all(torch.equal(got, want) for got, want in zip(found, wanted, strict=True))


def test_the_prompt_has_markers_and_an_opening_where_they_are_asked_for():
    before, after = reaction_prompt("Q?", "The best answer is:", image_markers=True)
    assert before.endswith("USER: <im_start>")
    assert after == "<im_end>\nQ? ASSISTANT: The best answer is:"


def test_decisions_follow_the_released_trigger_loop(folders):
    """The loop of the release, clip by clip on the finished clips; several decisions of either kind."""
    frames, times = scene(32)
    model = fresh(folders["v1"])
    undecided(model, frames, times, QUESTION)
    stream, told = model.open_stream(), []
    stream.watch(QUESTION, told.append)
    stream.observe(frames, times)
    net, words, answered = model.net, model.words(QUESTION), []
    for count, decision in enumerate(stream.decisions, 1):
        clips = ClipMemory(stream.clips[:count])
        with torch.no_grad():
            logit = net.logit(net.query(clips, words, 0, answered))
        assert decision.logit == pytest.approx(logit, abs=1e-5) and decision.time_s == 4 * count - 1
        if logit > 0:
            answered.append(count)
    assert told == stream.decisions and len(told) == 8 and 0 < len(answered) < 8
    one_by_one = model.open_stream()
    one_by_one.watch(QUESTION)
    spoke = []
    for at in range(32):
        one_by_one.observe(frames[at : at + 1], times[at : at + 1])
        if one_by_one.should_speak():
            spoke.append(len(one_by_one.clips))
            assert not one_by_one.speak(SHORT).efficiency.frames_seen % 4
            assert not one_by_one.should_speak()
    assert spoke == answered


def test_speaking_later_does_not_count_its_own_decision_as_an_answer(base, monkeypatch):
    frames, times = scene(13)
    monkeypatch.setattr(base.net, "logit", lambda query: 1.0)  # wants to answer after every clip
    stream, told = base.open_stream(), []
    retrieve = stream.retrieve
    monkeypatch.setattr(stream, "retrieve", lambda *args: (told.append([*args[3]]), retrieve(*args))[1])
    stream.watch(QUESTION)
    for at in range(13):
        stream.observe(frames[at : at + 1], times[at : at + 1])
        if at in (4, 8, 12):  # a frame behind the decision
            stream.speak(SHORT)
    assert told == [[], [1], [1, 2]]
    stream.speak(SHORT)  # nothing is pending: the last one counts, too
    assert told[-1] == [1, 2, 3]


def test_speaking_in_the_callback_sees_the_frames_of_its_moment(folders):
    frames, times = scene(32)
    model = fresh(folders["v1"])
    undecided(model, frames, times, QUESTION)
    stream, said = model.open_stream(), []
    stream.watch(QUESTION, lambda d: d.speaks and said.append((d.time_s, stream.speak(SHORT))))
    stream.observe(frames, times)
    assert said
    earlier = []
    for time_s, answer in said:
        count = int(time_s + 1)
        assert answer.efficiency.frames_seen == count
        alone = play(model, frames[:count], times[:count])
        words = model.words(QUESTION)
        known = partial(alone.retrieved_question, QUESTION, SHORT, words, 0, earlier)  # earlier answers
        again = alone.answer(known, SHORT)
        assert again.token_ids == answer.token_ids
        earlier.append(count // 4)
    assert states(stream).equal(states(play(model, frames, times)))


def test_a_poll_tells_whether_a_decision_since_the_last_one_was_to_answer(folders):
    frames, times = scene(32)
    model = fresh(folders["v1"])
    undecided(model, frames, times, QUESTION)
    stream, polled = model.open_stream(), []
    stream.watch(QUESTION)
    for at in range(0, 32, 2):
        stream.observe(frames[at : at + 2], times[at : at + 2])
        polled.append(stream.poll())
        assert polled[-1].efficiency.frames_encoded == 2
    said = [answer.text == "Yes" for answer in polled]
    assert said[1::2] == [decision.speaks for decision in stream.decisions]  # two polls a clip
    assert not any(said[::2])
    assert {answer.text for answer in polled} == {"Yes", "No"}


def test_times_count_from_the_first_frame_of_the_stream(load):
    frames, times = scene(9)
    model = load(method="none")
    later = play(model, frames, [time_s + 600 for time_s in times])
    assert later.position_s == 608 and later.clips[1].start_s == 4
    assert states(later).equal(states(play(model, frames, times)))


def test_the_released_grid_spreads_whole_clips_over_what_a_question_sees(load, tmp_path):
    video = encode_video(tmp_path / "v.mp4", moving_square_frames(170), 5)  # 34 s
    model = load(method="none", grid="released", frames_per_clip=4)
    player = VideoSession(model)
    for count, end_s in ((170, None), (90, 18.0)):
        player.ask(QUESTION, PlayerClip(str(video), 0.0, end_s), SHORT)
        spans = [(clip.start_s, clip.end_s) for clip in player._stream.clips]
        wanted = released_sampling(count, 5.0, None, 4)
        assert len(spans) == len(wanted) // 4 == {170: 8, 90: 4}[count]  # halves to even, as released
        # a clip ends when its last frame does
        ends = [(wanted[i] / 5, (wanted[i + 3] + 1) / 5) for i in range(0, len(wanted), 4)]
        assert np.allclose(spans, ends, atol=1e-6)
    assert player.restarts == 1  # every question reads its clip from the start
    player.close()


def test_the_released_grid_gives_a_frame_again_where_a_slow_video_has_no_other(load, tmp_path):
    video = encode_video(tmp_path / "v.mp4", moving_square_frames(12), 1)
    model = load(method="none", grid="released", frames_per_clip=16)
    videos = SharedVideos()
    whole, part = released_sampling(12, 1.0, None, 16), released_sampling(9, 1.0, None, 16)
    for start_s, wanted in ((0.0, whole), (3.0, part)):
        assert len(set(wanted)) < len(wanted) == 16
        for _ in range(2):  # decoded, then replayed
            player = VideoSession(model, videos.open)
            player.ask(QUESTION, PlayerClip(str(video), start_s), SHORT)
            (clip,) = player._stream.clips
            assert (clip.start_s, clip.end_s) == (0, wanted[-1] + 1)
            player.close()


def test_halves_are_rounded_as_released_in_spite_of_rounded_time_stamps():
    # frames 14 and 44 at 30 fps end at 0.5 s and 1.5 s
    assert time_sentence(*clip_span([0.0, round(14 / 30, 6)], 1 / 30)).endswith("in 0 to 0 seconds")
    assert time_sentence(*clip_span([0.0, round(44 / 30, 6)], 1 / 30)).endswith("in 0 to 2 seconds")


def test_a_player_polls_each_question_on_a_stream_of_its_own(folders, tmp_path):
    video = encode_video(tmp_path / "v.mp4", moving_square_frames(60), 5)  # 12 s
    player = VideoSession(fresh(folders["v1"], method="none"))  # its random head always wants to answer
    polled = {}
    for question in ("A?", "B?"):
        for end_s in range(3, 12):
            answer, _ = player.poll(question, PlayerClip(str(video), 2.0, float(end_s)))
            polled.setdefault(question, []).append(answer.text)
    # Clips of 4 frames from 2 s on: complete when the frames at 5 s and at 9 s have come.
    assert polled["A?"] == polled["B?"] == ["No"] * 3 + ["Yes"] + ["No"] * 3 + ["Yes", "No"]
    assert player.restarts == 1
    player.close()


def test_more_memory_than_the_compact_model_was_made_for_is_told_once(folders, caplog):
    model = fresh(folders["v1"], method="none")
    model.spec.decision.max_position_embeddings = 10
    play(model, *scene(20))
    (told,) = [record.getMessage() for record in caplog.records if "memory states" in record.message]
    assert told.startswith("3 clips have 12 memory states, more than the 10 tokens")


def test_watching_from_the_middle_begins_with_a_summary(load):
    frames, times = scene(16)
    model = load(method="none")
    stream = play(model, frames[:8], times[:8])
    stream.watch(QUESTION)
    stream.observe(frames[8:], times[8:])
    first = stream.decisions[0]
    query = model.net.query(ClipMemory(stream.clips[:3]), model.words(QUESTION), asked_at=2)
    assert first.time_s == 11 and first.logit == pytest.approx(model.net.logit(query), abs=1e-5)
    assert len(stream.decisions) == 2


def test_what_cannot_be_done_is_told_in_one_line(load):
    stream = load(max_frames=3).open_stream()
    for action in (lambda: stream.ask(QUESTION), stream.speak, stream.poll):
        with pytest.raises(StcError) as caught:
            action()
        assert "\n" not in str(caught.value)
    with pytest.raises(StcError, match="max_frames=3"):
        stream.observe(*scene(4))
    frames, times = scene(2)
    stream.observe(frames, times)
    with pytest.raises(ValueError, match="only goes forward"):
        stream.observe(frames, times)


def test_leaving_the_training_distribution_is_told(load, caplog):
    assert load(frames_per_clip=16).describe()["off_distribution"] == []
    caplog.clear()
    told = load(fps=0.5, frames_per_clip=16).describe()["off_distribution"]
    assert told == ["fps=0.5: Dispider was trained at about 1 fps"] and told[0] in caplog.text
    assert "frames_per_clip=4" in load().describe()["off_distribution"][0]
