"""Finds runs below folders, whatever wrote them, and reads them.

Reads `run.json` (`results/schema.py`), the files of older versions (`results/legacy.py`), lmms-eval's
`*_results.json` and VLMEvalKit's `status.json` of any model. One of our runs and the result file that
lmms-eval wrote for it are one run. Every unusable file is reported in one line and skipped.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stc_lmms.arguments import parse_pairs
from stc_lmms.errors import DataError, SettingsError
from stc_lmms.results import legacy
from stc_lmms.results.schema import FILE, SCHEMA_VERSION, Run, Score
from stc_lmms.results.scores import of_benchmark, of_results, of_status

_OWN_OUTPUTS = frozenset({"leaderboard.json", "compare.json", "scores.json"})
_STATUS, _SWEEP = "status.json", "sweep.json"
_RERUN = "start the run again: finished answers are in its journal"
_GIVE = "give the --output_path of lmms-eval runs or the --work-dir of VLMEvalKit runs"


@dataclass
class FoundRun:
    """A run and where it was found.

    Attributes:
        folder: its output path.
        name: name of that folder, or of the model for a run that is not ours.
        files: where `answers` finds its answers.
        limited: lmms-eval asked only some of the questions.
        label: distinguishes it from the other runs, see `set_labels`.
    """

    record: Run
    folder: Path
    name: str
    scores: list[Score] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    limited: bool = False
    label: str = ""

    @property
    def method(self) -> str:
        """Name of the method, `-` for a model without."""
        return str(self.record.settings.get("method", "-"))

    @property
    def model_name(self) -> str:
        """The checkpoint, or what the harness calls the model."""
        return self.record.model_name or str(self.record.settings.get("pretrained") or "unknown")

    @property
    def hardware(self) -> str:
        """Device, threads, dtype and versions in one line; `unknown` when they are not recorded."""
        env = self.record.model.get("environment") or {}
        if not env.get("device"):
            return "unknown"
        threads = f"{env['threads']} threads" if "threads" in env and "cpu" in env["device"] else ""
        model = self.record.model
        parts = (env["device"], threads, model.get("dtype"), model.get("attention"))
        versions = ", ".join(f"{k} {env[k]}" for k in ("torch", "transformers") if k in env)
        return "; ".join(filter(None, (", ".join(filter(None, parts)), versions)))

    def answers(self) -> Iterator[dict[str, Any]]:
        """Every answer with its cost, rank by rank.

        Raises:
            DataError: a file is missing, cut off or not readable.
        """
        for path in self.files:
            try:
                text = path.read_text(encoding="utf-8")
                if path.suffix == ".json":
                    yield from json.loads(text)["answers"]
                else:
                    yield from map(json.loads, text.split("\n")[:-1])
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise DataError(f"{path} is not readable ({type(error).__name__}); {_RERUN}") from None


def find_runs(folders: Sequence[Path], tell: Callable[[str], None]) -> list[FoundRun]:
    """Every finished run below the folders, with distinct labels.

    Of several runs in one folder with equal settings, the newest score on each benchmark counts; of a sweep,
    its merged runs count. `tell` is called with one line for each file that is skipped.

    Raises:
        DataError: no run was found.
    """
    runs: list[FoundRun] = []
    seen: set[Path] = set()
    for root in folders:
        if not root.is_dir():
            tell(f"skipped {root}: it is not a folder; {_GIVE}")
            continue
        paths = [path for path in _json_files(root, tell) if path.resolve() not in seen]
        seen.update(path.resolve() for path in paths)
        found = _collect(paths, tell)
        for run in (run for run in found if not run.scores):
            tell(f"skipped {run.folder}: run {run.record.run} has no scores; {_RERUN}")
        runs += [run for run in found if run.scores]
    runs = _newest(runs)
    if not runs:
        raise DataError(f"no finished run below {', '.join(map(str, folders))}; {_GIVE}")
    set_labels(runs)
    return runs


def newest_run(output: Path) -> FoundRun | None:
    """The newest run of this package in an output path, scored or not; None if there is none."""
    paths = sorted([*output.glob(f"*/{FILE}"), *output.glob("stc_*.json")])
    return max(_collect(paths, lambda line: None), key=lambda run: run.record.run, default=None)


def set_labels(runs: Sequence[FoundRun]) -> None:
    """Set `label`: the name; for equal names also the settings that differ, then the time or a number."""
    by_name: dict[str, list[FoundRun]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    for same in by_name.values():
        telling = _distinguishing_settings(same)
        for run in same:
            settings = run.record.settings
            text = ", ".join(f"{key}={settings[key]}" for key in telling if key in settings)
            run.label = f"{run.name} [{text}]" if text else run.name
        for ending in (lambda run, number: run.record.run, lambda run, number: f"#{number}"):
            labels = [run.label for run in same]
            for number, run in enumerate(same, 1):
                if labels.count(labels[number - 1]) > 1:
                    run.label += f" {ending(run, number)}"


def differing_settings(runs: Sequence[FoundRun]) -> list[str]:
    """Names of the settings that are not equal in all runs, in their usual order."""
    names = dict.fromkeys(name for run in runs for name in run.record.settings)
    return [name for name in names if len({repr(run.record.settings.get(name)) for run in runs}) > 1]


def _distinguishing_settings(runs: Sequence[FoundRun]) -> list[str]:
    """The first few settings that tell the runs apart: methods differ in many arguments that add nothing."""
    chosen: list[str] = []
    apart = 1
    for name in differing_settings(runs):
        found = len({tuple(repr(run.record.settings.get(key)) for key in (*chosen, name)) for run in runs})
        if found > apart:
            chosen.append(name)
            apart = found
    return chosen


def _json_files(root: Path, tell: Callable[[str], None]) -> list[Path]:
    """JSON files below a folder; of a sweep only those of its merged runs."""
    found = []
    for folder, inside, names in os.walk(root):
        here = Path(folder)
        if _SWEEP in names and "jobs" in inside:
            if "merged" not in inside:
                tell(f"skipped {here}: the sweep is not merged; run stc-lmms sweep merge {here}")
            inside[:], names = [name for name in inside if name == "merged"], []
        found += [here / name for name in names if name.endswith(".json")]
    return sorted(found)


def _collect(paths: Sequence[Path], tell: Callable[[str], None]) -> list[FoundRun]:
    """The runs that the files make up."""
    ours: dict[tuple[Path, str], FoundRun] = {}
    old: dict[tuple[Path, str], list[tuple[Path, dict[str, Any]]]] = {}
    results: list[tuple[str, FoundRun]] = []  # the name of our run, if any, and what lmms-eval says of it
    statuses: list[FoundRun] = []
    for path in paths:
        if path.name in _OWN_OUTPUTS:
            continue
        try:
            content = _load(path)
            if path.name == FILE:
                run = _validated(content)
                files = [path.parent / run.answers] if run.answers else []
                ours[path.parent.parent, run.run] = _found(run, path.parent.parent, files)
            elif legacy.is_legacy(path):
                run = _found(legacy.to_run([content]), path.parent).record
                old.setdefault((path.parent, run.run), []).append((path, content))
            elif path.name.endswith("_results.json"):
                stamp = str(_cli_args(content).get("stc_run") or "")
                results.append((stamp, _of_harness(path, content, of_results(content), "lmms-eval")))
            elif path.name == _STATUS:
                statuses.append(_of_harness(path, content, of_status(content), "VLMEvalKit"))
            else:
                raise _NoRunError("not a file of a run")
        except _NoRunError as error:
            tell(f"skipped {path}: {error}")
        except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
            tell(f"skipped {path}: not a file of a run ({_reason(error)}); delete it, or give another folder")
    for (folder, name), files in old.items():
        ranks = [path for path, _ in files if path.name.startswith(legacy.EFFICIENCY)]
        run = legacy.to_run([content for _, content in files])
        ours.setdefault((folder, name), _found(run, folder, ranks))
    return [*_join(ours, results, statuses)]


def _join(
    ours: dict[tuple[Path, str], FoundRun],
    results: Sequence[tuple[str, FoundRun]],
    statuses: Sequence[FoundRun],
) -> Iterator[FoundRun]:
    """Put our runs and the result files of the harnesses together."""
    others, joined = [], set()
    for stamp, alone in reversed(results):  # an old summary without a run belongs to the newest
        # lmms-eval writes its results one folder below the output path
        keys = [(folder, stamp) for folder in (alone.folder.parent, alone.folder)]
        key = next((key for key in keys if key in ours and key not in joined), None)
        if key is None:
            others.append(alone)
            continue
        joined.add(key)
        run, theirs = ours[key], alone.record
        # the run's own scores have more detail than those of our tasks in lmms-eval's file
        run.scores += [score for score in alone.scores if not (score.ours and run.scores)]
        run.limited = alone.limited
        run.record = run.record.model_copy(
            update={
                "run": run.record.run or theirs.run,
                "settings": run.record.settings or theirs.settings,
                "model_name": run.record.model_name or ("" if run.record.settings else theirs.model_name),
            }
        )
    yield from ours.values()
    yield from reversed(others)
    for status in statuses:
        scored = any(folder == status.folder and run.scores for (folder, _), run in ours.items())
        status.scores = [score for score in status.scores if not (score.ours and scored)]
        if status.scores:
            yield status


class _NoRunError(Exception):
    """Why a file is not one of a run, with the fix."""


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _NoRunError(f"cut off or not JSON ({_reason(error)}); delete it and {_RERUN}") from None
    if not isinstance(content, dict):
        raise _NoRunError("not a file of a run")
    return content


def _validated(content: dict[str, Any]) -> Run:
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        why = f"schema_version {version} of a newer stc-lmms, this one reads up to {SCHEMA_VERSION}"
        raise _NoRunError(f"{why}; upgrade stc-lmms")
    if version != SCHEMA_VERSION:
        raise _NoRunError(f"schema_version {version!r} is unknown; delete it and {_RERUN}")
    return Run.model_validate(content)


def _found(run: Run, folder: Path, files: Sequence[Path] = ()) -> FoundRun:
    """A run of ours with its scores; any exception means that its content is malformed."""
    scores = [of_benchmark(*item) for item in run.benchmarks.items()]
    return _checked(FoundRun(run, folder, folder.resolve().name, scores, list(files)))


def _of_harness(path: Path, content: dict[str, Any], scores: list[Score], harness: str) -> FoundRun:
    """What a harness's own file says about a run; _NoRunError if it has no scores."""
    if not scores:
        raise _NoRunError(f"no scores of a run of {harness} in it; evaluate again")
    config, settings = content.get("config") or {}, _cli_args(content).get("stc_settings")
    name = str(content.get("model_name") or config.get("model") or "")
    record = Run(
        run=str(content.get("date") or content.get("updated_at") or ""),
        harness=harness.lower(),
        model_name="" if settings else name,
        settings=settings or _command_line(config),
    )
    name = name or path.parent.resolve().name
    return _checked(FoundRun(record, path.parent, name, scores, limited=bool(config.get("limit"))))


def _checked(run: FoundRun) -> FoundRun:
    """The run; raises if parts that are plain dictionaries lack what tables need."""
    str((run.hardware, run.method, run.model_name))
    return run


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return " ".join(f"{type(error).__name__}: {error}".split())


def _cli_args(content: dict[str, Any]) -> dict[str, Any]:
    args = (content.get("config") or {}).get("resolved_cli_args")
    return args if isinstance(args, dict) else {}


def _command_line(config: dict[str, Any]) -> dict[str, Any]:
    """Model and arguments of another model's run: `a=1,b=2` as a dictionary."""
    args = config.get("model_args")
    if isinstance(args, str):
        try:
            args = parse_pairs(args, "model_args")
        except SettingsError:  # another program's own syntax
            args = {"model_args": args}
    about = {key: config[key] for key in ("model", "limit", "gen_kwargs") if config.get(key)}
    return about | (args if isinstance(args, dict) else {})


def _newest(runs: Sequence[FoundRun]) -> list[FoundRun]:
    """Drop scores that a newer run with the same settings in the same folder has, too."""
    kept: set[tuple[str, ...]] = set()
    for run in sorted(runs, key=lambda run: run.record.run, reverse=True):
        settings = json.dumps(run.record.settings, sort_keys=True, default=str)
        who = (str(run.folder), run.model_name, settings)
        run.scores = [score for score in run.scores if (*who, score.benchmark) not in kept]
        kept.update((*who, score.benchmark) for score in run.scores)
    return [run for run in runs if run.scores]
