"""Generated blocks of a Markdown file: the text between `<!-- name -->` and `<!-- /name -->`."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path


def fill(path: Path, blocks: Mapping[str, Callable[[], str]]) -> str:
    """The file's text with all blocks regenerated.

    Raises:
        ValueError: the file lacks a block.
    """
    text = path.read_text(encoding="utf-8")
    for name, make in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{path.name} has no block {name!r}")
        text = pattern.sub(lambda match, make=make: f"{match[1]}{make()}\n{match[2]}", text)
    return text
