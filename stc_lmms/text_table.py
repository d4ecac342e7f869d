"""Tables for the terminal: plain columns, as wide as their content."""

import io
import sys
from collections.abc import Sequence

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_RULED_HEAD = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lay out rows under a ruled head (bold on a terminal), without wrapping or truncating anything.

    The first `left` columns are aligned to the left, the others to the right.
    """
    table = Table(box=_RULED_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1), header_style="bold")
    for i, heading in enumerate(head):
        table.add_column(Text(heading), justify="left" if i < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    width = sum(max(len(row[i]) for row in (head, *rows)) + 2 for i in range(len(head)))
    console = Console(file=io.StringIO(), width=width, force_terminal=sys.stdout.isatty())
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
