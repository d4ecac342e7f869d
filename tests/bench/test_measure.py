"""Dense and method alternate on the product's own code; ratios, percentiles and warnings."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.alternate import alternate
from stc_lmms.bench import measure
from stc_lmms.bench.entry import Pair, StandInProcessor
from stc_lmms.bench.frames import synthetic_frames, video_frames
from stc_lmms.bench.hardware import measure_machine
from stc_lmms.bench.measure import (
    OBSERVE_STAGES,
    SIZES,
    STAGES,
    Comparison,
    compare,
    one_round,
    summary,
)
from stc_lmms.errors import SettingsError, StcError
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.settings import resolve
from tests.fake_cuda import FakeCuda
from tests.media import encode_video, moving_square_frames


def fixed(values):
    """A comparison with given (dense, method) times in every stage."""
    result = Comparison()
    for stage in STAGES:
        result.dense.ms[stage], result.method.ms[stage] = map(list, zip(*values))
    return result


def test_dense_and_method_alternate_and_warm_ups_are_dropped(monkeypatch):
    calls = []

    def run(model, stream, frames, times_s, new_tokens):
        calls.append(stream)
        return dict.fromkeys(STAGES, float(len(calls))), {"of": stream}

    monkeypatch.setattr(measure, "one_round", run)
    models = Pair(*(SimpleNamespace(open_stream=lambda name=name: name) for name in ("dense", "stc")))
    result = compare(models, None, [], repeats=3, warmup=2, new_tokens=2)
    assert calls == ["dense", "stc"] * 5
    assert result.dense.ms["vit_ms"] == [5.0, 7.0, 9.0] and result.method.ms["vit_ms"] == [6.0, 8.0, 10.0]
    assert (result.dense.sizes, result.method.sizes) == ({"of": "dense"}, {"of": "stc"})


def test_no_other_stream_is_filled_while_the_peak_of_memory_is_taken(monkeypatch):
    filled, peaks = set(), []

    class Stream:
        encoder = SimpleNamespace(state=None)

        def reset(self):
            filled.discard(self)

        def observe(self, frames, times_s):
            filled.add(self)

        def ask(self, question, generation):
            names = (*STAGES, *SIZES, "peak_memory_bytes")
            return SimpleNamespace(efficiency=SimpleNamespace(**dict.fromkeys(names, len(filled))))

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peaks.append(len(filled)))
    model = SimpleNamespace(device=torch.device("cuda"), open_stream=Stream)
    result = compare(Pair(model, model), None, [], repeats=2, warmup=1, new_tokens=2)
    assert peaks == [0] * 6 and not filled
    assert result.dense.sizes["kv_bytes"] == result.method.sizes["kv_bytes"] == 1


def test_runs_alternate_and_the_first_round_is_dropped():
    calls = []
    samples = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert {name: len(times) for name, times in samples.items()} == {"a": 3, "b": 3}
    assert all(time >= 0 for times in samples.values() for time in times)


def test_ratio_is_of_rounds_so_a_slow_spell_cancels():
    result = fixed([(10, 5), (100, 50), (10, 5)])
    assert result.ratios()["vit_ms"] == 0.5 and result.slower() == []


def test_slower_than_dense():
    assert fixed([(100, 103)] * 4).slower() == []  # not above 1.03
    found = fixed([(100, 120), (100, 110), (100, 90)]).slower()
    assert {w["stage"] for w in found} == set(STAGES)
    assert found[0] == {"stage": STAGES[0], "ratio": 1.1, "slower": 2, "rounds": 3}
    assert fixed([(0, 5)] * 3).slower() == []  # a stage that dense does not have
    assert fixed([(0, 5)] * 3).ratios()["method_ms"] is None


def test_summary_is_by_nearest_rank():
    assert summary(range(1, 21)) == {"min": 1, "median": 10.5, "p95": 19}
    assert summary([7.0]) == {"min": 7.0, "median": 7.0, "p95": 7.0}


@pytest.fixture(scope="module")
def pair(load):
    method = load(method="stc", token_budget=9)
    settings = resolve({"pretrained": method.settings.pretrained, "method": "none", "device": "cpu"}, {})
    return Pair(LlavaOnevision.from_parts(settings, method.model, method.processor), method)


def test_stages_add_up_and_sizes_are_those_of_the_stream(pair, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", time.process_time)  # other programs must not count
    frames, times_s = synthetic_frames(6)
    for model, kept in ((pair.dense, 36), (pair.method, 9)):
        ms, sizes = one_round(model, model.open_stream(), frames, times_s, 4)
        stages = sum(ms[stage] for stage in OBSERVE_STAGES)
        assert 0.7 * ms["observe_ms"] < stages <= ms["observe_ms"]
        assert ms["ttft_ms"] > 0 and (ms["method_ms"] > 0) == (model is pair.method)
        assert sizes["llm_tokens_mean"] == kept and sizes["tower_tokens"] == 6 * 144
        assert sizes["kv_bytes"] < sizes["state_bytes"] or model is pair.dense
    assert sizes["tower_reference_bytes"] == 3 * 3 * 144 * 64 * 4  # three tensors, three blocks, float32


def test_from_parts_shares_weights_and_equals_the_loaded_model(load, pair, clip):
    loaded, (frames, times_s) = load(method="none"), clip(3)
    assert pair.dense.model is pair.method.model is not loaded.model
    answers = []
    for model in (loaded, pair.dense):
        stream = model.open_stream()
        stream.observe(frames, times_s)
        answers.append(stream.ask("What?").token_ids)
    assert answers[0] == answers[1]
    described = pair.dense.describe()
    assert described["launch"] == "eager" and described["launch_reason"]


def test_from_parts_checks_the_budget(pair):
    settings = resolve({"method": "stc", "token_budget": 37}, {})
    with pytest.raises(SettingsError, match="more than the 36 tokens"):
        LlavaOnevision.from_parts(settings, pair.method.model, pair.method.processor)


def test_stand_in_preprocessing_equals_the_processor(pair):
    frames, _ = synthetic_frames(2)
    stand_in = StandInProcessor(96, torch.device("cpu"))
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)
    (ours,) = stand_in.video_processor([video], return_tensors="pt")["pixel_values_videos"]
    theirs = pair.dense.pixels(frames)
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() < 0.02  # theirs rounds to whole levels


def test_stand_in_preprocessing_does_not_wait_for_the_device():
    gpu, stand_in = FakeCuda(), StandInProcessor(96, torch.device("cuda"))
    video = torch.from_numpy(synthetic_frames(2)[0]).permute(0, 3, 1, 2)
    with gpu:
        (pixels,) = stand_in.video_processor([video])["pixel_values_videos"]
    assert pixels.device.type == "cuda" and pixels.shape == (2, 3, 96, 96)
    assert gpu.copies and not gpu.waits


def test_synthetic_frames_drift():
    frames, times_s = synthetic_frames(3)
    assert frames.shape == (3, 480, 640, 3) and frames.dtype == np.uint8 and times_s == [0.0, 2.0, 4.0]
    change = np.abs(frames[1].astype(int) - frames[0]).mean()
    assert 0 < change < np.abs(frames[1].astype(int) - 128).mean()
    assert np.array_equal(frames, synthetic_frames(3)[0])


def test_frames_of_a_video_and_its_decoding_time(tmp_path):
    video = encode_video(tmp_path / "v.mp4", moving_square_frames(40), fps=8)  # 5 s: three frames at 0.5 fps
    frames, times_s, samples_ms = video_frames(video, (1, 3), 0.5, repeats=2)
    assert frames.shape == (3, 64, 96, 3) and times_s == [0.0, 2.0, 4.0]
    assert {count: len(ms) for count, ms in samples_ms.items()} == {1: 2, 3: 2}
    assert all(ms > 0 for times in samples_ms.values() for ms in times)
    with pytest.raises(StcError, match=r"has only 3 frames at 0\.5 fps; 9 were asked for"):
        video_frames(video, (9,), 0.5, repeats=1)


def test_machine_rates_are_plausible():
    machine = measure_machine(torch.device("cpu"), torch.float32, side=128)
    assert 1e8 < machine.flops_per_s < 1e14 and 1e8 < machine.bytes_per_s < 1e13
