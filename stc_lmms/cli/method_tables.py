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
    """Properties and default arguments (of one model) of every method, as plain JSON values."""
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
    found = []
    for chosen in registry.MODELS.values() if model is None else [registry.model(model)]:
        defaults = {"pretrained": chosen.pretrained} | dict(chosen.defaults)
        defaults |= {field.name: field.default for field in chosen.option_fields.values()}
        names = {"name": chosen.name, "harness_id": chosen.harness_id, "summary": chosen.summary}
        found.append(names | {"memory": chosen.own_memory or None, "defaults": defaults})
    return found


def as_text(model: str | None = None) -> str:
    """The table for a terminal, followed by the arguments of methods, memories and models."""
    listed = methods(model)
    width = max(len(facts["name"]) for facts in listed)
    lines = [text_table(HEADER, table_rows(listed), left=len(HEADER)), "", "arguments and defaults"]
    lines += [f"{facts['name']:{width}}  {_defaults(facts) or '-'}" for facts in listed]
    for kind, group in (("memory=", memories(model)), ("--model ", models(model))):
        lines += [f"{kind}{facts['name']}: {facts['summary']}  {_defaults(facts)}" for facts in group]
    return "\n".join(line.rstrip() for line in [*lines, "", *NOTES])


def table_rows(listed: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Cells of the table of methods, a row for each of `methods`."""
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
