"""StreamForest's memory beyond the recorded cases: bounds, pieces, and reading without a trace."""

import pytest
import torch

from stc_lmms.errors import SettingsError
from stc_lmms.models.streamforest.memory import Forest
from stc_lmms.models.streamforest.options import ForestOptions, StreamForestOptions
from stc_lmms.ops.merge import merge_to
from stc_lmms.video.sampling import spread_indices
from tests.fake_cuda import FakeCuda

SMALL = {
    "now_tokens": 16,
    "short_frames": 4,
    "short_tokens": 8,
    "event_window": 3,
    "long_tokens": 4,
    "long_quota": 48,
}
WIDTH, HEADS = 8, 2


def scenes(count, seed=0):
    """float64 [count,16,8]: noise around a picture that changes now and then."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (count,), generator=generator)
    picture = torch.randn(count, 16, WIDTH, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, 16, WIDTH, generator=generator, dtype=torch.float64)
    return picture.repeat_interleave(lengths, 0)[:count] + 0.2 * noise


def grown(frames, step=1, **options):
    forest = Forest(ForestOptions(**SMALL | options), HEADS)
    for part in frames.split(step):
        forest.append(part)
    return forest


@pytest.mark.parametrize("consolidate", ["ask", "frame"])
def test_it_does_not_matter_how_a_stream_is_cut(consolidate):
    frames = scenes(60)
    whole = grown(frames, 60, consolidate=consolidate)
    for step in (1, 3, 7):
        pieces = grown(frames, step, consolidate=consolidate)
        torch.testing.assert_close(pieces.read(), whole.read(), atol=1e-12, rtol=0)
        assert pieces.nbytes == whole.nbytes  # no piece keeps the frames of its call alive
    assert len(whole.consolidated()) > 1 and any(event.merges > 1 for event in whole.consolidated())


@pytest.mark.parametrize("consolidate", ["ask", "frame"])
def test_questions_on_the_way_equal_runs_on_the_prefixes(consolidate):
    frames, asked = scenes(36), Forest(ForestOptions(**SMALL, consolidate=consolidate), HEADS)
    for end in range(1, 37):
        asked.append(frames[end - 1 : end])
        before = asked.nbytes
        read = asked.read()
        assert torch.equal(read, asked.read()) and asked.nbytes == before and len(read) <= asked.tokens
        if end % 9 == 0:
            torch.testing.assert_close(read, grown(frames[:end], 1, consolidate=consolidate).read())


def test_consolidating_by_frame_bounds_the_memory_over_2000_frames():
    frames = scenes(2000)
    forest, sizes, work = Forest(ForestOptions(**SMALL, consolidate="frame"), HEADS), [], []
    forest._trace = lambda values, chosen: work.append(len(values))
    for part in frames.split(20):
        forest.append(part)
        sizes.append(forest.nbytes)
    quota, recent = SMALL["long_quota"], SMALL["short_frames"] + SMALL["event_window"]
    most = quota + recent * SMALL["short_tokens"] + 2 * 16
    assert max(sizes) <= most * WIDTH * 8 and max(sizes[50:]) <= max(sizes[10:50]) + quota * WIDTH * 8 // 4
    first, second = work[len(work) // 4 : len(work) // 2], work[len(work) // 2 :]
    assert max(second) <= max(first) + 1  # a choice is among as few as ever
    assert len(second) < 1.2 * 2 * len(first)  # and there are as many of them per frame


def test_consolidating_when_asked_grows_by_the_events_alone():
    frames = scenes(400)
    forest, sizes = Forest(ForestOptions(**SMALL), HEADS), {}
    for end, part in enumerate(frames.split(1), 1):
        forest.append(part)
        long = sum(len(event.tokens_fKC) for event in forest.events)
        assert end == long + len(forest.recent) and len(forest.recent) <= 4 + 3
        sizes[end] = forest.nbytes
    per_frame = SMALL["long_tokens"] * WIDTH * 8
    assert abs(sizes[400] - sizes[200] - 200 * per_frame) <= 3 * SMALL["short_tokens"] * WIDTH * 8
    assert len(forest.read()) <= SMALL["long_quota"] + 7 * 8 + 16


def test_the_read_out_is_events_then_short_frames_then_the_newest():
    frames = scenes(30)
    forest = grown(frames, now_frames=2)
    read = forest.read()
    assert torch.equal(read[-32:].view(2, 16, WIDTH), frames[-2:])
    short = merge_to(frames[-3:-2], 8, HEADS)[0]
    torch.testing.assert_close(read[-40:-32], short)
    assert [float(event.time) for event in forest.events] == sorted(float(e.time) for e in forest.events)


def test_half_precision_is_merged_in_float32():
    frames = scenes(40)
    half = grown(frames.half(), 40).read()
    assert half.dtype == torch.float16 and half.isfinite().all()
    x = frames[:1].to(torch.bfloat16)
    torch.testing.assert_close(
        merge_to(x, 3, HEADS).float(), merge_to(x.float(), 3, HEADS), atol=0.02, rtol=0.01
    )


def test_a_gpu_does_not_wait_while_no_event_is_cut():
    gpu = FakeCuda()
    frames = gpu.tensor(scenes(8))
    with gpu:
        forest = Forest(ForestOptions(**SMALL), HEADS)
        for end in range(1, 8):
            forest.append(frames[end - 1 : end])
        assert not forest.events and not gpu.waits
        forest.append(frames[7:8])
        assert len(forest.events) == 1 and gpu.waits == {"memory:Forest.append"}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"short_tokens": 900}, "short_tokens=900 must not exceed now_tokens=729"),
        ({"long_tokens": 200}, "long_tokens=200 must not exceed short_tokens=128"),
        ({"long_quota": 0}, "long_quota=0 must be at least 1"),
        ({"event_window": 0}, "event_window=0 must be at least 1"),
        ({"time_weight": -0.1}, "time_weight=-0.1 must be a number of 0 or more"),
        ({"merge_weight": float("nan")}, "merge_weight=nan"),
    ],
)
def test_constants_out_of_range_are_one_line(args, told):
    with pytest.raises(SettingsError, match=told) as caught:
        StreamForestOptions(**args)
    assert "\n" not in str(caught.value)


def test_frames_are_spread_over_the_clip():
    assert spread_indices(900, 30.0)[:3] == [14, 43, 72]
    assert spread_indices(0, 30.0) == [] and spread_indices(900, 30.0, (20.0, 20.0)) == []
    assert spread_indices(10, 0.5) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] + [9] * 11  # one a second
    assert max(spread_indices(900, 30.0, (0.0, 10.0))) < 300
