"""What the run of this process has answered so far, for the task functions and for `run.json`.

lmms-eval passes only texts to the task functions. The adapter of a harness opens a run with `start`, and the
task functions find it by `current`. Models of lmms-eval's own open none: their runs have scores but no costs.
"""

import itertools
import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from stc_lmms.benchmarks.base import Record
from stc_lmms.benchmarks.registry import find
from stc_lmms.benchmarks.summary import Summary
from stc_lmms.eval.scoring import AnsweredRound
from stc_lmms.eval.shard import VARIABLE as SHARD
from stc_lmms.results.schema import ANSWERS, Run
from stc_lmms.results.totals import notes, total
from stc_lmms.results.write import write_run

logger = logging.getLogger(__name__)
_ROW_KEYS = ("benchmark", "size", "part", "video")


def new_run(name: str, world_size: int = 1) -> str:
    """Name of a run that starts now, the same on every rank; names sort by time."""
    run = [f"{datetime.now():%Y%m%d_%H%M%S_%f}"[:-3] + f"_{name}"]
    if world_size > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(run)
    return run[0]


@dataclass(eq=False)
class Recorder:
    """One run so far, as seen by this process. Fields that `Run` has mean the same there.

    Attributes:
        run: its name, see `new_run`.
        output: output path; None: nothing is written.
        args: lmms-eval's parsed command line; distinguishes runs in one process.
        broken_videos: number of answers that failed because their video cannot be read.
        answers: of this rank, in the order in which they were given.
        benchmarks: summary of every benchmark so far.
    """

    run: str
    harness: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    rank: int = 0
    world_size: int = 1
    output: Path | None = None
    args: Any = None
    model_name: str = ""
    model: dict[str, Any] | None = None
    restarts: int = 0
    broken_videos: int = 0
    answers: list[dict[str, Any]] = field(default_factory=list)
    benchmarks: dict[str, Summary] = field(default_factory=dict)
    _rounds: dict[tuple[str, ...], list[AnsweredRound]] = field(default_factory=dict)
    _scored: dict[str, dict[str, list[Record]]] = field(default_factory=dict)
    _shares: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, task: str, doc_id: int, row: Mapping[str, Any], rounds: Sequence[AnsweredRound], replayed: bool
    ) -> None:
        """Record the answers to one row; `replayed` ones were measured by an earlier run."""
        about = {"task": task, "doc_id": doc_id} | ({"rank": self.rank} if self.world_size > 1 else {})
        mark = {"replayed": True} if replayed else {}
        self.answers += [about | answer.record() | mark for answer in rounds]
        if (key := _row_key(row)) is not None:
            self._rounds[key] = list(rounds)

    def rounds(self, row: Mapping[str, Any], texts: Sequence[str]) -> list[AnsweredRound]:
        """The answers to a row with their records; only the text for one that this run did not give."""
        known = self._rounds.get(_row_key(row) or (), [])
        if len(known) != len(texts):
            return [AnsweredRound(text) for text in texts]
        return [k if k.text == text else AnsweredRound(text) for k, text in zip(known, texts, strict=True)]

    def summarise(self, benchmark: str, size: str, records: Sequence[Record]) -> Summary:
        """The summary of a benchmark after these records; they replace earlier ones of the same parts."""
        found = find(benchmark)
        name = found.label(size)
        parts = self._scored.setdefault(name, {})
        for part in {record["part"] for record in records}:
            parts[part] = [record for record in records if record["part"] == part]
        self.benchmarks[name] = found.summarise(itertools.chain(*parts.values()))
        return self.benchmarks[name]

    def gather(self) -> None:
        """Collect what every rank has answered; all ranks must call it, because it waits for the others."""
        names = ("answers", "restarts", "broken_videos", "model")
        self._shares = [{name: getattr(self, name) for name in names}]
        if self.world_size > 1:
            from accelerate.utils import gather_object

            self._shares = gather_object(self._shares)

    def _all(self, name: str) -> list[Any]:
        """A value of each rank after `gather`, else of this one."""
        return [share[name] for share in self._shares] or [getattr(self, name)]

    def to_run(self) -> Run:
        """The run so far: of all ranks after `gather`, else of this one."""
        answers = [*itertools.chain(*self._all("answers"))]
        costs = [answer["efficiency"] for answer in answers if "efficiency" in answer]
        failures = Counter(answer["failed"] for answer in answers if answer.get("failed"))
        model = next(filter(None, self._all("model")), {})
        limit = model.get("context_limit")
        replayed = sum("replayed" in answer for answer in answers)
        beyond = sum(limit is not None and cost["context_tokens"] > limit for cost in costs)
        return Run(
            run=self.run,
            harness=self.harness,
            model_name=self.model_name,
            settings=dict(self.settings),
            model=model,
            world_size=self.world_size,
            answered=len(answers) - failures.total(),
            failed=failures.total(),
            replayed=replayed,
            restarts=sum(self._all("restarts")),
            beyond_context=beyond,
            efficiency=total(costs) if answers else {},
            benchmarks=self.benchmarks,
            failures=dict(failures),
            notes=notes(replayed, beyond, len(answers)),
            answers=ANSWERS if answers else "",
        )

    def echo(self) -> dict[str, Any]:
        """Counts and costs, flat, for lmms-eval's results."""
        run = self.to_run()
        names = ("run", "world_size", "answered", "failed", "restarts", "replayed", "beyond_context")
        return {name: getattr(run, name) for name in names} | {"rank": self.rank} | run.efficiency

    def write(self, answers: bool = False) -> None:
        """Write `run.json`, and the answers if asked to, on the first rank if there is an output path.

        Raises:
            StcError: a file cannot be written.
        """
        if self.output is None or self.rank:
            return
        run = self.to_run()
        write_run(
            self.output, run, itertools.chain(*self._all("answers")) if answers and run.answers else None
        )
        if answers and run.beyond_context:
            limit, count = run.model["context_limit"], run.beyond_context
            why = f"{count} answers had more context than the {limit} tokens the model is made for"
            logger.warning("%s; lower token_budget or fps", why)

    def check(self) -> None:
        """After `gather`: exit with status 2, and one line from the first rank, if no answer succeeded.

        A shard may consist of broken videos only; its answers count as failed, as in an unsharded run.
        """
        run = self.to_run()
        if os.environ.get(SHARD) and run.failed == sum(self._all("broken_videos")):
            return
        if run.failed and not run.answered:
            if self.rank == 0:
                reason = f"all {run.failed} answers failed, the first with: {next(iter(run.failures))}"
                print(f"stc-lmms: error: nothing could be evaluated: {reason}", file=sys.stderr)
            raise SystemExit(2)


_current: Recorder | None = None


def start(recorder: Recorder) -> Recorder:
    """Make this the current run of the process, in place of the one before."""
    global _current
    _current = recorder
    return recorder


def finish() -> None:
    """Close the current run."""
    global _current
    _current = None


def current(args: Any = None) -> Recorder:
    """The current run; a new one of an unknown model, if none is open or the open one has other `args`."""
    if _current is not None and (args is None or _current.args is args):
        return _current
    output = getattr(args, "output_path", None)
    name = new_run(str(getattr(args, "model", None) or "unknown").replace("/", "_"))
    if args is not None:
        args.stc_run = name  # lmms-eval repeats it in its results, by which they are found again
    return start(Recorder(name, "lmms-eval", output=Path(output) if output else None, args=args))


def rounds_of(row: Mapping[str, Any], texts: Sequence[str]) -> list[AnsweredRound]:
    """The answers to a row with the records of the current run, if one is open."""
    return [AnsweredRound(text) for text in texts] if _current is None else _current.rounds(row, texts)


def _row_key(row: Any) -> tuple[str, ...] | None:
    """What identifies a row of our benchmarks; None for a document of another task."""
    if isinstance(row, Mapping) and all(isinstance(row.get(name), str) for name in _ROW_KEYS):
        return tuple(row[name] for name in _ROW_KEYS)
    return None
