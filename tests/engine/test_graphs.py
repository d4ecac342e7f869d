"""Single frames as captured graphs: equal to eager, whatever the order of streams, shapes and resets.

The graphs themselves need a GPU. On a CPU a stand-in records the function and runs it again at every replay,
on the same buffers: it shows that what is recorded depends on nothing but addresses, that the host counts
what the device does, and that nothing returned is overwritten later.
"""

import contextlib
import gc
import weakref

import pytest
import torch

from stc_lmms.engine.api import Generation
from stc_lmms.engine.encoder import FrameEncoder
from stc_lmms.engine.graphs import CudaCapture, FrameRunner
from stc_lmms.engine.timers import StageClock
from stc_lmms.methods.stc_cacher import STCCacher
from stc_lmms.towers.qwen_vl import KEPT_LAYOUTS
from tests.methods.towers import drifting_patches, tiny_tower


class Replayed(CudaCapture):
    """Graphs by running the recorded function again into the first output."""

    def __init__(self):
        super().__init__(torch.device("cpu"))
        self.reason, self.recorded = "", 0

    def new_pool(self):
        """None is needed."""
        return None

    def record(self, function, pool):
        """See `CudaCapture.record`."""
        self.recorded += 1
        for _ in range(3):
            function()
        output = function()

        def replay():
            fresh = function()
            with torch.inference_mode():  # a graph writes to memory, whatever tensor is there
                output.copy_(fresh)

        return output, replay


CACHER = {"method": "stc_cacher", "cache_interval": 3, "update_ratio": 0.25}
DENSE = {"method": "none"}


def pixels(model, clip, count, seed=0):
    return [model.pixels(frame[None]) for frame in clip(count, seed=seed)[0]]


def runner(model, capture):
    method = model.method.tower
    state = method.open_state() if method else None
    return FrameRunner(capture, model.tower, method, state, model.project)


def eagerly(model, frames):
    method = model.method.tower
    if method is None:
        return [model.project(model.tower.encode(frame)) for frame in frames]
    state = method.open_state()
    return [model.project(method.encode(model.tower, frame, state)) for frame in frames]


def assert_equal(got, wanted):
    assert len(got) == len(wanted)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("args", [DENSE, CACHER, CACHER | {"selection": "shared"}], ids=str)
def test_replays_equal_eager_over_intervals_resets_and_interleaved_streams(load, clip, args):
    model, capture = load(**args), Replayed()
    first, second = pixels(model, clip, 10), pixels(model, clip, 10, seed=1)
    one, two = runner(model, capture), runner(model, capture)
    got = [(one.encode(a), two.encode(b)) for a, b in zip(first, second, strict=True)]
    assert_equal([a for a, _ in got], eagerly(model, first))
    assert_equal([b for _, b in got], eagerly(model, second))
    recorded = capture.recorded
    assert recorded == (2 if model.method.tower is None else 4)  # of each stream one a role
    if one.state is not None:
        one.state.reset()
    assert_equal([one.encode(frame) for frame in second[:4]], eagerly(model, second[:4]))
    assert capture.recorded == recorded  # a reset keeps buffers and graphs


def test_the_host_counts_what_the_device_did(load, clip):
    model = load(**CACHER)
    live = runner(model, Replayed())
    for frame in pixels(model, clip, 7):
        live.encode(frame)
    method = model.method.tower
    state = method.open_state()
    method.encode(model.tower, torch.cat(pixels(model, clip, 7)), state)
    counts = [(s.frames, s.tokens_seen, s.tokens_recomputed, s.step) for s in (live.state, state)]
    assert counts[0] == counts[1] and counts[0][0] == 7


def test_a_batch_in_between_goes_on_where_the_graphs_stood(load, clip):
    """Eight frames one by one, as a batch, and one by one again: the references stay where they are."""
    model = load(**CACHER)
    frames, live = pixels(model, clip, 8), runner(model, Replayed())
    method, got = model.method.tower, []
    got += [live.encode(frame) for frame in frames[:4]]
    got += model.project(method.encode(model.tower, torch.cat(frames[4:6]), live.state)).split(1)
    got += [live.encode(frame) for frame in frames[6:]]
    for a, b in zip(got, eagerly(model, frames), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_another_shape_gets_graphs_and_references_of_its_own():
    """A tower whose frames change their size in the middle of a stream."""
    tower, capture = tiny_tower("qwen2_5_vl"), Replayed()
    method = STCCacher(cache_interval=3)
    small, large = (drifting_patches(8, grid) for grid in ((4, 4), (6, 10)))
    order = [small, small, large, large, small, small, small, small]
    live = FrameRunner(capture, tower, method, method.open_state(), lambda h: h)
    state = method.open_state()
    for number, clip in enumerate(order):
        x = clip.part(number, number + 1)
        assert torch.equal(live.encode(x), method.encode(tower, x, state))
    assert capture.recorded == 6  # both roles of each of three stretches: their references are new
    assert {frame.references is live.state.references for frame in live._frames.values()} == {True}


@pytest.mark.parametrize("method", [None, STCCacher()])
def test_what_a_graph_reads_lives_as_long_as_the_graph(method):
    """A tower keeps few layouts; a graph goes on reading the angles at the addresses of its own."""
    tower = tiny_tower("qwen2_vl")
    live = FrameRunner(Replayed(), tower, method, method and method.open_state(), lambda h: h)
    live.encode(drifting_patches(1, (4, 4)))
    angles = weakref.ref(tower.layout((4, 4)).cos_TE)
    for side in range(KEPT_LAYOUTS):
        tower.layout((6, 2 + 2 * side))
    assert (4, 4) not in {size for size, *_ in tower._layouts} and angles() is not None
    del live
    gc.collect()
    assert angles() is None


def test_why_frames_run_eagerly(load, clip):
    (frame,) = pixels(load(**DENSE), clip, 1)
    no_gpu = runner(load(**DENSE), CudaCapture(torch.device("cpu")))
    assert no_gpu.encode(frame) is None and no_gpu.capture.reason == "there are no graphs on cpu"
    unwanted = CudaCapture(torch.device("cuda"), enabled=False)
    assert runner(load(**DENSE), unwanted).encode(frame) is None and unwanted.reason == "cuda_graphs=false"
    adaptive = load(method="stc_cacher", refresh="adaptive", cut_similarity=0.5)
    capture = Replayed()
    assert runner(adaptive, capture).encode(frame) is None
    assert capture.reason == "the role of a frame is not known before the method runs"

    class Broken(Replayed):
        def record(self, function, pool):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    broken = Broken()
    live = runner(load(**CACHER), broken)
    assert live.encode(frame) is None
    assert broken.reason == "capture failed: operation not permitted when stream is capturing"
    assert live.state.frames == 0 and live.nbytes == 0


class FailingGraph:
    """A capture that meets an operation which cannot be captured, and so cannot be ended either."""

    capturing = False

    def capture_begin(self, *pool, **how):
        FailingGraph.capturing = True

    def capture_end(self):
        FailingGraph.capturing = False
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


class NamedStream(str):
    """Stands for a CUDA stream."""

    def wait_stream(self, other):
        pass


def test_a_failed_capture_leaves_its_stream_and_tells_the_cause(load, clip, monkeypatch):
    """Through PyTorch's own context manager, which stays on the side stream when it cannot end a capture."""
    current = [NamedStream("current")]

    @contextlib.contextmanager
    def stream(other):
        before, current[0] = current[0], other
        yield
        current[0] = before

    stubs = {
        "CUDAGraph": FailingGraph,
        "Stream": lambda: NamedStream("side"),
        "current_stream": lambda: current[0],
        "set_stream": lambda other: current.__setitem__(0, other),
        "stream": stream,
        "device": contextlib.nullcontext,
        "synchronize": lambda: None,
        "graph_pool_handle": lambda: None,
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(torch.cuda, name, stub)

    def project(features):
        if FailingGraph.capturing:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
        return features

    model, capture = load(**DENSE), CudaCapture(torch.device("cuda"))
    live = FrameRunner(capture, model.tower, None, None, project)
    assert live.encode(*pixels(model, clip, 1)) is None
    assert capture.reason == "capture failed: CUDA error: operation not permitted when stream is capturing"
    assert current == ["current"]


@pytest.mark.parametrize("args", [DENSE, CACHER], ids=str)
def test_the_rest_of_a_group_is_no_reason_to_record(load, clip, args, monkeypatch):
    model, capture, (frames, times_s) = load(**args), Replayed(), clip(17)
    assert model.settings.prefill_frames == 16
    monkeypatch.setattr(model, "capture", capture)
    for _ in range(3):  # of one evaluation
        stream = model.open_stream()
        stream.observe(frames, times_s)
        assert stream.ask("What?", Generation(max_new_tokens=1)).efficiency.frames_graphed == 0
    assert capture.recorded == 0


@pytest.mark.parametrize("args", [DENSE, CACHER], ids=str)
def test_with_groups_of_one_every_frame_is_a_graph(load, clip, args, monkeypatch):
    """What `benchmarks/gpu_parity.py` and the card's live protocol count on."""
    model, (frames, times_s) = load(prefill_frames=1, **args), clip(5)
    monkeypatch.setattr(model, "capture", Replayed())
    stream = model.open_stream()
    for _ in range(2):
        stream.reset()
        stream.observe(frames, times_s)
        assert stream.ask("What?", Generation(max_new_tokens=1)).efficiency.frames_graphed == 5


def test_behind_a_group_the_second_single_frame_of_a_kind_is_recorded(load, clip):
    model, capture = load(**CACHER), Replayed()
    frames, live = pixels(model, clip, 10), runner(model, capture)

    def graphed(one):
        if live.encode(one) is not None:
            return True
        model.method.tower.encode(model.tower, one, live.state)
        return False

    assert not graphed(torch.cat(frames[:2]))
    assert not graphed(frames[2])  # selective; the next is a reference frame
    assert not graphed(torch.cat(frames[3:5]))  # which begins anew
    assert [graphed(frame) for frame in frames[5:10]] == [False, False, True, True, True]
    assert capture.recorded == 2 and live.state.frames == 10
    assert not graphed(torch.cat(frames[:2])) and graphed(frames[2])  # what is recorded is used


@pytest.mark.parametrize("args", [DENSE, CACHER], ids=str)
def test_an_emptied_stream_is_a_new_one(load, clip, args):
    model, capture, (frames, _) = load(**args), Replayed(), clip(3)
    encoder = FrameEncoder(
        StageClock(torch.device("cpu")), capture, model.tower, model.method.tower, model.project
    )
    encoder.encode(model.pixels(frames))
    encoder.reset()
    for frame in frames:
        encoder.encode(model.pixels(frame[None]))
    assert encoder.graphed == 3  # single frames from its start: all of them


@pytest.mark.parametrize("args", [DENSE, CACHER], ids=str)
def test_recording_is_in_no_stage_and_an_eager_frame_in_one(load, clip, args):
    running, entered = [], []

    class Clock(StageClock):
        @contextlib.contextmanager
        def stage(self, name):
            running.append(name)
            entered.append(name)
            with super().stage(name):
                yield
            running.remove(name)

    class Untimed(Replayed):
        def record(self, function, pool):
            assert not running
            return super().record(function, pool)

    model = load(**args)
    parts = model.tower, model.method.tower, model.project
    frames = pixels(model, clip, 4)
    live = FrameEncoder(Clock(torch.device("cpu")), capture := Untimed(), *parts)
    for frame in frames:
        live.encode(frame)
    assert entered == ["vit_ms"] * 4 and capture.recorded > 0
    entered.clear()
    eager = FrameEncoder(Clock(torch.device("cpu")), CudaCapture(torch.device("cpu")), *parts)
    eager.encode(frames[0])
    assert entered == ["vit_ms", "project_ms"]


@pytest.mark.parametrize("args", [DENSE, CACHER], ids=str)
def test_frames_come_in_and_outside_inference_mode(load, clip, args):
    model = load(**args)
    frames, live = pixels(model, clip, 6), runner(model, Replayed())
    got = []
    for number, frame in enumerate(frames):
        with torch.inference_mode() if number % 2 == 0 else contextlib.nullcontext():
            got.append(live.encode(frame.clone()))
    assert_equal(got, eagerly(model, frames))


def test_frames_of_a_qwen_stream_come_in_and_outside_inference_mode():
    tower, patches = tiny_tower("qwen2_vl"), drifting_patches(2)
    live = FrameRunner(Replayed(), tower, None, None, lambda h: h)
    with torch.inference_mode():
        live.encode(drifting_patches(1))
    assert torch.equal(live.encode(patches.part(1, 2)), tower.encode(patches.part(1, 2)))


def test_a_stream_of_single_frames_says_how_they_ran(load, clip):
    """Through the model: the same answer and counts as eagerly, with and without graphs."""
    model, (frames, times_s) = load(**CACHER), clip(6)
    plain = model.open_stream()
    plain.observe(frames, times_s)
    wanted = plain.ask("What?")
    kept, model.capture = model.capture, Replayed()
    try:
        stream = model.open_stream()
        for i in range(6):
            stream.observe(frames[i : i + 1], times_s[i : i + 1])
        got = stream.ask("What?")
    finally:
        model.capture = kept
    assert got.token_ids == wanted.token_ids
    assert got.efficiency.frames_graphed == 6 and wanted.efficiency.frames_graphed == 0
    assert got.efficiency.tower_tokens_recomputed == wanted.efficiency.tower_tokens_recomputed
    assert stream.nbytes == plain.nbytes + stream.encoder.runner.nbytes > plain.nbytes
    assert model.describe()["launch"] == "eager" and "no graphs on cpu" in model.describe()["launch_reason"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("args", [DENSE, CACHER, CACHER | {"selection": "shared"}], ids=str)
def test_graphs_equal_eager_bit_for_bit(load, clip, args, dtype):
    """Three intervals, a reset in between, two interleaved streams."""
    model = load(**args, device="cuda", dtype=dtype)
    first, second = pixels(model, clip, 9), pixels(model, clip, 9, seed=1)
    one, two = runner(model, model.capture), runner(model, model.capture)
    got = [(one.encode(a), two.encode(b)) for a, b in zip(first, second, strict=True)]
    assert not model.capture.reason
    assert_equal([a for a, _ in got], eagerly(model, first))
    assert_equal([b for _, b in got], eagerly(model, second))
    if one.state is not None:
        one.state.reset()
    assert_equal([one.encode(frame) for frame in second[:4]], eagerly(model, second[:4]))


@pytest.mark.gpu
def test_graphs_work_on_a_device_that_is_not_the_current_one(load, clip):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    model = load(**CACHER, device="cuda:1")
    frames, live = pixels(model, clip, 6), runner(model, model.capture)
    assert torch.cuda.current_device() == 0
    assert_equal([live.encode(frame) for frame in frames], eagerly(model, frames))
    assert not model.capture.reason and torch.cuda.current_device() == 0


@pytest.mark.gpu
def test_live_frames_do_not_grow_memory_on_a_gpu(load, clip):
    model = load(**CACHER, device="cuda")
    frames, live = pixels(model, clip, 6), runner(model, model.capture)
    for frame in frames:
        live.encode(frame)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for i in range(2000):
        live.encode(frames[i % 6])
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
