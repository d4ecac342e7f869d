import pytest

from stc_lmms.benchmarks.parsing import parse_choice, parse_count, parse_yes_no


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" B\n", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("[b]", "B"),
        ("**B**", "B"),
        ("B<|im_end|>", "B"),
        ("B. at the sink", "B"),
        ("(b) at the sink", "B"),
        ("B.at the sink", "B"),
        ("A: yes", "A"),
        ("B\nBecause A is wrong", "B"),
        ("The answer is B.", "B"),
        ("The answer is A because he left", "A"),
        ("Answer: **C**", "C"),
        ("my answer: c.", "C"),
        ("The correct option is (D).", "D"),
        ("I would choose D", "D"),
        ("It's A.", "A"),
        # nothing, or more than one letter
        ("", None),
        ("...", None),
        ("14", None),
        ("<|im_end|>", None),
        ("A man in red", None),
        ("the answer is a dog", None),
        ("I am not sure.", None),
        ("ANSWER NOT CLEAR", None),
        ("A, B, C, D", None),
        ("Both B and A look plausible", None),
        ("Both A and B look plausible", None),
        ("answer: B or C", None),
        ("Option A is wrong, so the answer is B", None),
        ("E.g. the cat", None),
    ],
)
def test_parse_choice(text: str, letter: str | None) -> None:
    assert parse_choice(text) == letter


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", "3"),
        (" 3.\n", "3"),
        ("03", "3"),
        ("000", "0"),
        ("3.0", "3"),
        ("They did it 3 times.", "3"),
        ("3<|im_end|>", "3"),
        ("9" * 5000, "9" * 5000),
        ("-3", "-3"),
        ("", None),
        ("three", None),
        ("2.5", None),
        ("3 times in 2 scenes", None),
        ("1,000", None),
        ("2-3", None),
    ],
)
def test_parse_count(text: str, number: str | None) -> None:
    assert parse_count(text) == number


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "Yes"),
        ("no", "No"),
        ("NO.", "No"),
        (" y", "Yes"),
        ("N", "No"),
        ("“No”", "No"),
        ("**Yes**", "Yes"),
        ("Yes, there is no doubt", "Yes"),
        ("I think no", "No"),
        ("", None),
        ("True", None),
        ("Not sure.", None),
        ("I know", None),
        ("Yes and No", None),
        ("n/a", None),
    ],
)
def test_parse_yes_no(text: str, answer: str | None) -> None:
    assert parse_yes_no(text) == answer
