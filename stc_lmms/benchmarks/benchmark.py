"""Everything the package knows about one benchmark: a module's constant `BENCHMARK`, see `registry.py`."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

from stc_lmms.benchmarks import base, summary
from stc_lmms.benchmarks.base import NO_TIME_S, Judge, Record, Row
from stc_lmms.benchmarks.fields import read_json
from stc_lmms.data.roots import data_root, mini_root, question_file, question_files, video_path
from stc_lmms.data.source import DataSource, Portion
from stc_lmms.errors import DataError
from stc_lmms.suggest import unknown

logger = logging.getLogger(__name__)

WHOLE, MINI, TINY, CHUNKS = "", "mini", "tiny", "chunks"


class Chunks(NamedTuple):
    """Published clips, one per question, which end when the question is asked."""

    portion: str  # of the data source
    path: Callable[[str], str]  # qid -> path relative to the data root


class PublishedRun(NamedTuple):
    """The evaluation that published accuracies refer to.

    Attributes:
        title: key of the numbers in `stc_lmms.results.published`.
        questions: number of questions of a complete run.
        parts: evaluated parts; empty means all.
        builtin_task: lmms-eval's own task for the same questions, if any.
    """

    title: str
    questions: int
    parts: tuple[str, ...] = ()
    builtin_task: str = ""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: its data, rows, prompts, scorer and averages.

    Attributes:
        parts: part -> its sub-tasks, in table order.
        headline: the average the benchmark reports: mean of the sub-tasks, or pooled over questions.
        load_annotations: reads one question file; raises DataError if it is malformed.
        build_rows: (annotations, part) -> rows, one per video. Prompts are built here.
        video_candidates: video as annotated -> paths relative to the data root, best first.
        portions: part -> downloaded portion, where their names differ.
        mini_questions: question file of the mini data; empty if named like that of the whole benchmark.
        mini_parts, tiny_parts: parts that the mini data and its tiny subset have; empty if none.
        hub_annotations: annotations from the dataset hub, for a root (the argument) without question file.
        timed: questions have times, so `stc-lmms plan` can predict what is read.
        task: lmms-eval task or group of the whole benchmark; empty if called `name`.
        vlmeval_class: dataset class in VLMEvalKit; empty if the benchmark is not available there.
        vlmeval_parts: parts of the VLMEvalKit dataset without a part in its name; empty means all.
    """

    name: str
    parts: Mapping[str, tuple[str, ...]]
    headline: Literal["macro", "micro"]
    judge: Judge
    source: DataSource
    load_annotations: Callable[[Path], list[Any]]
    build_rows: Callable[[Sequence[Any], str], list[Row]]
    video_candidates: Callable[[str], list[str]]
    portions: Mapping[str, str] = field(default_factory=dict)
    mini_questions: str = ""
    mini_parts: tuple[str, ...] = ()
    tiny_parts: tuple[str, ...] = ()
    hub_annotations: Callable[[Path], list[Any]] | None = None
    chunks: Chunks | None = None
    timed: bool = True
    task: str = ""
    vlmeval_class: str = ""
    vlmeval_parts: tuple[str, ...] = ()
    published: PublishedRun | None = None

    @property
    def sizes(self) -> dict[str, tuple[str, ...]]:
        """Parts of each size: whole (""), `mini` (ships with the package), `tiny` (subset), and `chunks`."""
        whole = tuple(self.parts)
        chunks = whole if self.chunks else ()
        sizes = {WHOLE: whole, MINI: self.mini_parts, TINY: self.tiny_parts, CHUNKS: chunks}
        return {size: parts for size, parts in sizes.items() if parts}

    @property
    def other_average(self) -> str:
        """The average that is not the headline: `macro` or `micro`."""
        return "macro" if self.headline == "micro" else "micro"

    def label(self, size: str = WHOLE) -> str:
        """Name of the benchmark in a size, such as `ovobench_mini`; used by summaries and commands."""
        return f"{self.name}_{size}" if size else self.name

    def task_name(self, size: str = WHOLE, parts: Iterable[str] | None = None) -> str:
        """Name of a result in tables, with the evaluated parts unless it is complete (None)."""
        name = self.label(size) if size == CHUNKS else f"{self.task or self.name}{f'_{size}' if size else ''}"
        return name if parts is None else f"{name} ({', '.join(parts)})"

    def load_rows(self, part: str, size: str = WHOLE) -> list[dict[str, Any]]:
        """One row per video (`chunks`: one per question).

        Returns:
            `Row`s with three more keys: `benchmark`, `size`, and `path`, the absolute path of the video. A
            missing video keeps its expected path, so that its questions fail and are counted.

        Raises:
            DataError: unknown part or size; no data root; missing or malformed annotations; or no video of
                the part is there.
        """
        if size not in self.sizes:
            raise DataError(unknown(f"size of {self.name}", size, self.sizes))
        self._check_part(part)
        root = self._root(part, size)
        rows = self._rows(root, part, size)
        if not rows:
            raise DataError(f"{self.name} in {root} has no questions of part {part!r}")
        if size == CHUNKS:
            return self._chunk_rows(root, part, rows)
        candidates = [self.video_candidates(row["video"]) for row in rows]
        paths = [video_path(root, names) or root / names[0] for names in candidates]
        if size == WHOLE and not any(path.is_file() for path in paths):
            hint = self.source.videos_hint(self._portion(part), root)
            videos = f"{len(paths)} videos of part {part!r} of {self.name}"
            raise DataError(f"none of the {videos} is in {root}: {hint}")
        added = {"benchmark": self.name, "size": size}
        return [dict(row) | added | {"path": str(path)} for row, path in zip(rows, paths, strict=True)]

    def needed_videos(
        self, parts: Sequence[str] | None = None, size: str = WHOLE
    ) -> tuple[Path, list[tuple[list[str], float]]]:
        """What `stc-lmms data verify` checks.

        Args:
            parts: keys of `parts`; None means all whose annotations are there.
            size: `""` or `mini`.

        Returns:
            The data root, and for every row the candidate paths of its video and the second up to which it is
            needed (negative: unknown, because a question is asked at the end of the video).
        """
        chosen = tuple(parts or self.parts)
        for part in chosen:
            self._check_part(part)
        root = self._root(chosen[0], size)
        needed: list[tuple[list[str], float]] = []
        for part in chosen:
            try:
                rows = self._rows(root, part, size)
            except DataError:
                if parts or part == chosen[0]:
                    raise
                continue
            for row in rows:
                end_s = max(question["end_s"] for question in row["questions"])
                needed.append((self.video_candidates(row["video"]), end_s))
        return root, needed

    def annotations(self, root: Path, part: str, size: str = WHOLE) -> list[Any]:
        """Annotations of a part: from its question file, from the files that replace it, or from the hub."""
        mini = size in (MINI, TINY)
        portion = self.source.portions[self._portion(part)]
        if mini and self.mini_questions:
            portion = Portion(self.mini_questions)
        if files := question_files(root, portion, self.source):
            return [annotation for file in files for annotation in self.load_annotations(file)]
        if mini or self.hub_annotations is None:
            question_file(root, portion.questions, self.source)  # raises, with the cure
        logger.info("%s is not in %s; taking the questions from the dataset hub", portion.questions, root)
        return self.hub_annotations(root)

    def score_row(
        self,
        row: Row,
        responses: Sequence[str | None],
        reports: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> list[Record]:
        """Score all questions of a row; see `base.score_row`."""
        return base.score_row(row, responses, self.judge, reports)

    def summarise(self, records: Iterable[Record]) -> summary.Summary:
        """Summarise records. `total` is None while a part has no records."""
        return summary.summarise(records, self.parts, self.headline)

    def _portion(self, part: str) -> str:
        return self.portions.get(part, part)

    def _check_part(self, part: str) -> None:
        if part not in self.parts:
            raise DataError(unknown("part", part, self.parts))

    def _root(self, part: str, size: str) -> Path:
        if size in (MINI, TINY):
            return mini_root()
        return data_root(self.source, self.chunks.portion if size == CHUNKS else self._portion(part))

    def _rows(self, root: Path, part: str, size: str) -> list[Row]:
        rows = self.build_rows(self.annotations(root, part, size), part)
        if size == TINY:
            names = read_json(question_file(root, "tiny.json", self.source))
            rows = [row for row in rows if PurePath(row["video"]).name in names]
        return rows

    def _chunk_rows(self, root: Path, part: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
        found = [
            dict(row)
            | {"benchmark": self.name, "size": CHUNKS, "questions": [question | {"end_s": NO_TIME_S}]}
            | {"path": str(root / self.chunks.path(question["qid"]))}
            for row in rows
            for question in row["questions"]
        ]
        if not any(Path(row["path"]).is_file() for row in found):
            clips = f"{len(found)} chunk files of part {part!r}"
            command = self.source.fetch_command(self.chunks.portion, root)
            raise DataError(f"none of the {clips} is in {root}: run {command}")
        return found
