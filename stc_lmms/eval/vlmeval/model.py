"""Streaming models as VLMEvalKit models. Imports vlmeval: only `stc-vlmeval` loads this.

A model takes the path of a video and samples it itself. Questions about one video go on with its stream as
long as they go forward in time; of our own datasets a message brings all questions about its video, which are
asked in order of time at the first of them.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmeval.inference_video import FAIL_MSG
from vlmeval.vlm.base import BaseModel

from stc_lmms.engine.api import open_device
from stc_lmms.eval.dialogue import AnswerText, ClipDialogue, Dialogue, RowDialogue
from stc_lmms.eval.evaluation import (
    Evaluation,
    open_journal,
    resume,
    write_entry,
)
from stc_lmms.eval.fingerprint import dialogue_key, run_identity
from stc_lmms.eval.session import Clip
from stc_lmms.eval.vlmeval.run import with_fps

_KINDS = ("text", "image", "video")


class StcVLM(Evaluation, BaseModel):
    """A streaming model in VLMEvalKit.

    Args:
        registered: name in the registry of models.
        journal: folder of the resume journal.
        **model_args: see `stc_lmms.config.Settings`.
    """

    INTERLEAVE = False
    VIDEO_LLM = True
    nframe = None  # frames are sampled by time; None keeps VLMEvalKit from setting a number

    def __init__(self, registered: str, journal: Path, **model_args: Any):
        super().__init__()
        self.registered = registered
        rank = int(os.environ.get("RANK", 0))
        device = open_device(str(model_args.pop("device", "auto")))
        self.open_run(model_args, str(device), rank)
        self._own = self.settings
        self._rows: dict[str, list[RowDialogue]] = {}
        self._journal = open_journal(journal, rank, "give another --work-dir")

    @property
    def fps(self) -> float:
        """Frames per second; VLMEvalKit sets it to that of a dataset, None gives back the model's own."""
        return self.settings.fps

    @fps.setter
    def fps(self, value: float | None) -> None:
        wanted = with_fps(self._own, value)
        if wanted == self.settings:
            return
        self.close_video()
        self._rows.clear()
        self.settings = wanted
        if self._model is not None:
            self._model = self._model.with_settings(wanted)

    def generate(self, message: Any, dataset: str | None = None) -> str:
        """The answer to a message, or VLMEvalKit's mark of a failure with its reason.

        In place of `generate_inner`: what stands around that looks for files and addresses in every text.
        """
        parts = message if isinstance(message, list) else [message]
        of_type = {kind: [p for p in parts if isinstance(p, dict) and p["type"] == kind] for kind in _KINDS}
        if len(of_type["video"]) != 1 or of_type["image"]:
            return f"{FAIL_MSG} a streaming model takes one video per question"
        (video,) = of_type["video"]
        if "rows" in video:
            return _prediction(self._of_rows(video["rows"], video["qid"]))
        prompt = "\n".join(part["value"] for part in of_type["text"])
        job = ClipDialogue(str(dataset), prompt, Clip(video["value"]))
        self._answer_all([job])
        return _prediction(job.responses)

    def _of_rows(self, rows: Sequence[dict[str, Any]], qid: str) -> list[AnswerText]:
        path = rows[0]["path"]
        jobs = self._rows.get(path)
        if jobs is None or [job.row for job in jobs] != list(rows):
            jobs = [RowDialogue(row, number) for number, row in enumerate(rows)]
            self._answer_all(jobs)
            self._rows[path] = jobs
        return next(found for job in jobs if (found := job.of_question(qid)))

    def _answer_all(self, jobs: Sequence[Dialogue]) -> None:
        """Answer the jobs, from the journal if it has them."""
        run = run_identity(self.settings, self._device)
        keys = {job: dialogue_key(job, run) for job in jobs}
        todo = [job for job in jobs if resume(self._journal, keys[job], job) is None]
        for job in self.play(todo):
            write_entry(self._journal, keys[job], job, self.model.describe())


def _prediction(responses: Sequence[AnswerText]) -> str:
    failed = next((r.record["failed"] for r in responses if r.record.get("failed")), "")
    return f"{FAIL_MSG} {failed}" if failed else str(responses[-1])
