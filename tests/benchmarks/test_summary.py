from typing import Any

import pytest

from stc_lmms.benchmarks.summary import format_table, summarise

EXPECTED = {"one": ("X", "Y"), "two": ("Z",)}


def record(part: str, task: str, official: int = 1, strict: int = 0, **fields: Any) -> Any:
    flags = {"missing": False, "unparsed": False, "failed": "", "past_end": False}
    return {"part": part, "task": task, "official": official, "strict": strict, **flags, **fields}


FULL = [
    *[record("one", "X", 1, 1), record("one", "X", 1), record("one", "X", 0), record("one", "X", 0)],
    record("one", "Y", 1),
    record("two", "Z", 0, missing=True, failed="boom"),
    record("two", "Z", 0, unparsed=True),
]


def test_macro_and_micro_are_different_averages() -> None:
    summary = summarise(FULL, EXPECTED, "macro")
    one, two = summary["parts"]["one"], summary["parts"]["two"]
    assert one["tasks"]["X"]["correct"] == {"official": 2, "strict": 1}
    assert one["tasks"]["X"]["accuracy"] == {"official": 0.5, "strict": 0.25}
    assert one["macro"] == {"official": 0.75, "strict": 0.125}
    assert one["micro"] == {"official": 0.6, "strict": 0.2}
    assert two["macro"] == two["micro"] == {"official": 0.0, "strict": 0.0}
    assert summary["total"] == {"official": 0.375, "strict": 0.0625}
    assert summary["micro"] == {"official": 3 / 7, "strict": 1 / 7}
    assert summary["absent"] == []


def test_missing_unparsed_and_failed_stay_in_the_denominator() -> None:
    summary = summarise(FULL, EXPECTED, "macro")
    z = summary["parts"]["two"]["tasks"]["Z"]
    assert (z["n"], z["n_missing"], z["n_unparsed"], z["n_failed"]) == (2, 1, 1, 1)
    counts = [summary[key] for key in ("n", "n_missing", "n_unparsed", "n_failed")]  # type: ignore[literal-required]
    assert counts == [7, 1, 1, 1]


def test_an_absent_part_leaves_no_total_and_is_named() -> None:
    summary = summarise([record("one", "X")], EXPECTED, "macro")
    assert summary["total"] is None
    assert summary["micro"] == {"official": 1.0, "strict": 0.0}
    assert summary["absent"] == ["two", "one/Y"]
    assert "PARTIAL: no questions of two, one/Y" in format_table(summary)


def test_no_records() -> None:
    summary = summarise([], EXPECTED, "micro")
    assert (summary["n"], summary["total"], summary["micro"], summary["parts"]) == (0, None, None, {})
    assert summary["absent"] == ["one", "two"]
    assert "-" in format_table(summary)


def test_unexpected_names_come_after_the_expected_ones() -> None:
    summary = summarise([record("zoo", "Q"), record("two", "new"), record("two", "Z")], EXPECTED, "macro")
    assert list(summary["parts"]) == ["two", "zoo"]
    assert list(summary["parts"]["two"]["tasks"]) == ["Z", "new"]


@pytest.mark.parametrize("headline", ["macro", "micro"])
def test_table_prints_every_count_and_marks_the_headline(headline: Any) -> None:
    lines = format_table(summarise(FULL, EXPECTED, headline)).splitlines()
    cells = {line.split("  ")[0].strip(): line.split() for line in lines}
    assert lines[0].split("  ")[0] == "task" and "missing" in lines[0] and "unparsed" in lines[0]
    assert cells["one / X"][-6:] == ["4", "0", "0", "0", "50.00", "25.00"]
    assert cells["two / Z"][-6:] == ["2", "1", "1", "1", "0.00", "0.00"]
    (macro,) = (cell for name, cell in cells.items() if name.startswith("one: macro (mean of tasks)"))
    assert macro[-2:] == ["75.00", "12.50"]
    starred = [name for name in cells if name.endswith(" *")]
    assert [name.split(" (")[0] for name in starred] == [
        f"{part}: {headline}" for part in ("one", "two", "total")
    ]


def test_table_of_one_part_shows_totals_only_with_the_last() -> None:
    whole = summarise(FULL, EXPECTED, "macro")
    table = format_table(whole, only="two")
    assert "two / Z" in table and "one / X" not in table and "total: macro" in table
    partial = summarise([r for r in FULL if r["part"] == "one"], EXPECTED, "macro")
    table = format_table(partial, only="one")
    assert "one / X" in table and "total" not in table and "PARTIAL" not in table


def test_questions_past_the_end_are_counted_and_shown_only_if_there_are_any() -> None:
    assert "past end" not in format_table(summarise(FULL, EXPECTED, "macro"))
    late = [record("one", "X", 1, 1, past_end=True), record("one", "Y", past_end=True), *FULL[5:]]
    summary = summarise(late, EXPECTED, "macro")
    assert summary["n_past_end"] == summary["parts"]["one"]["n_past_end"] == 2
    assert summary["parts"]["one"]["tasks"]["X"]["n_past_end"] == 1
    lines = format_table(summary).splitlines()
    assert lines[0].split()[-6:] == ["past", "end", "official", "%", "strict", "%"]
    cells = {line.split("  ")[0].strip(): line.split()[-7:] for line in lines}
    assert cells["one / X"] == ["1", "0", "0", "0", "1", "100.00", "100.00"]
    assert cells["two / Z"] == ["2", "1", "1", "1", "0", "0.00", "0.00"]
