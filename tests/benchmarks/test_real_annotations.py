"""Counts of the published annotation files. Set STC_TEST_ANNOTATIONS to a folder that holds them."""

import os
from collections import Counter
from pathlib import Path

import pytest

from stc_lmms.benchmarks import ovobench, streamingbench

FOLDER = os.environ.get("STC_TEST_ANNOTATIONS", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="STC_TEST_ANNOTATIONS names no folder with annotations")

OVO_COUNTS = {
    "backward": {"EPM": 297, "HLD": 186, "ASI": 148},
    "realtime": {"STU": 178, "OJR": 184, "ATR": 116, "FPD": 101, "ACR": 109, "OCR": 149},
    "forward": {"CRR": 240, "SSR": 629, "REC": 698},
}


def test_ovobench_counts() -> None:
    annotations = ovobench.load_annotations(Path(FOLDER) / "ovo_bench_new.json")
    assert (len(annotations), len({row["video"] for row in annotations})) == (1640, 644)
    for part, counts in OVO_COUNTS.items():
        rows = ovobench.build_rows(annotations, part)
        assert Counter(q["task"] for row in rows for q in row["questions"]) == counts
        assert len({row["video"] for row in rows}) == len(rows)
    parts = [row for part in ovobench.MODES for row in ovobench.build_rows(annotations, part)]
    assert sum(q["end_s"] for row in parts for q in row["questions"]) == 641175


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("real", {"real": (499, 2500)}),
        ("omni", {"omni": (200, 1000), "contextual": (100, 500)}),
        ("sqa", {"sqa": (50, 250)}),
        ("proactive", {"proactive": (50, 250)}),
    ],
)
def test_streamingbench_counts(file: str, counts: dict[str, tuple[int, int]]) -> None:
    entries = streamingbench.load_annotations(Path(FOLDER) / f"streamingbench_questions_{file}.json")
    assert len({entry.qid for entry in entries}) == len(entries)
    for part, wanted in counts.items():
        rows = streamingbench.build_rows(entries, part)
        assert (len(rows), sum(len(row["questions"]) for row in rows)) == wanted
        assert {q["task"] for row in rows for q in row["questions"]} == set(streamingbench.TASKS[part])
