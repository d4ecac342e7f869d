import pytest


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OVOBENCH_ROOT", "STREAMINGBENCH_ROOT", "MLVU_ROOT", "EGOSCHEMA_ROOT", "VIDEOMME_ROOT", "MINI")
    for name in (f"STC_{name}" for name in names):
        monkeypatch.delenv(name, raising=False)
