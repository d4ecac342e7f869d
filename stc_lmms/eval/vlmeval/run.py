"""What `stc-vlmeval`, its models and its datasets share about one run."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from stc_lmms.config import Settings
from stc_lmms.eval.recorder import Recorder, new_run


@dataclass
class Run:
    """One run of `stc-vlmeval`.

    Attributes:
        journal: folder of the resume journal.
        settings: VLMEvalKit's name of one of our models -> its resolved arguments.
        resumed: keys in the journal before the run.
        evaluated: (model, dataset) pairs that have scores.
    """

    journal: Path
    settings: dict[str, Settings]
    resumed: frozenset[str] = frozenset()
    evaluated: set[tuple[str, str]] = field(default_factory=set)
    _recorders: dict[tuple[Path, float | None], Recorder] = field(default_factory=dict)

    def recorder(self, folder: Path, settings: Settings | None) -> Recorder:
        """The recorder of a model at a frame rate; its datasets share it, as the tasks of lmms-eval do.

        Args:
            folder: results of the model; the name of the model is its last component.
            settings: resolved model arguments; None for a model of VLMEvalKit's own.
        """
        key = (folder, settings.fps if settings else None)
        if key not in self._recorders:
            run = new_run(settings.method if settings else folder.name)
            about = settings.flat() if settings else {}
            name = "" if settings else folder.name
            self._recorders[key] = Recorder(run, "vlmevalkit", about, output=folder, model_name=name)
        return self._recorders[key]


def with_fps(settings: Settings, fps: float | None) -> Settings:
    """The settings at a dataset's frame rate, if it has one."""
    return replace(settings, fps=fps) if fps and fps > 0 else settings


def stale(eval_file: object, journal: Path) -> str:
    """The error about a result table whose answers are not in the journal."""
    return (
        f"{eval_file} has answers that are not in {journal} as given with these settings and this version of "
        "stc-lmms; delete the table, or give another --work-dir"
    )
