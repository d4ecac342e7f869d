"""Finds finished runs below folders: ours, and plain result files of lmms-eval and VLMEvalKit of any model.

A run of ours leaves `stc_summary_<benchmark>_<run>.json` and `stc_efficiency_<run>_rank<r>.json` in its
output path, and lmms-eval leaves `<model>/*_results.json` below it; VLMEvalKit has a `status.json` for every
model, and a run of ours leaves its files beside that. Files that are none of these, or that are
broken, are told in one line each and skipped.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stc_lmms.errors import DataError
from stc_lmms.results.scores import Score, of_results, of_status, of_summary
from stc_lmms.engine.timers import total

_OWN_OUTPUTS = frozenset({"leaderboard.json", "compare.json", "scores.json"})
_STATUS = "status.json"
_GIVE = "give the --output_path of lmms-eval runs or the --work-dir of VLMEvalKit runs"


@dataclass
class Run:
    """One finished run.

    Attributes:
        name: the folder of its output; `label` is what tells it from the others, see `tell_apart`.
        stamp: when it ran; runs sort by it within a folder.
        settings: resolved model arguments, or of another model those of its command line.
        cost: `timers.total` over all answers (milliseconds, bytes); empty when nothing was measured.
        model: execution, attention, dtype, environment; empty for models that do not tell.
        source: the folder in which it was found, as the user wrote it.
        limited: lmms-eval was told to ask only some questions.
    """

    name: str
    model_name: str
    method: str
    stamp: str
    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    scores: list[Score] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    limited: bool = False
    label: str = ""

    @property
    def hardware(self) -> str:
        """Device, threads, dtype and versions in one line; `unknown` when the run does not tell."""
        env = self.model.get("environment") or {}
        if not env.get("device"):
            return "unknown"
        threads = f"{env['threads']} threads" if "threads" in env and "cpu" in env["device"] else ""
        parts = (env["device"], threads, self.model.get("dtype"), self.model.get("attention"))
        versions = ", ".join(f"{k} {env[k]}" for k in ("torch", "transformers") if k in env)
        return "; ".join(filter(None, (", ".join(filter(None, parts)), versions)))


@dataclass
class _Files:
    """What was found of one run."""

    folder: Path
    summaries: list[dict[str, Any]] = field(default_factory=list)
    ranks: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, Any] | None = None


def find_runs(folders: Sequence[Path], tell: Callable[[str], None]) -> list[Run]:
    """Every finished run below the folders, told apart by `label`.

    Of several runs in one folder with equal settings, the newest score on each benchmark counts.

    Args:
        folders: searched recursively.
        tell: is given one line for each file that is skipped.

    Raises:
        DataError: a folder does not exist, or no run was found.
    """
    runs: list[Run] = []
    seen: set[Path] = set()
    for root in folders:
        if not root.is_dir():
            raise DataError(f"{root} is not a folder; {_GIVE}")
        paths = [path for path in sorted(root.rglob("*.json")) if path.resolve() not in seen]
        seen.update(path.resolve() for path in paths)
        runs += [_run(files) for files in _collect(paths, tell)]
    runs = _newest(runs)
    if not runs:
        where = ", ".join(map(str, folders))
        raise DataError(f"no finished run below {where}; {_GIVE}")
    tell_apart(runs)
    return runs


def rank_notes(ranks: Sequence[dict[str, Any]], answers: int) -> list[str]:
    """What a reader of the costs must know: missing ranks, replayed answers, contexts beyond the model."""
    sums = {key: sum(rank[key] for rank in ranks) for key in ("replayed", "beyond_context")}
    notes = []
    if ranks and len(ranks) < ranks[0]["world_size"]:
        notes.append(f"efficiency of {len(ranks)} of {ranks[0]['world_size']} ranks only")
    if sums["replayed"]:
        notes.append(f"{sums['replayed']} of {answers} answers were timed by the run that it resumed")
    if sums["beyond_context"]:
        notes.append(f"{sums['beyond_context']} answers had more context than the model is made for")
    return notes


def tell_apart(runs: Sequence[Run]) -> None:
    """Set `label`: the name, then the settings that tell runs of one name apart, their time, or a number."""
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        run.label = run.name
        by_name.setdefault(run.name, []).append(run)
    for same in (group for group in by_name.values() if len(group) > 1):
        telling = _telling_settings(same)
        for run in same:
            shown = ", ".join(f"{key}={run.settings[key]}" for key in telling if key in run.settings)
            run.label = f"{run.name} [{shown}]" if shown else run.name
        for ending in (lambda run, number: run.stamp, lambda run, number: f"#{number}"):
            labels = [run.label for run in same]
            for number, run in enumerate(same, 1):
                if labels.count(labels[number - 1]) > 1:
                    run.label += f" {ending(run, number)}"


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """Names of the settings that are not equal in all runs, in the order in which they are listed."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [name for name in names if len({repr(run.settings.get(name)) for run in runs}) > 1]


def _telling_settings(runs: Sequence[Run]) -> list[str]:
    """The first few settings that are enough: methods differ in many arguments that say no more."""
    chosen: list[str] = []
    apart = 1
    for name in differing_settings(runs):
        found = len({tuple(repr(run.settings.get(key)) for key in (*chosen, name)) for run in runs})
        if found > apart:
            chosen.append(name)
            apart = found
    return chosen


def _collect(paths: Sequence[Path], tell: Callable[[str], None]) -> list[_Files]:
    found: dict[tuple[Path, str], _Files] = {}
    results, statuses = [], []
    for path in paths:
        if path.name in _OWN_OUTPUTS:
            continue
        content, why = _read(path)
        if content is None:
            tell(f"skipped {path}: {why}")
        elif path.name.endswith("_results.json"):
            results.append((path, content))
        elif path.name == _STATUS:
            statuses.append((path, content))
        else:
            files = found.setdefault((path.parent, content["run"] or ""), _Files(path.parent))
            (files.summaries if "summary" in content else files.ranks).append(content)
    for path, content in reversed(results):  # a summary without a run is that of the newest
        stamp = str(_told(content).get("stc_run") or "")
        # lmms-eval puts its results one folder below the output path
        key = next(((f, stamp) for f in (path.parent.parent, path.parent) if (f, stamp) in found), None)
        if key is None or found[key].results is not None:
            key = (path, stamp)
            found[key] = _Files(path.parent)
        found[key].results = content
    for path, content in statuses:
        if any(folder == path.parent and files.summaries for (folder, _), files in found.items()):
            ours = {score.benchmark for score in of_status(content) if score.ours}  # told by their summaries
            others = {name: values for name, values in content["datasets"].items() if name not in ours}
            content = content | {"datasets": others}
        found[(path, "")] = _Files(path.parent, results=content)
    return [files for files in found.values() if files.summaries or files.results]


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The content, or None and why it is not that of a run."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return None, f"not readable as JSON ({error})"
    if not isinstance(content, dict):
        return None, "not a file of a run"
    try:
        if path.name.startswith("stc_summary_"):
            _check(_run(_Files(path.parent, summaries=[content])), content["run"])
        elif path.name.startswith("stc_efficiency_"):
            _check(_run(_Files(path.parent, ranks=[content])), content["run"])
        elif path.name.endswith("_results.json"):
            run = _run(_Files(path.parent, results=content))
            _check(run, None)
            if not run.scores:
                return None, "no scores of an lmms-eval run in it"
        elif path.name == _STATUS:
            run = _run(_Files(path.parent, results=content))
            _check(run, None)
            if not run.scores:
                return None, "no scores of a VLMEvalKit run in it"
        else:
            return None, "not a file of a run"
    except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
        return None, f"not a file of a run ({type(error).__name__}: {error})"
    return content, ""


def _check(run: Run, name: Any) -> None:
    """What was read alone must be a run whose numbers are numbers, or the page would fail on it.

    Raises:
        TypeError, AttributeError: something is of another type.
        ValueError: a number is not finite.
    """
    numbers = [value for value in run.cost.values() if value is not None]
    for score in run.scores:
        numbers += [
            score.accuracy,
            *score.parts.values(),
            *(accuracy for accuracy, _ in score.tasks.values()),
        ]
        numbers += [x for x in (score.strict, score.macro, score.micro, score.n) if x is not None]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("a number that is not finite")
    if not isinstance(name, str | None) or not run.hardware:
        raise TypeError("its run has no name")


def _run(files: _Files) -> Run:
    first = (files.summaries + files.ranks + [{}])[0]
    results = files.results or {}
    config = results.get("config") or {}
    settings = first.get("settings") or _told(results).get("stc_settings")
    name = str(settings["pretrained"]) if settings and settings.get("pretrained") else ""
    # our tasks give the scores in full in their summary; lmms-eval's file has the other tasks
    scores = [of_summary(summary) for summary in files.summaries]
    if "datasets" in results:
        scores += of_status(results)
    elif results:
        scores += [score for score in of_results(results) if not (score.ours and scores)]
    answers = [answer for rank in files.ranks for answer in rank["answers"]]
    folder = files.folder.resolve().name
    return Run(
        name=folder if files.summaries or files.ranks else str(results.get("model_name") or folder),
        model_name=name or str(results.get("model_name") or config.get("model") or "unknown"),
        method=str((settings or {}).get("method", "-")),
        stamp=str(first.get("run") or results.get("date") or results.get("updated_at") or ""),
        source=str(files.folder),
        settings=dict(settings or _command_line(config)),
        scores=scores,
        cost=total(_costs(files.ranks)) if files.ranks else {},
        model=next((rank["model"] for rank in files.ranks if rank.get("model")), {}),
        notes=rank_notes(files.ranks, len(answers)) if files.ranks else [],
        limited=bool(config.get("limit")),
    )


def _costs(ranks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [a["efficiency"] for rank in ranks for a in rank["answers"] if a.get("efficiency")]


def _told(results: dict[str, Any]) -> dict[str, Any]:
    config = results.get("config") or {}
    told = config.get("resolved_cli_args")
    return told if isinstance(told, dict) else {}


def _command_line(config: dict[str, Any]) -> dict[str, Any]:
    """Model and arguments of another model's run: `a=1,b=2` as a dictionary."""
    given = config.get("model_args")
    if isinstance(given, str):
        given = dict(pair.partition("=")[::2] for pair in given.split(",") if pair)
    shown = {key: config[key] for key in ("model", "limit", "gen_kwargs") if config.get(key)}
    return shown | (given if isinstance(given, dict) else {})


def _newest(runs: Sequence[Run]) -> list[Run]:
    """Drop scores that a newer run with the same settings in the same folder has again."""
    kept: set[tuple[str, ...]] = set()
    for run in sorted(runs, key=lambda run: run.stamp, reverse=True):
        who = (run.source, run.model_name, json.dumps(run.settings, sort_keys=True, default=str))
        again = [score for score in run.scores if (*who, score.benchmark) in kept]
        run.scores = [score for score in run.scores if score not in again]
        kept.update((*who, score.benchmark) for score in run.scores)
    return [run for run in runs if run.scores]
