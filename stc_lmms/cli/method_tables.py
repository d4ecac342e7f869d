"""Tables of all methods, memories and models, for the command line and the README."""

from typing import Any

from stc_lmms.memory.registry import MEMORIES, fields
from stc_lmms.methods.registry import METHODS
from stc_lmms.models import registry
from stc_lmms.text_table import text_table

HEADER = ("method", "slots", "causal", "budget", "attention", "paper", "what it does")
NOTES = (
    "slots: where it acts. causal: returns each frame as soon as it arrives. budget: tokens per frame are "
    "token_budget exactly (per frame), or on average. attention: reads attention weights of the tower's last "
    f"layer. Every memory ({', '.join(MEMORIES)}) works with every method. "
    "Keeping only the last frames is a memory, not a method: method=none with memory=recent.",
)


def methods(model: str | None = None) -> list[dict[str, Any]]:
    """Properties and default arguments of every method, as plain JSON values.

    Args:
        model: list them with the defaults and the memory of this model.

    Raises:
        SettingsError: there is no such model.
    """
    changed = {} if model is None else registry.model(model).defaults
    found = []
    for spec in METHODS.values():
        facts = spec.facts() | {"memories": [memory["name"] for memory in memories(model)]}
        facts["defaults"] |= {name: changed[name] for name in facts["defaults"] if name in changed}
        found.append(facts)
    return found


def memories(model: str | None = None) -> list[dict[str, Any]]:
    """Name, summary and default arguments of every memory (of one model), as plain JSON values."""
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
            | {field.name: field.default for field in each.option_fields.values()},
        }
        for each in chosen
    ]


def as_text(model: str | None = None) -> str:
    """The table for a terminal, followed by the arguments of methods, memories and models."""
    listed = methods(model)
    width = max(len(facts["name"]) for facts in listed)
    lines = [text_table(HEADER, _rows(listed), left=len(HEADER)), "", "arguments and defaults"]
    lines += [f"{facts['name']:{width}}  {_defaults(facts) or '-'}" for facts in listed]
    for kind, group in (("memory=", memories(model)), ("--model ", models(model))):
        lines += [f"{kind}{facts['name']}: {facts['summary']}  {_defaults(facts)}" for facts in group]
    return "\n".join(line.rstrip() for line in [*lines, "", *NOTES])


def as_markdown() -> str:
    """The table of methods for a document."""
    lines = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    lines += [f"| `{name}` | {' | '.join(cells)} |" for name, *cells in _rows(methods())]
    return "\n".join([*lines, "", *NOTES])


def _rows(listed: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            facts["name"],
            " + ".join(facts["slots"]) or "-",
            "yes" if facts["causal"] else "no",
            facts["budget"],
            "yes" if facts["attention_weights"] else "no",
            facts["paper"] or "-",
            facts["summary"],
        )
        for facts in listed
    ]


def _defaults(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in facts["defaults"].items())
