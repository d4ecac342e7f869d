"""Runs of stc-lmms 0.1.0 and before, converted to the present schema.

Such a run is several files in its output path: `stc_summary_<benchmark>_<run>.json`, one per benchmark, and
`stc_efficiency_<run>_rank<r>.json`, one per process.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stc_lmms.results.schema import Run
from stc_lmms.results.totals import notes, total

SUMMARY, EFFICIENCY = "stc_summary_", "stc_efficiency_"


def is_legacy(path: Path) -> bool:
    """Whether a file has the name of an old summary or efficiency record."""
    return path.name.startswith((SUMMARY, EFFICIENCY))


def to_run(files: Sequence[Mapping[str, Any]]) -> Run:
    """One run from the content of its files; some of them are enough.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the content is not that of such files.
    """
    summaries = [content for content in files if "summary" in content]
    ranks = sorted((content for content in files if "summary" not in content), key=lambda r: r.get("rank", 0))
    answers = [answer for rank in ranks for answer in rank["answers"]]
    counts = {key: sum(rank[key] for rank in ranks) for key in ("replayed", "beyond_context")}
    failures = Counter(answer["failed"] for answer in answers if answer.get("failed"))
    missing = ranks[0]["world_size"] - len(ranks) if ranks else 0
    absent = (f"efficiency of {len(ranks)} of {ranks[0]['world_size']} ranks only",) if missing > 0 else ()
    return Run(
        run=(files[0]["run"] or ""),
        harness="lmms-eval",
        settings=files[0].get("settings") or {},
        model=next((rank["model"] for rank in ranks if rank["model"]), {}),
        world_size=ranks[0]["world_size"] if ranks else 1,
        answered=len(answers) - failures.total(),
        failed=failures.total(),
        restarts=sum(rank.get("restarts", 0) for rank in ranks),
        efficiency=total([a["efficiency"] for a in answers if a.get("efficiency")]) if ranks else {},
        benchmarks={content["benchmark"]: content["summary"] for content in summaries},
        failures=dict(failures),
        notes=absent + notes(counts["replayed"], counts["beyond_context"], len(answers)),
        **counts,
    )
