"""Greedy decoding from any stream memory."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from stc_lmms.memory.base import Reader
from stc_lmms.models.base import Generation


@dataclass(frozen=True)
class Decoded:
    """Token ids without the end token, their text, and the times of the first and of further tokens."""

    token_ids: tuple[int, ...]
    text: str
    ttft_ms: float
    per_token_ms: float | None


@torch.no_grad()
def greedy(
    reader: Reader,
    prompt_LD: Tensor,
    embed: Callable[[Tensor], Tensor],
    decode_text: Callable[[list[int]], str],
    eos_ids: Collection[int],
    generation: Generation,
) -> Decoded:
    """Prefill the prompt and append the most likely token until an end, a stop string or the limit."""
    start = time.perf_counter()
    logits = reader.next_logits(prompt_LD)
    token = int(logits.argmax())
    first = time.perf_counter()
    ids: list[int] = []
    text = ""
    while token not in eos_ids:
        ids.append(token)
        text, stopped = cut(decode_text(ids), generation.stop)
        if stopped or len(ids) >= generation.max_new_tokens:
            break
        token = int(reader.next_logits(embed(logits.new_tensor([token], dtype=torch.long))).argmax())
    steps = len(ids) - 1
    further = (time.perf_counter() - first) * 1e3 / steps if steps > 0 else None
    return Decoded(tuple(ids), text, (first - start) * 1e3, further)


def cut(text: str, stop: Collection[str]) -> tuple[str, bool]:
    """Text before the first stop string that follows more than white space, and whether there is one."""
    lead = len(text) - len(text.lstrip())
    found = [at for at in (text.find(s, lead) for s in stop if s) if at > lead]
    return (text[: min(found)], True) if found else (text, False)
