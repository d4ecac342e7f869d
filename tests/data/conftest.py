import pytest

from stc_lmms.benchmarks.registry import BENCHMARKS


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STC_MINI", *(benchmark.source.variable for benchmark in BENCHMARKS.values())):
        monkeypatch.delenv(name, raising=False)
