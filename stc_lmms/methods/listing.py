"""The tables of methods, memories and models, from their registries: for the command line and the README."""

from collections.abc import Sequence
from typing import Any

from stc_lmms.memory.registry import MEMORIES, fields
from stc_lmms.methods.registry import METHODS
from stc_lmms.models import registry
from stc_lmms.settings import option_fields
from stc_lmms.text_table import text_table

HEADER = ("method", "slots", "causal", "budget", "attention", "paper", "what it does")
NOTES = (
    "slots: where it acts. causal: gives a frame out as soon as it has seen it. budget: tokens per frame are "
    "token_budget exactly (per frame), or on average. attention: reads attention weights of the tower's last "
    f"layer. Every memory ({', '.join(MEMORIES)}) works behind every method. "
    "Keeping only the last frames is a memory, not a method: method=none with memory=recent.",
)


def facts(model: str | None = None) -> list[dict[str, Any]]:
    """What there is to say of every method, with its default arguments, as plain JSON values.

    Args:
        model: say it for this model; its defaults and its own memory count then.

    Raises:
        SettingsError: there is no such model.
    """
    chosen = None if model is None else registry.model(model)
    changed = {} if chosen is None else chosen.defaults
    found = []
    for recipe in METHODS.values():
        about = recipe.facts() | {"memories": [memory["name"] for memory in memories(model)]}
        about["defaults"] |= {name: changed[name] for name in about["defaults"] if name in changed}
        found.append(about)
    return found


def models(model: str | None = None) -> list[dict[str, Any]]:
    """Name, summary and default arguments of every model, or of one, as plain JSON values."""
    chosen = registry.MODELS.values() if model is None else [registry.model(model)]
    return [
        {
            "name": each.name,
            "harness_id": each.harness_id,
            "summary": each.summary,
            "memory": each.own_memory or None,
            "defaults": {"pretrained": each.pretrained}
            | dict(each.defaults)
            | {field.name: field.default for field in option_fields(each).values()},
        }
        for each in chosen
    ]


def memories(model: str | None = None) -> list[dict[str, Any]]:
    """Name, summary and default arguments of every memory (of a model's), as plain JSON values."""
    own = "" if model is None else registry.model(model).own_memory
    if own:
        return [{"name": own, "summary": "part of the model", "defaults": {}}]
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


def as_text(model: str | None = None) -> str:
    """The table for a terminal, with the arguments of methods, memories and models below it."""
    found = facts(model)
    width = max(len(fact["name"]) for fact in found)
    lines = [text_table(HEADER, rows(found), left=len(HEADER)), "", "arguments and defaults"]
    for fact in found:
        shown = ", ".join(f"{name}={value}" for name, value in fact["defaults"].items())
        lines.append(f"{fact['name']:{width}}  {shown or '-'}")
    for kind, listed in (("memory=", memories(model)), ("--model ", models(model))):
        for each in listed:
            shown = ", ".join(f"{name}={value}" for name, value in each["defaults"].items())
            lines.append(f"{kind}{each['name']}: {each['summary']}  {shown}")
    return "\n".join(line.rstrip() for line in [*lines, "", *NOTES])


def as_markdown() -> str:
    """The table for a document."""
    lines = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    for row in rows(facts()):
        lines.append(f"| `{row[0]}` | {' | '.join(row[1:])} |")
    return "\n".join([*lines, "", *NOTES])
