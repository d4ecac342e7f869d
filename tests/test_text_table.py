"""Tables for the terminal."""

import sys

from stc_lmms.text_table import text_table

ROWS = [("long", "x", "1"), ("[red]s[/red]", "y", "1000")]


def test_columns_are_aligned_and_text_is_not_markup():
    assert text_table(("a", "b", "c"), ROWS, left=2).splitlines() == [
        "a             b     c",
        "---------------------",
        "long          x     1",
        "[red]s[/red]  y  1000",
    ]


def test_nothing_is_wrapped_or_cut_however_narrow_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    wide = "x" * 300
    assert text_table(("a", "b"), [(wide, "1")]).splitlines()[2] == f"{wide}  1"


def test_on_a_terminal_the_head_is_bold(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    head, _, *body = text_table(("a", "b", "c"), ROWS).splitlines()
    assert "\x1b[1m" in head and not any("\x1b" in line for line in body)
