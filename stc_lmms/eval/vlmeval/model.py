"""Streaming models as VLMEvalKit models. Imports vlmeval: only `stc-vlmeval` loads this.

A model takes the path of a video and samples it itself. A message of our own datasets carries all questions
about its video; at the first of them all are asked, in order of time.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmeval.inference_video import FAIL_MSG
from vlmeval.vlm.base import BaseModel

from stc_lmms.engine.api import open_device
from stc_lmms.eval.dialogue import ClipDialogue, Dialogue, RowDialogue
from stc_lmms.eval.evaluation import Evaluation, open_journal, resume, write_entry
from stc_lmms.eval.fingerprint import dialogue_key, run_identity
from stc_lmms.eval.scoring import AnsweredRound
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
    nframe = None  # frames are sampled by time; with None VLMEvalKit sets no number of frames

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
        """Frames per second. VLMEvalKit sets it to that of a dataset; None restores the model's own."""
        return self.settings.fps

    @fps.setter
    def fps(self, value: float | None) -> None:
        settings = with_fps(self._own, value)
        if settings == self.settings:
            return
        self.close_video()
        self._rows.clear()
        self.settings = settings
        if self._model is not None:
            self._model = self._model.with_settings(settings)

    def generate(self, message: Any, dataset: str | None = None) -> str:
        """The answer to a message, or VLMEvalKit's mark of a failure with its reason.

        Overridden instead of `generate_inner`, whose caller looks for files and URLs in every text.
        """
        parts = message if isinstance(message, list) else [message]
        of_type = {kind: [p for p in parts if isinstance(p, dict) and p["type"] == kind] for kind in _KINDS}
        if len(of_type["video"]) != 1 or of_type["image"]:
            return f"{FAIL_MSG} a streaming model takes one video per question"
        (video,) = of_type["video"]
        if "rows" in video:
            return _prediction(self._of_rows(video["rows"], video["qid"]))
        prompt = "\n".join(part["value"] for part in of_type["text"])
        dialogue = ClipDialogue(str(dataset), prompt, Clip(video["value"]))
        self._answer_all([dialogue])
        return _prediction(dialogue.answered)

    def _of_rows(self, rows: Sequence[dict[str, Any]], qid: str) -> list[AnsweredRound]:
        path = rows[0]["path"]
        dialogues = self._rows.get(path)
        if dialogues is None or [dialogue.row for dialogue in dialogues] != list(rows):
            dialogues = [RowDialogue(row, number) for number, row in enumerate(rows)]
            self._answer_all(dialogues)
            self._rows[path] = dialogues
        return next(found for dialogue in dialogues if (found := dialogue.of_question(qid)))

    def _answer_all(self, dialogues: Sequence[Dialogue]) -> None:
        """Answer the dialogues, from the journal if it has them."""
        run = run_identity(self.settings, self._device)
        keys = {dialogue: dialogue_key(dialogue, run) for dialogue in dialogues}
        todo = [dialogue for dialogue in dialogues if resume(self._journal, keys[dialogue], dialogue) is None]
        for dialogue in self.play(todo):
            write_entry(self._journal, keys[dialogue], dialogue, self.model.describe())


def _prediction(answers: Sequence[AnsweredRound]) -> str:
    failed = next((answer.failed for answer in answers if answer.failed), "")
    return f"{FAIL_MSG} {failed}" if failed else answers[-1].text
