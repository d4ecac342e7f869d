"""The tables of methods and memories, from the registries: for the command line and for the README."""

from collections.abc import Sequence
from typing import Any

from stc_lmms.memory.registry import MEMORIES, fields
from stc_lmms.methods.registry import RECIPES

HEADER = ("method", "slots", "causal", "budget", "attention", "paper", "what it does")
NOTES = (
    "slots: where it acts. causal: gives a frame out as soon as it has seen it. budget: tokens per frame are "
    "token_budget exactly (per frame), or on average. attention: reads attention weights of the tower's last "
    f"layer. Every memory ({', '.join(MEMORIES)}) works behind every method. "
    "Keeping only the last frames is a memory, not a method: method=none with memory=recent.",
)


def facts() -> list[dict[str, Any]]:
    """What there is to say of every method, with its default arguments, as plain JSON values."""
    return [recipe.facts() | {"memories": list(MEMORIES)} for recipe in RECIPES.values()]


def memories() -> list[dict[str, Any]]:
    """Name, summary and default arguments of every memory, as plain JSON values."""
    return [
        {
            "name": name,
            "summary": memory.__doc__.splitlines()[0],
            "defaults": {field.name: field.default for field in fields(name).values()},
        }
        for name, memory in MEMORIES.items()
    ]


def rows(found: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The cells below `HEADER`."""
    return [
        (
            fact["name"],
            " + ".join(fact["slots"]) or "-",
            "yes" if fact["causal"] else "no",
            fact["budget"],
            "yes" if fact["attention_weights"] else "no",
            fact["paper"] or "-",
            fact["summary"],
        )
        for fact in found
    ]


def as_text() -> str:
    """The table for a terminal, with each method's arguments and their defaults below it."""
    found = facts()
    cells = [HEADER, *rows(found)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, "-" * max(map(len, lines)))
    lines += ["", "arguments and defaults"]
    for fact in found:
        shown = ", ".join(f"{name}={value}" for name, value in fact["defaults"].items())
        lines.append(f"{fact['name'].ljust(widths[0])}  {shown or '-'}")
    for memory in memories():
        shown = ", ".join(f"{name}={value}" for name, value in memory["defaults"].items())
        lines.append(f"memory={memory['name']}: {memory['summary']}  {shown}")
    return "\n".join(line.rstrip() for line in [*lines, "", *NOTES])


def as_markdown() -> str:
    """The table for a document."""
    lines = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    for row in rows(facts()):
        lines.append(f"| `{row[0]}` | {' | '.join(row[1:])} |")
    return "\n".join([*lines, "", *NOTES])
