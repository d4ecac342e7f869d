"""Playing clips into a model, and the rows of the shared test matrix."""

import torch

from stc_lmms.engine.api import Generation

QUESTION, SHORT = "What is the man doing now?", Generation(max_new_tokens=6)
# (method, arguments that fit the tiny model: 12 x 12 patches in 3 layers, 36 tokens per frame).
ROWS = [
    ("none", {}),
    ("stc", {"token_budget": 9}),
    ("stc_cacher", {"cache_interval": 2}),
    ("stc_pruner", {"token_budget": 12, "strategy": "dual_anchor", "history": "aligned"}),
    ("tome", {"token_budget": 20}),
    ("tome", {"token_budget": 25, "inflect": -1.0, "proportional": False}),
    ("tome_oneshot", {"token_budget": 17}),
    ("visionzip", {"token_budget": 9}),
    ("visionzip", {"token_budget": 13, "mode": "full"}),
    ("vidcom2", {"token_budget": 9}),
    ("vidcom2", {"token_budget": 9, "mode": "original", "window": 4}),
    ("vidcom2", {"token_budget": 9, "mode": "original", "window": 1}),
    ("vidcom2_two_score", {"token_budget": 9}),
    ("dycoke", {"token_budget": 12}),
    ("dycoke", {"merge_ratio": 0.7}),
    ("streamdycoke", {"token_budget": 12}),
    ("streamdycoke", {"similarity_threshold": 0.9, "window_size": 3}),
    ("random", {"token_budget": 9}),
    ("uniform", {"token_budget": 10}),
    ("uniform_frames", {"token_budget": 15}),
    ("downsample", {"token_budget": 12}),
    ("pixel_diff", {"token_budget": 9}),
]


def row_id(row):
    method, args = row
    shown = [f"{v}" for k, v in args.items() if k not in ("token_budget", "cache_interval")]
    return "-".join([method, *shown])


def play(model, frames, times_s, pieces=None):
    stream = model.open_stream()
    step = pieces or len(frames)
    for start in range(0, len(frames), step):
        stream.observe(frames[start : start + step], times_s[start : start + step])
    return stream


def logits(stream, question=QUESTION):
    """Logits of the first answer token; leaves the stream as it was."""
    with torch.no_grad(), stream.memory.ask() as reader:
        return reader.next_logits(prompt_embeds(stream, question))


@torch.no_grad()
def prompt_embeds(stream, question, opening=""):
    """Embeddings [L,D] of all that follows the memory when `question` is asked."""
    return stream.question(question, Generation(opening=opening), question).prompt
