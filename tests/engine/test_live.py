"""Live sources and anytime answering: real videos through the real decoder process and command."""

import json
import os
import socket
import sys
import threading
import time

import pytest

from stc_lmms.cli.main import main
from stc_lmms.engine import live
from stc_lmms.engine.api import Generation
from stc_lmms.engine.live import Schedule, Status, play
from stc_lmms.errors import SettingsError, VideoError
from stc_lmms.eval.session import Clip, VideoSession
from stc_lmms.video import process
from stc_lmms.video.decode import iter_frames
from stc_lmms.video.live import LiveSource
from tests.media import encode_video, moving_square_frames, numbered_frames, read_number
from tests.video.clock import Clock

SHORT = Generation(max_new_tokens=4)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """20 s at 5 fps, in a container that can be read without knowing its end."""
    return encode_video(tmp_path_factory.mktemp("live") / "v.mkv", numbered_frames(100), fps=5)


def taken(source, at_most=1000):
    return [frame for frames in source.waiting(at_most) for frame in frames]


def drip(path, data, pieces, pause_s, finished=None):
    """Write the data piece by piece in a thread, as a recorder does, and create the file `finished`."""

    def write():
        step = len(data) // pieces + 1
        with open(path, "wb", buffering=0) as file:
            for start in range(0, len(data), step):
                file.write(data[start : start + step])
                time.sleep(pause_s)
            if finished is not None:
                finished.touch()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def test_a_file_gives_the_frames_of_the_batch_reader(video):
    wanted = list(iter_frames(video, fps=0.5))
    with LiveSource(str(video)) as source:
        got = taken(source)
    assert [t for t, _ in got] == [t for t, _ in wanted] == [2.0 * k for k in range(10)]
    assert [read_number(f) for _, f in got] == [read_number(f) for _, f in wanted]
    assert source.failure is None and source.n_dropped == 0


def test_a_pipe_gives_the_same_frames(video, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    drip(pipe, video.read_bytes(), 5, 0.05)
    with LiveSource(str(pipe)) as source:
        got = taken(source)
    assert [read_number(f) for _, f in got] == [10 * k for k in range(10)]


def test_a_network_stream_gives_the_same_frames(video):
    """A sender on this machine that writes the video piece by piece, as a camera's encoder does."""
    data = video.read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send():
            connection, _ = server.accept()
            with connection:
                for start in range(0, len(data), 4096):
                    connection.sendall(data[start : start + 4096])
                    time.sleep(0.01)

        threading.Thread(target=send, daemon=True).start()
        with LiveSource(f"tcp://127.0.0.1:{server.getsockname()[1]}", stall_s=500) as source:
            got = taken(source)
    assert [read_number(f) for _, f in got] == [10 * k for k in range(10)] and source.failure is None


# A worker whose patience with a growing file passes at once, but only when the file in argv[1] is there.
PATIENT = """
import pathlib, sys, time, types
from stc_lmms.video import live_input, worker
finished, now = pathlib.Path(sys.argv.pop(1)), [0.0]
def sleep(seconds):
    time.sleep(seconds)
    now[0] += 1000 * finished.exists()
live_input.time = types.SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
worker.main()
"""


def test_a_file_that_grows_is_followed_until_it_stops(video, tmp_path, monkeypatch):
    growing, finished = tmp_path / "growing.mkv", tmp_path / "finished"
    growing.touch()
    command = [sys.executable, "-c", PATIENT, str(finished)]
    monkeypatch.setattr(process, "worker_command", lambda backend: command)
    drip(growing, video.read_bytes(), 8, 0.15, finished)
    with LiveSource(str(growing), follow=True, stall_s=500) as source:
        got = taken(source)
    assert [read_number(f) for _, f in got] == [10 * k for k in range(10)]
    assert source.failure is None


def test_a_source_that_stalls_breaks_off_and_keeps_what_came(video, tmp_path, monkeypatch):
    pipe, clock = tmp_path / "pipe", Clock(hung=tmp_path / "hung")
    monkeypatch.setattr(process, "time", clock)
    monkeypatch.setattr(process, "select", clock)
    os.mkfifo(pipe)
    half = video.read_bytes()[: video.stat().st_size // 2]
    drip(pipe, half, 1, 600.0)
    with LiveSource(str(pipe), stall_s=5.0) as source:
        got = next(source.waiting(1))
        clock.hung.touch()  # what comes before the parent sees this is still read
        got += taken(source)
    assert 0 < len(got) < 10
    assert f"{pipe} broke off: the decoder made no progress for 5 s" in str(source.failure)


def received(source, count):
    """Wait until the source has sent `count` frames that nobody has taken."""
    while source.longest_backlog + source.n_dropped < count:
        time.sleep(0.01)


@pytest.mark.parametrize("backlog", ["queue", "drop"])
def test_backlog_policies_count(video, backlog):
    with LiveSource(str(video), fps=5, backlog=backlog) as source:
        received(source, 100)
        got = taken(source)
    if backlog == "queue":
        assert len(got) == source.longest_backlog == 100 and source.n_dropped == 0
    else:
        assert [read_number(f) for _, f in got] == [99]
        assert source.n_dropped == 99 and source.longest_backlog == 1


def test_realtime_is_no_faster_than_the_video(tmp_path):
    short = encode_video(tmp_path / "s.mp4", numbered_frames(10), fps=10)
    start = time.monotonic()
    with LiveSource(str(short), fps=5, realtime=True) as source:
        assert len(taken(source)) == 5
    assert time.monotonic() - start >= 0.8


@pytest.mark.parametrize("method", ["none", "stc"])
def test_answers_along_the_way_are_those_of_the_prefixes(load, video, method):
    model = load(method=method, **({} if method == "none" else {"token_budget": 9}))
    schedule = Schedule(("What is shown?",), at_s=(5.0, 20.0, 9.0))
    with LiveSource(str(video)) as source:
        events = list(play(model, source, schedule, SHORT))
    told = [event for event in events if not isinstance(event, Status)]
    assert [event.time_s for event in told] == [5.0, 9.0, 20.0]
    for event in told:
        player = VideoSession(model)
        alone = player.ask("What is shown?", Clip(str(video), 0.0, event.time_s), SHORT)[0]
        player.close()
        assert event.answer.token_ids == alone.token_ids
        assert event.answer.efficiency.frames_seen == alone.efficiency.frames_seen
    last = [event for event in events if isinstance(event, Status)][-1]
    assert last.progress.frames == 10 and last.nbytes > 0 and last.time_s == 18.0
    assert (last.progress.recomputed == 1) == (method == "none")


def test_schedules():
    assert list(Schedule(("a", "b"))) == [(float("inf"), "a"), (float("inf"), "b")]
    assert list(Schedule(("a", "b"), at_s=(9, 3))) == [(3, "a"), (3, "b"), (9, "a"), (9, "b")]
    every = iter(Schedule(("a",), every_s=2.5))
    assert [next(every)[0] for _ in range(3)] == [2.5, 5.0, 7.5]
    for wrong in ({"every_s": 0}, {"every_s": float("nan")}, {"at_s": (0,)}, {"every_s": 1, "at_s": (1,)}):
        with pytest.raises(SettingsError):
            Schedule(("a",), **wrong)


@pytest.fixture
def stream(checkpoint, capsys):
    def run(source, *options):
        model_args = f"pretrained={checkpoint},device=cpu,token_budget=9"
        args = ["stream", str(source), "--ask", "What?", "--model_args", model_args, "--max-new-tokens", "3"]
        code = main([*args, *map(str, options)])
        out = capsys.readouterr()
        return code, out.out, [line for line in out.err.splitlines() if "Loading" not in line]

    return run


def test_the_command_answers_and_sums_up(stream, video):
    code, out, err = stream(video, "--every", 8, "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [a["time_s"] for a in answers] == [8, 16]
    assert [a["efficiency"]["frames_seen"] for a in answers] == [4, 8]
    assert err[-1].startswith("18.0 s | 10 frames | ") and "9.0 tokens/frame" in err[-1]
    assert "0 dropped" in err[-1] and "of tower tokens reused" in err[-1]


def test_a_question_after_the_end_is_told(stream, video):
    code, out, err = stream(video, "--at", "4,60")
    assert code == 1 and out.startswith("[4 s] What?\n") and "[60" not in out
    assert "stc-lmms: not asked at 60 s, the source had ended: What?" in err


def test_an_answer_given_before_the_source_broke_off_stays(stream, video, tmp_path, monkeypatch):
    pipe, clock = tmp_path / "pipe", Clock(hung=tmp_path / "hung")

    def play_and_break_off(*args):
        for event in play(*args):
            yield event
            clock.hung.touch()

    monkeypatch.setattr(live, "play", play_and_break_off)
    monkeypatch.setattr(process, "time", clock)
    monkeypatch.setattr(process, "select", clock)
    os.mkfifo(pipe)
    drip(pipe, video.read_bytes()[: video.stat().st_size // 2], 1, 600.0)
    code, out, err = stream(pipe, "--at", "3", "--stall", "5")
    assert code == 2 and out.startswith("[3 s] What?\n")
    assert err[-1].startswith("stc-lmms: error: ") and "broke off" in err[-1]


@pytest.mark.parametrize(
    ("source", "options", "told"),
    [
        ("nosuch.mp4", (), "nosuch.mp4 does not exist; give a file, a pipe, an address"),
        ("987", (), "there is no camera 987"),
        ("gopher://x/y", (), "'gopher' is not a kind of stream"),
        ("rtsp://127.0.0.1:1/x", ("--stall", "3"), "cannot open rtsp://127.0.0.1:1/x: "),
        (".", (), "is a folder, not a video"),
        ("x.mp4", ("--every", "-1"), "--every -1 must be a positive number of seconds"),
        ("x.mp4", ("--at", "0"), "--at 0 must be above 0: the first frame comes at 0 s"),
        ("x.mp4", ("--stall", "0"), "--stall 0 must be a positive number"),
    ],
)
def test_wrong_sources_and_times_are_one_line(stream, source, options, told):
    code, out, err = stream(source, *options)
    assert code == 2 and not out
    assert len(err) == 1 and err[0].startswith("stc-lmms: error: ") and told in err[0]


def test_a_video_that_is_none(stream, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    code, _, err = stream(tmp_path / "text.mp4")
    assert code == 2 and len(err) == 1 and "cannot open" in err[0]
    with pytest.raises(VideoError, match="it has no video"):
        LiveSource(str(encode_sound(tmp_path / "sound.mkv")))


def encode_sound(path):
    """A file with sound only."""
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_more_frames_than_a_group_holds(load, tmp_path):
    video = encode_video(tmp_path / "v.mp4", moving_square_frames(45), fps=5)
    with LiveSource(str(video), fps=5) as source:
        events = list(
            play(
                load(method="stc_pruner", token_budget=9, prefill_frames=4), source, Schedule(("Q?",)), SHORT
            )
        )
    (told,) = [event for event in events if not isinstance(event, Status)]
    assert told.answer.efficiency.frames_seen == 45
