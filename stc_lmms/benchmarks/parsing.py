"""Strict parsers of a model's answer: one letter, one integer, one yes or no, or None.

The official scorers look for substrings, so `Both B and A` is correct for gold A and for gold B. These
parsers return None unless the text gives a single answer. Case never matters.
"""

import re

_MARKER = re.compile(r"<\|[^|<>]*\|>|</?s>")  # turn markers leaked into decoded text
_WHOLE_LETTER = re.compile(r"\W*([A-H])\W*", re.IGNORECASE)
# `B. text`, `(B) text`, `B` on its own line; not `E.g. ...`, not `A, B, C`, not the article in `A man`
_LABEL = re.compile(r"\W*([A-H])\W*?(?:[.):](?![a-z])|\n)", re.IGNORECASE)
# `the answer is B`; lower-case only at the end (`the answer is a dog`), and not `answer: B or C`
_ANNOUNCED = re.compile(
    r"(?i:answer|option|choice)(?i:\s+is)?[\s:=*(\"'“]*"
    r"(?:([A-H])\b(?!\s*(?:or|and|,|/)\s*[A-H]\b)|([a-h])\b(?!\s+\w))"
)
_LONE_LETTER = re.compile(r"(?<![\w'’])([A-H])(?![\w'’]|\.[a-z]\.)")
_ARTICLE = re.compile(r"\bA(?=\s+[a-z])")
_NUMBER = re.compile(r"(?:(?<!\w)-)?\d+(?:\.\d+)?", re.ASCII)
_WHOLE_YES_NO = re.compile(r"\W*(yes|no|y|n)\W*", re.IGNORECASE)
_LEADING_YES_NO = re.compile(r"\W*(yes|no)\W*?[.,:;!\n]", re.IGNORECASE)
_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def parse_choice(text: str) -> str | None:
    """The option letter (A to H) that a response names, or None.

    Tried in this order: the whole text is a letter; the text starts with a label (`B.`, `(b)`); a letter is
    announced (`the answer is B`); one upper-case letter stands alone. Two letters at the same step give None.
    """
    text = _MARKER.sub("", text).strip()
    if match := _WHOLE_LETTER.fullmatch(text) or _LABEL.match(text):
        return match[1].upper()
    announced = {(match[1] or match[2]).upper() for match in _ANNOUNCED.finditer(text)}
    if announced:
        return _only(announced)
    lone = _only(set(_LONE_LETTER.findall(text)))
    return None if lone == "A" and _ARTICLE.search(text) else lone


def parse_count(text: str) -> str | None:
    """The only integer of a response as plain digits, or None.

    `05` and `5.0` are 5; words, fractions and two numbers give None. Digits stay text because a runaway
    response can contain more of them than `int` accepts.
    """
    numbers = _NUMBER.findall(_MARKER.sub("", text))
    if len(numbers) != 1:
        return None
    whole, _, fraction = numbers[0].partition(".")
    return None if fraction.strip("0") else whole.lstrip("0") or "0"


def parse_yes_no(text: str) -> str | None:
    """Whether a response says "Yes" or "No", or None.

    Tried in this order: the whole text (only here `y` and `n` count); a leading `Yes,` or `No.`; the only one
    of the two words that occurs.
    """
    text = _MARKER.sub("", text).strip()
    if match := _WHOLE_YES_NO.fullmatch(text) or _LEADING_YES_NO.match(text):
        return "Yes" if match[1].lower().startswith("y") else "No"
    return _only({word.capitalize() for word in _YES_NO.findall(text)})


def _only(values: set[str]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None
