import pytest


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STC_OVOBENCH_ROOT", "STC_STREAMINGBENCH_ROOT", "STC_MINI"):
        monkeypatch.delenv(name, raising=False)
