"""Dialogues: a request of lmms-eval, or a row of our benchmarks, as rounds; each is a prompt about a clip."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from stc_lmms.benchmarks.base import NO_TIME_S, replay, rounds
from stc_lmms.engine.api import Generation
from stc_lmms.errors import DataError
from stc_lmms.eval.scoring import AnsweredRound
from stc_lmms.eval.session import Clip

logger = logging.getLogger(__name__)

# As in the tasks for lmms-eval: `max_new_tokens` of their YAML, and the stop string it adds to every request.
GENERATION = Generation(max_new_tokens=128, stop=("\n\n",))
MAX_BROKEN_ROUNDS = 256  # consecutive rounds that fail before asking; after that the dialogue ends


@dataclass(frozen=True)
class Round:
    """A question, or the reason why the task cannot ask it.

    `search`, `opening` and `watch`: see `Stream.ask`, `Generation` and `VideoSession.poll`.
    """

    prompt: str = ""
    clip: Clip | None = None
    failed: str = ""
    search: str | None = None
    opening: str = ""
    watch: str = ""


class Dialogue(ABC):
    """Questions asked in rounds, and the answers so far.

    Args:
        task: name of the task, for records.
        doc_id: number of the row in the task.
        row: the row.
        generation: decoding options.
        identity: everything that determines what is asked, for the journal's key.
    """

    def __init__(self, task: str, doc_id: int, row: Any, generation: Generation, identity: dict[str, Any]):
        self.task, self.doc_id, self.row = task, doc_id, row
        self.generation, self.identity = generation, identity
        self.answered: list[AnsweredRound] = []
        self.videos: list[str] = []  # in the order of the questions, without repeats
        self._rounds = self._ask()
        self.next: Round | None = next(self._rounds, None)

    @abstractmethod
    def _ask(self) -> Iterator[Round]:
        """Yield the rounds; `answered` has the answers to those before."""

    def respond(self, answer: AnsweredRound) -> None:
        """Take the answer to `next` and move on; `next` is None when there are no more rounds."""
        if self.next.clip is not None and self.next.clip.path not in self.videos:
            self.videos.append(self.next.clip.path)
        self.answered.append(answer)
        self.next = next(self._rounds, None)

    @property
    def failed(self) -> str:
        """The first failure, "" if there is none."""
        return next((answer.failed for answer in self.answered if answer.failed), "")


class ClipDialogue(Dialogue):
    """One question about one clip."""

    def __init__(self, task: str, prompt: str, clip: Clip):
        self._round = Round(prompt, clip)
        identity = {"task": task, "prompt": prompt, "clip": clip, "generation": GENERATION}
        super().__init__(task, 0, {}, GENERATION, identity)

    def _ask(self) -> Iterator[Round]:
        yield self._round


class RowDialogue(Dialogue):
    """A row of `load_rows`, without a harness in between."""

    def __init__(self, row: dict[str, Any], doc_id: int):
        task = "_".join(filter(None, (row["benchmark"], row["size"], row["part"])))
        super().__init__(task, doc_id, row, GENERATION, {"row": row, "generation": GENERATION})

    def _ask(self) -> Generator[Round, None, None]:
        benchmark_rounds = rounds(self.row)
        current = next(benchmark_rounds, None)
        while current is not None:
            end_s = None if current.end_s == NO_TIME_S else current.end_s
            clip = Clip(self.row["path"], current.start_s, end_s)
            yield Round(current.prompt, clip, "", current.search or None, current.opening, current.watch)
            try:
                current = benchmark_rounds.send(self.answered[-1].text)
            except StopIteration:
                return

    def of_question(self, qid: str) -> list[AnsweredRound]:
        """The answers to the rounds of one question."""
        past, _ = replay(self.row, [answer.text for answer in self.answered])
        return [answer for (one, _), answer in zip(past, self.answered, strict=False) if one.qid == qid]


class RequestDialogue(Dialogue):
    """A request of lmms-eval.

    Args:
        request: of type generate_until or generate_until_multi_round.
        doc: its row.
    """

    def __init__(self, request: Any, doc: Any):
        self.request = request
        self.multi_round = request.request_type == "generate_until_multi_round"
        identity = {
            "task": request.task_name,
            "doc_id": request.doc_id,
            "doc": doc,
            "context": request.args[0],
            "generation": request.args[1],
        }
        super().__init__(request.task_name, request.doc_id, doc, _generation(request.args[1]), identity)

    @property
    def result(self) -> Any:
        """What lmms-eval expects: a string, or a list of strings for several rounds."""
        texts = [answer.text for answer in self.answered]
        return texts if self.multi_round else texts[0]

    def _ask(self) -> Iterator[Round]:
        prompt, _, doc_to_visual = self.request.args[:3]
        yield self._try(lambda: (doc_to_visual(self.row), prompt))
        if not self.multi_round:
            return
        doc_to_text, info, broken = self.request.args[3], None, 0
        while broken < MAX_BROKEN_ROUNDS:
            texts = [answer.text for answer in self.answered]
            try:
                visuals, prompt, stop, _, info = doc_to_text(
                    self.row, previous_output=texts, round_idx=len(texts), previous_round_info=info
                )
            except Exception as error:  # one round's missing file must not end the rounds after it
                # The built-in ovobench leaves its round number in the arguments that all rows share.
                shared = getattr(doc_to_text, "keywords", {}).get("lmms_eval_specific_kwargs")
                (shared or {}).pop("round_idx", None)
                broken += 1
                yield Round(failed=reason(error))
                continue
            if stop:
                return
            broken, current = 0, (visuals, prompt)
            yield self._try(lambda current=current: current)

    @staticmethod
    def _try(ask: Callable[[], tuple[Any, str]]) -> Round:
        try:
            visuals, prompt = ask()
            clip, visual = to_clip(visuals), _only(visuals)
            extra = visual if isinstance(visual, dict) else {}
            texts = {name: extra.get(name) or "" for name in ("opening", "watch")}
            return Round(prompt, clip, search=extra.get("search") or None, **texts)
        except Exception as error:  # the sample is recorded as failed; the batch continues
            return Round(failed=reason(error))


def to_clip(visuals: Any) -> Clip:
    """The one video among a task's visuals.

    Accepts a path (the whole file, from its start) or
    `{"type": "video", "path" or "url": ..., "video_start": s, "video_end": s}`. Our own tasks add the
    question's `search`, `opening` and `watch`, which are not part of the clip.

    Raises:
        DataError: there is not exactly one video.
    """
    visual = _only(visuals)
    if isinstance(visual, str):
        return Clip(visual)
    if isinstance(visual, dict) and visual.get("type", "video") == "video":
        path = visual.get("path") or visual.get("url") or visual.get("video")
        if isinstance(path, str):
            end_s = visual.get("video_end")
            return Clip(path, float(visual.get("video_start") or 0), None if end_s is None else float(end_s))
    raise DataError(f"a streaming model takes a video file, the task gave a {type(visual).__name__}")


@cache
def _warn_of_sampling() -> None:
    logger.warning("decoding is greedy; do_sample and temperature are ignored")


def _generation(kwargs: dict[str, Any]) -> Generation:
    if kwargs.get("do_sample") or kwargs.get("temperature"):
        _warn_of_sampling()
    until = kwargs.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    return Generation(max_new_tokens=int(kwargs.get("max_new_tokens") or 128), stop=stop)


def _only(visuals: Any) -> Any:
    visuals = visuals if isinstance(visuals, (list, tuple)) else [visuals]
    if len(visuals) != 1:
        raise DataError(
            f"a streaming model takes one video per question, the task gave {len(visuals)} visuals"
        )
    return visuals[0]


def reason(error: BaseException) -> str:
    """An exception in one line, for records."""
    text = " ".join(str(error).split())
    return text if isinstance(error, DataError) else f"{type(error).__name__}: {text}"[:500]
