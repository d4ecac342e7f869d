"""The stage clock and the sums of a run."""

import time

import pytest
import torch

from stc_lmms.engine.timers import STAGES, Efficiency, StageClock, environment, peak_memory_bytes
from stc_lmms.results.totals import STAGES as SUMMED_STAGES
from stc_lmms.results.totals import total


def test_clock_sums_a_stage_and_starts_anew():
    clock = StageClock(torch.device("cpu"))
    for _ in range(2):
        with clock.stage("vit_ms"):
            time.sleep(0.01)
    spent = clock.take()
    assert spent["vit_ms"] >= 20 and set(spent) == set(STAGES) and spent["prefill_ms"] == 0
    assert clock.take()["vit_ms"] == 0


def test_events_of_a_stream_that_nobody_asks_do_not_pile_up(monkeypatch):
    """The device is a few stages behind the host, which must not wait for it."""
    recorded, waited = [], []

    class Event:
        def __init__(self, enable_timing):
            pass

        def record(self, stream):
            self.number = len(recorded)
            recorded.append(self)

        def query(self):
            return self.number < len(recorded) - 20

        def elapsed_time(self, end):
            assert waited or end.query()
            return float(end.number - self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    clock = StageClock(torch.device("cuda"))
    for _ in range(2500):
        for name in ("vit_ms", "prefill_ms"):
            with clock.stage(name):
                assert len(clock._events) <= 1000
    assert not waited
    spent = clock.take()
    assert len(waited) == 1 and spent["vit_ms"] == spent["prefill_ms"] == 2500
    assert not clock._events and clock.take()["vit_ms"] == 0


def test_total_sums_work_and_keeps_maxima():
    answers = [
        Efficiency(
            frames_encoded=4, vit_ms=40.0, ttft_ms=10.0, per_token_ms=None, kv_bytes=5, llm_tokens_max=64
        ),
        Efficiency(
            frames_encoded=0, vit_ms=0.0, ttft_ms=20.0, per_token_ms=2.0, kv_bytes=7, llm_tokens_max=60
        ),
    ]
    run = total([answer.to_dict() for answer in answers])
    assert (run["answers"], run["frames_encoded"], run["vit_ms"]) == (2, 4, 40.0)
    assert (run["ttft_ms"], run["per_token_ms"]) == (15.0, 2.0)
    assert (run["kv_bytes"], run["llm_tokens_max"], run["vit_ms_per_frame"]) == (7, 64, 10.0)
    assert total([]) == {"answers": 0}
    assert total([answers[1].to_dict()])["vit_ms_per_frame"] is None


def test_environment_names_device_and_versions():
    found = environment(torch.device("cpu"))
    assert found["torch"].startswith(torch.__version__.split("+")[0]) and found["device"].startswith("cpu")
    assert peak_memory_bytes(torch.device("cpu")) > 2**20


@pytest.mark.gpu
def test_clock_measures_device_time():
    clock = StageClock(torch.device("cuda"))
    x = torch.randn(4096, 4096, device="cuda")
    with clock.stage("vit_ms"):
        for _ in range(20):
            x = x @ x / 64
    assert clock.take()["vit_ms"] > 1.0


def test_totals_know_every_stage_of_the_clock():
    assert SUMMED_STAGES == STAGES
