"""What one evaluation run leaves on disk: `run.json`, typed and versioned.

    <output path>/stc_run_<run>/run.json       this file: scores, settings, costs, environment
    <output path>/stc_run_<run>/answers.jsonl  every answer with its cost, one per line

`<run>` is the start time and the method, so a second run with the same output path has a folder of its own
and names sort by time. Accuracies are fractions from 0 to 1, times milliseconds, sizes bytes.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from stc_lmms.benchmarks.summary import Summary

SCHEMA_VERSION = 1
FILE, ANSWERS = "run.json", "answers.jsonl"


class Model(BaseModel):
    """Immutable; unknown fields and numbers that are not finite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Score(Model):
    """One run on one benchmark, as tables show it; all accuracies in percent.

    Attributes:
        benchmark: name of the task or group, with its parts when some are absent.
        accuracy: the average that the benchmark itself reports, by its official scorer.
        average: which one that is: `macro`, `micro`, or the metric of another harness's result file.
        strict: by the strict scorer, in the same average; None when there is none.
        n: questions, including missing and failed ones; None when the file does not say.
        parts: part -> accuracy in the benchmark's own average.
        tasks: sub-task -> (accuracy, n).
        ours: scored by our own tasks.
    """

    benchmark: str
    accuracy: float
    average: str
    n: int | None = None
    strict: float | None = None
    macro: float | None = None
    micro: float | None = None
    n_missing: int | None = None
    n_unparsed: int | None = None
    n_failed: int | None = None
    parts: dict[str, float] = {}
    tasks: dict[str, tuple[float, int | None]] = {}
    ours: bool = True


class Run(Model):
    """One run.

    Attributes:
        run: its name, see above; "" for a run that this package did not record.
        harness: `lmms-eval`, `vlmevalkit` or `sweep` (a merge of runs).
        settings: resolved model arguments; of a model that is not ours, those of its command line.
        model: `StreamingModel.describe()`: execution, attention, dtype, context limit, environment.
        world_size: processes that shared the questions.
        answered, failed: answers with and without a result.
        replayed: answers taken from the journal of an earlier run, with the times of that run.
        restarts: how often a video was read from the start again.
        beyond_context: answers whose context was longer than the model supports.
        efficiency: see `stc_lmms.results.totals.total`; empty when nothing was measured.
        benchmarks: scores by benchmark, such as `ovobench_mini`.
        failures: reason -> number of failed answers.
        notes: what a reader of the numbers must know.
        answers: file with every answer, beside `run.json`; "" if there is none.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    run: str
    harness: str
    model_name: str = ""
    settings: dict[str, Any] = {}
    model: dict[str, Any] = {}
    world_size: int = 1
    answered: int = 0
    failed: int = 0
    replayed: int = 0
    restarts: int = 0
    beyond_context: int = 0
    efficiency: dict[str, float | int | None] = {}
    benchmarks: dict[str, Summary] = {}
    failures: dict[str, int] = {}
    notes: tuple[str, ...] = ()
    answers: str = ""
