import pytest

from stc_lmms.benchmarks.mcq import rekv_choice, rekv_prompt, rekv_question, rekv_windows, streamforest_frames


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


def test_empty_text_raises_in_rekv_and_is_a_in_stc() -> None:
    with pytest.raises(IndexError):
        rekv_choice("  ")
    assert rekv_choice("  ", default="A") == "A"


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
