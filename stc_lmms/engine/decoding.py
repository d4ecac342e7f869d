"""Greedy decoding from any stream memory."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stc_lmms.engine.api import Generation
from stc_lmms.memory.base import Reader
from stc_lmms.ops.transfer import to_device

# Changes the logits [V] of a step, given the answer's ids so far.
Adjust = Callable[[Tensor, Sequence[int]], Tensor]


@dataclass(frozen=True)
class Decoded:
    """Token ids without the end token, their text, and the times of the first and of further tokens.

    `end_id` is the end token; None if a stop string or the limit ended the answer.
    """

    token_ids: tuple[int, ...]
    text: str
    ttft_ms: float
    per_token_ms: float | None
    end_id: int | None = None


@torch.no_grad()
def greedy(
    reader: Reader,
    prompt_LD: Tensor,
    embed: Callable[[Tensor], Tensor],
    decode_text: Callable[[list[int]], str],
    eos_ids: Collection[int],
    generation: Generation,
    adjust: Adjust | None = None,
) -> Decoded:
    """Prefill the prompt and append the most likely token until an end, a stop string or the limit."""
    ids: list[int] = []

    def most_likely(embeds_LD: Tensor) -> Tensor:
        logits = reader.next_logits(embeds_LD)
        return (logits if adjust is None else adjust(logits, ids)).argmax()

    start = time.perf_counter()
    best = most_likely(prompt_LD)
    token = int(best)
    first = time.perf_counter()
    text = ""
    while token not in eos_ids:
        ids.append(token)
        text, stopped = truncate_at_stop(decode_text(ids), generation.stop)
        if stopped or len(ids) >= generation.max_new_tokens:
            break
        best = most_likely(embed(best[None]))
        token = int(best)
    steps = len(ids) - 1
    further = (time.perf_counter() - first) * 1e3 / steps if steps > 0 else None
    end_id = token if token in eos_ids else None
    return Decoded(tuple(ids), text, (first - start) * 1e3, further, end_id)


def repetition_penalty(logits_V: Tensor, ids: Collection[int], penalty: float) -> Tensor:
    """Logits with the tokens `ids` made less likely (CTRL, arXiv 1909.05858).

    Positive ones are divided by `penalty`, the others multiplied.
    """
    if penalty == 1 or not ids:
        return logits_V
    index = to_device(sorted(ids), logits_V.device)
    score = logits_V[index]
    return logits_V.index_copy(0, index, torch.where(score < 0, score * penalty, score / penalty))


def truncate_at_stop(text: str, stop: Collection[str]) -> tuple[str, bool]:
    """Text before the first stop string that follows more than white space, and whether there is one."""
    lead = len(text) - len(text.lstrip())
    found = [at for at in (text.find(s, lead) for s in stop if s) if at > lead]
    return (text[: min(found)], True) if found else (text, False)
