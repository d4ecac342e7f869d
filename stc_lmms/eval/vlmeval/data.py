"""Our benchmarks as VLMEvalKit datasets. Imports vlmeval: only `stc-vlmeval` loads this.

A line of VLMEvalKit's table is a question; its message carries all rows of the video, so that the model plays
every video once. Scores are computed from the journal: a spreadsheet does not preserve every text.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import pandas as pd
import torch
from vlmeval.dataset.video_base import VideoBaseDataset
from vlmeval.inference_video import FAIL_MSG
from vlmeval.smp import dump, get_rank_and_world_size, load
from vlmeval.smp.file import get_intermediate_file_path

from stc_lmms.benchmarks.base import Record
from stc_lmms.benchmarks.benchmark import CHUNKS, WHOLE, Benchmark
from stc_lmms.benchmarks.registry import BENCHMARKS
from stc_lmms.benchmarks.summary import Summary, format_table
from stc_lmms.config import Settings
from stc_lmms.errors import DataError, StcError
from stc_lmms.eval.dialogue import RowDialogue
from stc_lmms.eval.evaluation import from_entry
from stc_lmms.eval.fingerprint import dialogue_key, run_identity
from stc_lmms.eval.recorder import Recorder
from stc_lmms.eval.scoring import AnsweredRound, score, summary_name
from stc_lmms.eval.vlmeval.run import Run, stale, with_fps
from stc_lmms.results.journal import Journal
from stc_lmms.suggest import unknown

T = TypeVar("T")
Rounds = list[AnsweredRound]
_SCORES = ("official", "strict", "missing", "unparsed", "failed", "past_end", "end_s", "rounds")
_COUNTS = ("n", "n_missing", "n_unparsed", "n_failed", "n_past_end")


class Selection(NamedTuple):
    """The rows of a dataset: parts of a benchmark, in one of its sizes."""

    parts: tuple[str, ...]
    size: str


class StreamDataset(VideoBaseDataset):
    """A benchmark of ours, a key of `SELECTIONS`; if `fps` is not positive, the model uses its own rate."""

    TYPE = "Video-VQA"
    JUDGE_FAIL_MARKERS = ()  # no judge model; failed answers are the evaluated model's
    BENCHMARK: ClassVar[Benchmark]
    SELECTIONS: ClassVar[dict[str, Selection]]
    run: ClassVar[Run]

    def __init__(self, dataset: str, nframe: int = 0, fps: float = -1, **_: Any):
        # The base constructor is not called: it reads a file and creates folders in the user's home.
        if dataset not in self.SELECTIONS:
            raise DataError(unknown("dataset", dataset, self.SELECTIONS))
        if nframe > 0:
            raise DataError(f"nframe={nframe}: streams are sampled by time; give fps instead")
        self.dataset_name, self.nframe, self.fps, self.pack = dataset, nframe, fps, False
        self.prepare_dataset(dataset)
        self.chunks = self.SELECTIONS[dataset].size == CHUNKS
        self._rows_of: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            self._rows_of.setdefault(row["path"], []).append(row)
        # VLMEvalKit matches tables by index, so it must not depend on the number of ranks.
        number = itertools.count()
        groups = [
            [(next(number), row, question) for row in rows for question in row["questions"]]
            for rows in self._rows_of.values()
        ]
        lines = assign_to_ranks(groups, get_rank_and_world_size()[1])
        self._path = {index: row["path"] for index, row, _ in lines}
        self.data = pd.DataFrame(
            {"index": index, "video": row["video"], "part": row["part"], "qid": question["qid"]}
            | {"task": question["task"], "question": question["prompt"], "answer": question["answer"]}
            for index, row, question in lines
        )
        self.videos = sorted(set(self.data["video"]))
        self.split_frame = False  # the model reads the file

    def prepare_dataset(self, dataset: str) -> dict[str, str]:
        """Load the rows, which have the paths of their videos; so the base class gets no folder or file."""
        chosen = self.SELECTIONS[dataset]
        self.rows = [row for part in chosen.parts for row in self.BENCHMARK.load_rows(part, chosen.size)]
        return {"root": "", "data_file": ""}

    @classmethod
    def supported_datasets(cls) -> list[str]:
        """Names that VLMEvalKit can build although its table of video datasets lacks them."""
        return list(cls.SELECTIONS)

    @classmethod
    def report_primary_metric(cls, metrics: dict[str, Any] | None) -> dict[str, float]:
        """The benchmark's own average by its official scorer."""
        return {"acc": metrics["acc"]} if metrics and "acc" in metrics else {}

    def build_prompt(self, line: int | pd.Series, video_llm: bool) -> list[dict[str, Any]]:
        """The message of a question: its video and text, and for our models all rows of the video."""
        if not video_llm:
            raise DataError(f"{self.dataset_name} has video files, but this model accepts only frames")
        line = self.data.iloc[line] if isinstance(line, int) else line
        path = self._path[int(line["index"])]
        video = {"type": "video", "value": path, "rows": self._rows_of[path], "qid": line["qid"]}
        return [video, {"type": "text", "value": line["question"]}]

    def evaluate(self, eval_file: str, **_: Any) -> dict[str, Any]:
        """Score a result table; writes tables and the run's record next to it.

        Raises:
            DataError: the journal does not have every answer of a model of ours.
            StcError: all its answers failed. VLMEvalKit logs it and continues with the next dataset.
        """
        folder, model = Path(eval_file).parent, Path(eval_file).parent.name
        settings = self.run.settings.get(model)
        settings = settings and with_fps(settings, self.fps)
        recorder = self.run.recorder(folder, settings)
        if settings is None:
            answers = self._foreign(eval_file)
        else:
            answers = self._journalled(recorder, settings, eval_file)
        scored = [r for row, rounds in zip(self.rows, answers, strict=True) for r in score(row, rounds)]
        summary, name = self.BENCHMARK.summarise(scored), summary_name(self.rows[0])
        (only, *others) = summary["parts"]
        about = "accuracy in percent (missing and failed answers count as wrong)"
        print(f"\n{name}: {about}\n{format_table(summary, None if others else only)}\n")
        self._dump_tables(eval_file, scored, summary)
        recorder.summarise(self.rows[0]["benchmark"], self.rows[0]["size"], scored)
        recorder.write(answers=settings is not None)
        failed = [answer.failed for of_row in answers for answer in of_row]
        if settings and failed and all(failed):
            first = f"all {len(failed)} answers failed, the first with: {failed[0]}"
            raise StcError(f"nothing could be evaluated: {first}")
        self.run.evaluated.add((model, Path(eval_file).stem.removeprefix(f"{model}_")))
        return metrics(summary)

    def missing(self, settings: Settings, journal: Journal) -> bool:
        """Whether a row was never asked with these settings."""
        return any(journal.last(key) is None for key, _ in self._dialogues(with_fps(settings, self.fps)))

    def _dialogues(self, settings: Settings) -> list[tuple[str, RowDialogue]]:
        """The dialogue of every row, after its key in the journal."""
        identity = run_identity(settings, torch.device(settings.device))
        dialogues = [RowDialogue(row, number) for number, row in enumerate(self.rows)]
        return [(dialogue_key(dialogue, identity), dialogue) for dialogue in dialogues]

    def _journalled(self, recorder: Recorder, settings: Settings, eval_file: str) -> list[Rounds]:
        """The journal's answers to every row; they are added to the recorder."""
        journal = Journal(self.run.journal)
        journal.close()
        answers = []
        for key, dialogue in self._dialogues(settings):
            entry = journal.last(key)
            if entry is None:
                raise DataError(stale(eval_file, self.run.journal))
            recorder.model = recorder.model or entry.get("model")
            rounds = from_entry(entry)
            place = dialogue.task, dialogue.doc_id, dialogue.row
            recorder.add(*place, rounds, replayed=key in self.run.resumed)
            answers.append(rounds)
        return answers

    def _foreign(self, eval_file: str) -> list[Rounds]:
        """Answers of a model of VLMEvalKit's own, which has one round per row."""
        table = pd.DataFrame(load(eval_file))
        answers = dict(zip(table["qid"].astype(str), table["prediction"].fillna("").astype(str), strict=True))
        texts = [answers.get(row["questions"][0]["qid"], "") for row in self.rows]
        return [[AnsweredRound("", failed=t) if FAIL_MSG in t else AnsweredRound(t)] for t in texts]

    def _dump_tables(self, eval_file: str, records: Sequence[Record], summary: Summary) -> None:
        """The score of every question, and the accuracy of every sub-task."""
        scored = {(r["part"], r["qid"]): r for r in records}
        of_line = [scored[key] for key in zip(self.data["part"], self.data["qid"], strict=True)]
        table = self.data.drop(columns="prediction", errors="ignore")
        table["prediction"] = [r["response"] for r in of_line]
        for name in _SCORES:
            table[name] = [r[name] for r in of_line]
        dump(table, get_intermediate_file_path(eval_file, "_score"))
        tasks = [
            {"part": part, "task": task, **{name: values[name] for name in _COUNTS}}
            | {scorer: 100 * values["accuracy"][scorer] for scorer in ("official", "strict")}
            for part, of_part in summary["parts"].items()
            for task, values in of_part["tasks"].items()
        ]
        dump(pd.DataFrame(tasks), get_intermediate_file_path(eval_file, "_acc"))


def selections(benchmark: Benchmark) -> dict[str, Selection]:
    """Dataset names of a benchmark, such as `OVOBench_mini_forward`, and the rows they have.

    A name without a part has `vlmeval_parts` or all parts. A name without a size has the published clips if
    there are any (whole videos are then called `_stream`), else whole videos.
    """
    found = {}
    for size, parts in benchmark.sizes.items():
        endings = {CHUNKS: "", WHOLE: "_stream" if benchmark.chunks else ""}
        name = benchmark.vlmeval_class + endings.get(size, f"_{size}")
        default = benchmark.vlmeval_parts or parts
        found[name] = Selection(default, size)
        found |= {f"{name}_{part}": Selection((part,), size) for part in parts if (part,) != default}
    return found


def _dataset_class(benchmark: Benchmark) -> type[StreamDataset]:
    about = {"__doc__": f"{benchmark.name} in VLMEvalKit.", "__module__": __name__}
    members = about | {"BENCHMARK": benchmark, "SELECTIONS": selections(benchmark)}
    return type(benchmark.vlmeval_class, (StreamDataset,), members)


CLASSES = {found.vlmeval_class: _dataset_class(found) for found in BENCHMARKS.values() if found.vlmeval_class}


def registered() -> dict[str, tuple[type[StreamDataset], dict[str, Any]]]:
    """`--data` name -> class and arguments. Whole videos are sampled at 0.5 fps, the published rate."""
    found = {}
    for cls in CLASSES.values():
        for name, chosen in cls.SELECTIONS.items():
            fps = {"fps": 0.5} if chosen.size == WHOLE else {}
            found[f"{name}_0.5fps" if fps else name] = cls, {"dataset": name} | fps
    return found


def metrics(summary: Summary) -> dict[str, Any]:
    """The numbers of a summary as VLMEvalKit shows them: accuracies in percent, counts."""
    parts, kind = summary["parts"], summary["headline"]
    macro = summary["total"] or next(iter(parts.values()))["macro"]  # all parts, or just one
    averages = {"macro": macro, "micro": summary["micro"]}
    other = "micro" if kind == "macro" else "macro"
    found = {"acc": 100 * averages[kind]["official"], "acc_strict": 100 * averages[kind]["strict"]}
    found |= {other: 100 * averages[other]["official"]}
    found |= {name: summary[name] for name in _COUNTS}
    if len(parts) > 1:
        found |= {name: 100 * part[kind]["official"] for name, part in parts.items()}
    return found


def assign_to_ranks(groups: Sequence[Sequence[T]], ranks: int) -> list[T]:
    """Order items so that the rank that VLMEvalKit gives item i to, i mod `ranks`, has whole groups.

    Groups (the questions of a video) are split only where they do not fit.
    """
    total = sum(map(len, groups))
    room = [len(range(rank, total, ranks)) for rank in range(ranks)]
    assigned: list[list[T]] = [[] for _ in range(ranks)]
    for group in groups if ranks == 1 else sorted(groups, key=len, reverse=True):
        rest = list(group)
        while rest:
            rank = max(range(ranks), key=lambda rank: room[rank])
            taken, rest = rest[: room[rank]], rest[room[rank] :]
            assigned[rank] += taken
            room[rank] -= len(taken)
    return [assigned[index % ranks][index // ranks] for index in range(total)]
