"""What `stc-vlmeval`, its models and its datasets know of one run."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from stc_lmms.benchmarks.base import Record
from stc_lmms.benchmarks.registry import find_label
from stc_lmms.config import Settings
from stc_lmms.eval.scoring import write_summary
from stc_lmms.results.record import RunRecord, new_run


@dataclass
class Run:
    """What `stc-vlmeval` knows of the run that it has started.

    Attributes:
        journal: folder of the resume journal.
        settings: resolved model arguments by VLMEvalKit's name of the model; of our models only.
        resumed: keys of the journal before the run.
        evaluated: (model, dataset) pairs that have their scores.
    """

    journal: Path
    settings: dict[str, Settings]
    resumed: frozenset[str] = frozenset()
    evaluated: set[tuple[str, str]] = field(default_factory=set)
    _records: dict[tuple[str, float], RunRecord] = field(default_factory=dict)
    _scored: dict[tuple[str, str | None, str], dict[str, list[Record]]] = field(default_factory=dict)

    def record(self, model: str, settings: Settings) -> RunRecord:
        """The record of a model at a frame rate; its datasets share it, as the tasks of lmms-eval do."""
        key = (model, settings.fps)
        if key not in self._records:
            self._records[key] = RunRecord(new_run(settings.method, 1), settings, 0, 1)
        return self._records[key]

    def write(
        self, folder: Path, model: str, record: RunRecord | None, name: str, scored: list[Record]
    ) -> None:
        """Leave the summary of a benchmark, with all its parts so far, and the efficiency record.

        Args:
            folder: of the model's results.
            model: its name.
            record: None for a model of VLMEvalKit's own.
            name: see `summary_name`.
            scored: of one dataset.
        """
        run, settings = (record.run, record.settings.flat()) if record else (None, {"pretrained": model})
        parts = self._scored.setdefault((model, run, name), {})
        for part in {each["part"] for each in scored}:
            parts[part] = [each for each in scored if each["part"] == part]
        so_far = [each for records in parts.values() for each in records]
        write_summary(folder, name, find_label(name)[0].summarise(so_far), run, settings)
        if record is not None:
            record.write(folder)


def with_fps(settings: Settings, fps: float | None) -> Settings:
    """Settings under which a dataset's frame rate holds, if it has one."""
    return replace(settings, fps=fps) if fps and fps > 0 else settings


def stale(eval_file: object, journal: Path) -> str:
    """What to say of a result table whose answers the journal does not have."""
    return (
        f"{eval_file} has answers that are not in {journal} as given with these settings and this version of "
        "stc-lmms; delete the table, or give another --work-dir"
    )
