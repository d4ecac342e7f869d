"""LiveCC's commentary, on a tiny checkpoint, real videos and the real commands."""

import json

import pytest
import torch

from stc_lmms.cli.main import main
from stc_lmms.engine.api import Comment, Generation
from stc_lmms.errors import SettingsError, StcError
from stc_lmms.eval.session import Clip, VideoSession
from stc_lmms.models.livecc.config import clip_indices, clip_slice_tokens
from stc_lmms.models.livecc.prompt import caption, spoken
from stc_lmms.models.registry import model as registered
from stc_lmms.settings import resolve
from tests.fake_cuda import FakeCuda
from tests.media import encode_video, moving_square_frames
from tests.models.qwen_checkpoint import SMALL
from tests.models.test_qwen_vl import message

NONE = {"method": "none", "repetition_penalty": 1.0}


def commented(model, frames, times, pieces=None, **options):
    commentary = model.open_commentary(max_new_tokens=5, **options)
    step = pieces or len(frames)
    for start in range(0, len(frames), step):
        commentary.observe(frames[start : start + step], times[start : start + step])
    return commentary


@pytest.fixture
def clip_2fps(clip):
    frames, _ = clip(13)
    return frames, [k / 2 for k in range(13)]


@pytest.mark.parametrize("positions", ["livecc", "mrope"])
@pytest.mark.parametrize("method", [NONE, {"method": "stc", "token_budget": 4, "cache_interval": 2}])
def test_three_seconds_and_then_one_by_one(load_qwen, clip_2fps, positions, method):
    model = load_qwen("livecc", positions=positions, **method)
    whole = commented(model, *clip_2fps)
    assert [(c.start_s, c.end_s) for c in whole.comments] == [(0, 3), (3, 4), (4, 5), (5, 6)]
    for pieces in (1, 5):
        assert commented(model, *clip_2fps, pieces).comments == whole.comments
    short = commented(model, clip_2fps[0][:5], clip_2fps[1][:5])
    assert short.comments == []


def test_steps_of_which_frames_are_missing_end_with_their_time(load_qwen, clip_2fps):
    frames, times = clip_2fps
    gone = (2, 6, 7, 9)  # at 1 s, all of 3 to 4 s, and 4.5 s
    left = [k for k in range(13) if k not in gone]
    comments = commented(load_qwen("livecc", **NONE), frames[left], [times[k] for k in left], 2).comments
    assert [(c.start_s, c.end_s) for c in comments] == [(0, 3), (4, 5), (5, 6)]


def test_max_frames_holds_for_a_commentary_too(load_qwen, clip_2fps):
    frames, times = clip_2fps
    model = load_qwen("livecc", max_frames=8, **NONE)
    assert len(commented(model, frames[:8], times[:8], 3).comments) == 2
    for pieces in (13, 2):
        assert "longer than max_frames=8; raise it" in message(
            StcError, commented, model, frames, times, pieces
        )


def test_steps_are_one_prefill_of_the_stock_model(load_qwen, clip_2fps):
    frames, times = clip_2fps
    model = load_qwen("livecc", positions="mrope", **NONE)
    commentary = model.open_commentary("What is going on?", max_new_tokens=4)
    ids, places, rows, last = [], [], [], []
    for step, (first, stop) in enumerate(((0, 6), (6, 8), (8, 10))):
        label = f"Time={first / 2:.1f}-{stop / 2:.1f}s"
        before, behind = (model.ids(text) for text in commentary.prompt(label))
        assert ("What is going on?" in commentary.prompt(label)[1]) == (step == 0)
        pairs = commentary.encoder.observe(frames[first:stop], times[first:stop])
        trace = []
        decoded = commentary.advance(before, pairs, behind, trace)
        fed = [*decoded.token_ids] if decoded.end_id is not None else [*decoded.token_ids[:-1]]
        ids += [*before, *[model.video_id] * (12 * len(pairs)), *behind]
        rows.append(model.patches(commentary.encoder.resize(frames[first:stop])))
        for part, length in ((before, None), (None, len(pairs)), (behind, None)):
            at = max(map(max, places)) + 1 if places else 0
            if part is None:
                places += [
                    (at + t, at + i, at + j) for t in range(length) for i in range(3) for j in range(4)
                ]
            else:
                places += [(at + n,) * 3 for n in range(len(part))]
        last.append((len(ids), trace[0]))
        at = max(places[-1]) + 1
        ids, places = ids + fed, places + [(at + n,) * 3 for n in range(len(fed))]
    with torch.no_grad():
        logits = model.model(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            pixel_values_videos=torch.cat([patches.rows_PC for patches in rows]),
            video_grid_thw=torch.tensor([patches.grid_thw[0] for patches in rows]),
            position_ids=torch.tensor(places).T[:, None],
            use_cache=False,
        ).logits[0]
    for length, first in last:
        assert (logits[length - 1] - first).abs().max() < 2e-5
    assert commentary.memory.length == len(ids)


def test_every_further_step_ends_the_turn_before(load_qwen):
    commentary = load_qwen("livecc", **NONE).open_commentary("Go on.")
    before, behind = commentary.prompt("Time=0.0-3.0s")
    assert before.startswith("<|im_start|>system\n") and before.endswith("Time=0.0-3.0s<|vision_start|>")
    assert behind == "<|vision_end|>Go on.<|im_end|>\n<|im_start|>assistant\n"
    commentary.steps = 1
    before, behind = commentary.prompt("Time=3.0-4.0s")
    assert before == "<|im_end|>\n<|im_start|>user\nTime=3.0-4.0s<|vision_start|>"
    assert behind == "<|vision_end|><|im_end|>\n<|im_start|>assistant\n"


def test_a_question_is_another_turn_and_leaves_no_trace(load_qwen, clip_2fps):
    frames, times = clip_2fps
    model = load_qwen("livecc", **NONE)
    asked, plain = model.open_commentary(max_new_tokens=5), commented(model, *clip_2fps)
    before = asked.ask("Who?", Generation(3))
    assert before.efficiency.context_tokens == len(model.ids(asked.question_text("Who?")))
    for start in (0, 4, 8, 12):
        asked.observe(frames[start : start + 4], times[start : start + 4])
        asked.ask("Who?", Generation(3))
    assert asked.comments == plain.comments and asked.memory.length == plain.memory.length
    answers = [stream.ask("And now?", Generation(3)) for stream in (asked, plain)]
    assert answers[0].token_ids == answers[1].token_ids
    turn = len(model.ids("<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"))
    assert answers[1].efficiency.context_tokens == plain.memory.length + turn
    assert answers[1].efficiency.frames_seen == 13


def test_pauses_are_cut_off_and_silence_is_empty():
    said = [spoken(text) for text in ("He runs ...", " ...", "and shoots", " scores!")]
    assert said == [("He runs", True), ("", True), ("and shoots", False), ("scores!", False)]
    comments = [Comment(0.0, 1.0, *one, ()) for one in said]
    assert caption(comments) == "He runs and shoots scores!..."
    assert caption(comments[1:2]) == caption([]) == ""
    assert comments[1].to_dict() == {"start_s": 0.0, "end_s": 1.0, "text": "", "goes_on": True}


def test_silence_is_ruled_out_where_it_is_not_likely_enough(load_qwen):
    score = torch.zeros(300)
    model = load_qwen("livecc", silence_base=0.1, silence_step=0.2, **NONE)
    pause = model.ids(" ...")[-1]
    score[pause] = 5.0  # probability 0.33
    commentary = model.open_commentary()
    for number, ruled_out in ((0, False), (1, False), (2, True)):
        found = commentary.rule_out_silence(score, number)
        assert (found[pause] == -torch.inf) == ruled_out
        assert (found != score).sum() == int(ruled_out)
    never = load_qwen("livecc", **NONE).open_commentary()
    assert torch.equal(never.rule_out_silence(score, 9), score)
    gpu = FakeCuda()
    on_gpu = gpu.tensor(score)
    with gpu:
        commentary.rule_out_silence(on_gpu, 0)
    assert not gpu.waits and not gpu.copies


def test_what_cannot_comment_is_told_in_one_line(load_qwen):
    for name, args, words in (
        ("livecc", {"fps": 0.5}, "fps=0.5 does not fit a commentary"),
        ("livecc", {"fps": 3}, "fps must be even"),
        ("livecc", {"grid": "released"}, "grid=released reads whole clips"),
        ("livecc", {"memory": "recent"}, "memory=recent does not fit a commentary"),
        ("livecc", {"method": "dycoke", "memory": "recent"}, "memory=recent"),
        ("livecc", {"method": "vidcom2", "mode": "original"}, "holds frames back"),
        ("qwen2_vl", {}, "'qwen2_vl' does not comment; use --model livecc"),
    ):
        check = registered(name).load_class().check_commentary
        assert words in message(SettingsError, check, resolve(args, {}, name))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """6 s."""
    return encode_video(tmp_path_factory.mktemp("livecc") / "v.mp4", moving_square_frames(36, 64, 80), fps=6)


def arguments(folder, **args):
    args = {"pretrained": folder, "dtype": "float32"} | SMALL | args
    return ",".join(f"{name}={value}" for name, value in args.items())


def test_stream_comment_prints_as_the_video_goes_on(qwen_checkpoint, video, capsys):
    given = ["--model_args", arguments(qwen_checkpoint("qwen2_vl"), device="cpu", token_budget=4)]
    given += ["--max-new-tokens", "4"]
    assert main(["stream", str(video), "--model", "livecc", "--comment", *given, "--json"]) == 0
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [(c["start_s"], c["end_s"]) for c in found] == [(0, 3), (3, 4), (4, 5), (5, 6)]
    assert "4 steps" in err and "0 frames dropped" in err
    assert main(["stream", str(video), "--model", "livecc", "--comment", "Say it.", *given]) == 0
    assert capsys.readouterr().out.startswith("[0.0-3.0 s] ")
    assert main(["stream", str(video), "--comment"]) == 2
    assert "model 'llava_ov' does not comment" in capsys.readouterr().err
    assert main(["stream", str(video), "--model", "livecc", "--comment", "--every", "2"]) == 2
    assert "--comment cannot be combined" in capsys.readouterr().err


@pytest.mark.parametrize("rate", [25, 15, 5, 1])
def test_steps_are_seconds_whatever_the_rate_of_the_video(qwen_checkpoint, tmp_path, capsys, rate):
    video = encode_video(tmp_path / "v.mp4", moving_square_frames(6 * rate, 64, 80), fps=rate)
    given = ["--model_args", arguments(qwen_checkpoint("qwen2_vl"), device="cpu", method="none"), "--json"]
    given += ["--max-new-tokens", "2"]
    assert main(["stream", str(video), "--model", "livecc", "--comment", *given]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(c["start_s"], c["end_s"]) for c in found] == [(0, 3), (3, 4), (4, 5), (5, 6)]


def test_the_released_grid_reads_whole_clips_as_livecc_does():
    assert [clip_slice_tokens(n) for n in (4, 64, 128, 480)] == [768, 768, 384, 105]
    found = clip_indices(18000, 30.0)  # 10 min
    assert (len(found), found[0], found[-1]) == (480, 0, 17999)
    assert clip_indices(300, 30.0, (2.0, 5.0)) == [60, 78, 96, 113, 131, 149]
    assert clip_indices(4, 1.0) == [0, 0, 1, 1, 2, 2, 3, 3]  # slower than 2 fps: frames come again
    assert clip_indices(3, 30.0) == [0, 2]
    assert clip_indices(300, 30.0, (10.0, 12.0)) == []
    assert len(clip_indices(18000, 30.0, None, 100)) == 100


def test_the_released_grid_spreads_over_what_a_question_sees(load_qwen, tmp_path, monkeypatch):
    video = encode_video(tmp_path / "v.mp4", moving_square_frames(48, 64, 80), fps=8)
    model = load_qwen("livecc", grid="released", answer="choices", **NONE)
    player = VideoSession(model)
    for end_s, frames in ((None, 12), (3.0, 6)):
        player.ask("Yes?", Clip(str(video), 0.0, end_s), Generation(1))
        stream = player._stream
        wanted = clip_indices(48, 8.0, end_s and (0.0, end_s))
        assert stream.times_s == [index / 8 for index in wanted] and len(wanted) == frames
        assert stream.kept == [80] * (frames // 2)  # 8 x 10: neither slice_tokens nor the limit of 768
    monkeypatch.setattr("stc_lmms.models.livecc.model.clip_slice_tokens", lambda frames: frames * 5)
    player.ask("Yes?", Clip(str(video), 0.0, 2.0), Generation(1))
    assert player._stream.kept == [20, 20]  # 4 x 5, of at most 20
    player.close()


def test_stream_asks_any_of_them(qwen_checkpoint, video, capsys):
    given = ["--model_args", arguments(qwen_checkpoint("qwen2_5_vl"), device="cpu", method="none")]
    given += ["--max-new-tokens", "4"]
    assert main(["stream", str(video), "--model", "qwen2_5_vl", "--ask", "Who?", "--at", "2,5", *given]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("[2 s] Who?") and "[5 s] Who?" in out and "12 frames" in err


def test_the_static_card_prints_what_the_tower_saves(capsys):
    assert main(["bench", "--model", "livecc"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {row["patches"]: row["saving"] for row in json.loads(lines[-1])["rows"]}
    # the reference's table, to its rounding
    wanted = {420: (0.339, 0.508), 1536: (0.343, 0.515), 3072: (0.348, 0.522)}
    for patches, saved in wanted.items():
        assert list(rows[patches].values()) == pytest.approx(saved, abs=6e-4)
    assert main(["bench", "--model", "livecc", "--method", "none"]) == 2
    assert "saves nothing in the tower" in capsys.readouterr().err
    assert main(["bench", "--model", "qwen3_vl"]) == 2
    assert "no latency card yet (valid: dispider, livecc, llava_ov, qwen2_vl, str" in capsys.readouterr().err
    for option, value in (("--frames", "4"), ("--selection", "shared"), ("--budget", "9"), ("--layers", "2")):
        assert main(["bench", "--model", "livecc", option, value]) == 2
        assert f"is static, of one slice: nothing is loaded or measured; leave out {option}" in (
            capsys.readouterr().err
        )
