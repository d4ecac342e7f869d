"""Single frames as captured graphs: equal to eager, whatever the order of streams, shapes and resets.

The graphs themselves need a GPU. On a CPU a stand-in records the function and runs it again at every replay,
on the same buffers: it shows that what is recorded depends on nothing but addresses, that the host counts
what the device does, and that nothing returned is overwritten later.
"""

import gc
import weakref

import pytest
import torch

from stc_lmms.methods.stc_cacher import STCCacher
from stc_lmms.streaming.graphs import CudaCapture, FrameRunner
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
        return output, lambda: output.copy_(function())


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
    unwanted = CudaCapture(torch.device("cuda"), wanted=False)
    assert runner(load(**DENSE), unwanted).encode(frame) is None and unwanted.reason == "cuda_graphs=false"
    adaptive = load(method="stc_cacher", refresh="adaptive", cut_similarity=0.5)
    capture = Replayed()
    assert runner(adaptive, capture).encode(frame) is None
    assert capture.reason == "what the method does with a frame is not known before it runs"

    class Broken(Replayed):
        def record(self, function, pool):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    broken = Broken()
    live = runner(load(**CACHER), broken)
    assert live.encode(frame) is None
    assert broken.reason == "capture failed: operation not permitted when stream is capturing"
    assert live.state.frames == 0 and live.nbytes == 0


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
