"""The tables of methods and memories, from the registries: for the command line and for the README."""

from collections.abc import Iterable
from typing import Any

from stc_lmms.memory.registry import MEMORIES, fields
from stc_lmms.methods.registry import RECIPES

HEADER = ("method", "slots", "causal", "budget", "equal frames", "attention", "paper", "what it does")
NOTES = (
    "slots: where it acts. causal: gives a frame out as soon as it has seen it. budget: tokens per frame are "
    "token_budget exactly (per frame), or on average. equal frames: all frames have the same number of "
    "tokens. attention: reads attention weights of the tower's last layer. All for the default arguments.",
    f"Every method works with every memory ({', '.join(MEMORIES)}); ReKV as its authors published it needs "
    "equal frames. The control that keeps only the last frames is a memory: method=none with memory=recent.",
)


def facts() -> dict[str, list[dict[str, Any]]]:
    """What there is to say of every method and memory, with default arguments, as plain JSON values."""
    memories = [
        {
            "name": name,
            "summary": _first_line(memory),
            "defaults": {field: f.default for field, f in fields(name).items()},
        }
        for name, memory in MEMORIES.items()
    ]
    methods = [recipe.facts() | {"memories": list(MEMORIES)} for recipe in RECIPES.values()]
    return {"methods": methods, "memories": memories}


def rows(methods: Iterable[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The cells below `HEADER`."""
    return [
        (
            fact["name"],
            " + ".join(fact["slots"]) or "-",
            _yes(fact["causal"]),
            fact["budget"],
            _yes(fact["equal_frames"]),
            _yes(fact["attention_weights"]),
            fact["paper"] or "-",
            fact["summary"],
        )
        for fact in methods
    ]


def as_text() -> str:
    """The table for a terminal; below it, the arguments of every method and memory with their defaults."""
    found = facts()
    cells = [HEADER, *rows(found["methods"])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, "-" * max(map(len, lines)))
    lines += ["", "arguments and defaults"]
    lines += [f"{fact['name'].ljust(widths[0])}  {_defaults(fact)}" for fact in found["methods"]]
    lines += ["", "memories, with arguments and defaults"]
    for fact in found["memories"]:
        lines.append(f"{fact['name'].ljust(widths[0])}  {fact['summary']} {_defaults(fact)}")
    return "\n".join(line.rstrip() for line in [*lines, "", *NOTES])


def as_markdown() -> str:
    """The table of methods for a document."""
    lines = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    for row in rows(facts()["methods"]):
        lines.append(f"| `{row[0]}` | {' | '.join(row[1:])} |")
    return "\n".join([*lines, "", *NOTES])


def _defaults(fact: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in fact["defaults"].items()) or "-"


def _first_line(described: type) -> str:
    return (described.__doc__ or "").splitlines()[0]


def _yes(value: bool) -> str:
    return "yes" if value else "no"
