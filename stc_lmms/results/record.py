"""The record of one run: what every answer cost, how many failed, and where it was measured."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from stc_lmms.eval.shard import VARIABLE as SHARD
from stc_lmms.config import Settings
from stc_lmms.engine.timers import total

logger = logging.getLogger(__name__)


def new_run(method: str, world_size: int) -> str:
    """Name of a run that starts now, the same on every rank. Names sort by time."""
    name = [f"{datetime.now():%Y%m%d_%H%M%S_%f}"[:-3] + f"_{method}"]
    return broadcast_object_list(name)[0] if world_size > 1 else name[0]


class RunRecord:
    """Answers of this rank, in the order in which they were given.

    Args:
        run: name of the run, see `new_run`.
        settings: resolved model arguments.
        rank, world_size: this process among those of the run.
    """

    def __init__(self, run: str, settings: Settings, rank: int, world_size: int):
        self.run, self.settings = run, settings
        self.rank, self.world_size = rank, world_size
        self.model: dict[str, Any] | None = None  # `StreamingModel.describe()`, of this run or of the journal
        self.answers: list[dict[str, Any]] = []
        self.restarts = 0  # videos read again from the start, see `VideoSession`
        self.broken_videos = 0  # answers that failed because their video cannot be read

    def add(self, task: str, doc_id: int, record: Mapping[str, Any], replayed: bool) -> None:
        """One answer, or the reason why there is none; `replayed` ones were measured by an earlier run."""
        mark = {"replayed": True} if replayed else {}
        self.answers.append({"task": task, "doc_id": doc_id} | dict(record) | mark)

    def summary(self) -> dict[str, Any]:
        """Counts, and the efficiency of the whole."""
        costs = [a["efficiency"] for a in self.answers if "efficiency" in a]
        limit = (self.model or {}).get("context_limit")
        failed = sum(bool(a.get("failed")) for a in self.answers)
        return {
            "answered": len(self.answers) - failed,
            "failed": failed,
            "restarts": self.restarts,
            "replayed": sum("replayed" in a for a in self.answers),
            "beyond_context": sum(limit is not None and c["context_tokens"] > limit for c in costs),
            "total": total(costs),
        }

    def echo(self) -> dict[str, Any]:
        """What lmms-eval's results show of it, flat."""
        found = self.summary()
        sums = found.pop("total")
        return {"run": self.run, "rank": self.rank, "world_size": self.world_size} | found | sums

    def write(self, folder: Path) -> None:
        """Leave `stc_efficiency_<run>_rank<r>.json` in the folder."""
        found = self.summary()
        if found["beyond_context"]:
            limit = self.model["context_limit"]
            logger.warning(
                "%d answers had more context than the %d tokens the model is made for; lower token_budget or "
                "fps",
                found["beyond_context"],
                limit,
            )
        about = {"run": self.run, "settings": self.settings.flat(), "model": self.model}
        ranks = {"rank": self.rank, "world_size": self.world_size}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"stc_efficiency_{self.run}_rank{self.rank}.json"
        content = about | ranks | found | {"answers": self.answers}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def check(self) -> None:
        """End every rank with status 2, and one line from the first, if no rank has any answer.

        A shard may have nothing but broken videos, which count as failed wherever they are.

        All ranks must call it: it waits for the others.
        """
        found = self.summary()
        why = next((a["failed"] for a in self.answers if a.get("failed")), "")
        ranks = [(found["answered"], found["failed"], why, self.broken_videos)]
        if self.world_size > 1:
            ranks = gather_object(ranks)
        failed = sum(rank[1] for rank in ranks)
        if os.environ.get(SHARD) and failed == sum(rank[3] for rank in ranks):
            return
        if failed and not any(rank[0] for rank in ranks):
            why = next(rank[2] for rank in ranks if rank[2])
            if self.rank == 0:
                reason = f"all {failed} answers failed, the first with: {why}"
                print(f"stc-lmms: error: nothing could be evaluated: {reason}", file=sys.stderr)
            raise SystemExit(2)
