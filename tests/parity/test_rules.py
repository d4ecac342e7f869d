import pytest

from parity.rules import (
    official_first_char,
    rekv_prompt,
    rekv_windows,
    stc_strip_equal,
    streamforest_frames,
)
from stc_lmms.benchmarks.offline import rekv_choice, rekv_question


def test_prompt_is_byte_exact() -> None:
    assert rekv_question("Why {x}?", ["p", "q"]) == (
        "Question: Why {x}?\nOptions:\n(A) p\n(B) q\nOnly give the best option."
    )
    assert rekv_prompt("Why?", ["p", "q", "r"]) == (
        "\nQuestion: Why?\nOptions:\n(A) p\n(B) q\n(C) r\nOnly give the best option."
        "<|im_end|><|im_start|>assistant\nBest option: ("
    )


@pytest.mark.parametrize(
    ("text", "letter"),
    [("B", "B"), (" b", "b"), ("C) x", "C"), ("(D) x (A)", "D"), ("B. x", "B"), ("yes)", "s"), (")", "")],
)
def test_choice_is_the_character_before_the_first_parenthesis(text: str, letter: str) -> None:
    assert rekv_choice(text) == letter


def test_empty_text_raises_as_in_rekv() -> None:
    with pytest.raises(IndexError):
        rekv_choice("  ")


def test_windows_truncate_and_never_go_back() -> None:
    assert rekv_windows([10, 25.5, 25, 61, 70], 0.5, 32) == [(0, 5), (5, 12), None, (12, 30), (30, 32)]
    assert rekv_windows([10, 4, 12], 0.5, 32) == [(0, 5), None, (5, 6)]


def test_streamforest_grid_depends_on_the_length() -> None:
    assert streamforest_frames(50, 25.0) == [5, 18, 30, 43]
    assert streamforest_frames(90, 30.0) == [10, 33, 55, 78]
    assert streamforest_frames(3, 30.0) == [0, 1, 2]
    assert len(streamforest_frames(9000, 30.0, max_frames=64)) == 64
    with pytest.raises(ValueError, match="n_frames"):
        streamforest_frames(0, 30.0)


@pytest.mark.parametrize(
    ("response", "first_char", "stc"),
    [
        ("A", 1, 1),
        ("A.", 1, 0),
        ("A\n", 1, 1),
        (" A", 0, 1),
        ("Answer: B", 1, 0),
        ("(A)", 0, 0),
        ("a", 0, 0),
        ("  ", 0, None),
    ],
)
def test_counters(response: str, first_char: int, stc: int | None) -> None:
    assert official_first_char(response, "A") == first_char
    assert stc_strip_equal(response, "A") == stc


def test_counters_without_a_response() -> None:
    assert (stc_strip_equal("", "A"), stc_strip_equal(None, "A")) == (None, None)
    assert (official_first_char("", "A", "sqa"), official_first_char(None, "A", "sqa")) == (None, None)
    with pytest.raises(IndexError):
        official_first_char("", "A")
    with pytest.raises(TypeError):
        official_first_char(None, "A")
