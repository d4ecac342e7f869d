"""Dispider's three stages on tensors: perception, decision, reaction (arXiv 2501.03218, released code).

Perception reads the merged tokens of a clip with the compact model; decision scores the clips of a stream for
a question, and whether to answer now; reaction makes the visual input of the large model. All attention is
causal, as in the released FlashAttention path.

Shapes: F frames of a clip, T tower tokens, V tower width, R merged tokens per frame, C = 4V, P slots per
frame, M = F*P, D width of the compact model, H width of the large one, N clips, L tokens of text.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from stc_lmms.models.dispider.config import DispiderSpec
from stc_lmms.models.dispider.memory import ClipMemory
from stc_lmms.models.dispider.weights import Networks
from stc_lmms.ops.grid import average, join_2x2

# Clips that a question gets: `stream` the best 4 (as in the streaming scripts), `offline` those above a
# similarity, 4 to 28 (as in the Video-MME script).
Retrieval = Literal["stream", "offline"]
STREAM_CLIPS = 4
OFFLINE_CLIPS = 28
OFFLINE_SIMILARITY = 0.2
TEMPERATURE = 0.1


class Words(NamedTuple):
    """Embeddings [L,D] of text that the compact model reads."""

    question: Tensor  # `<to_do>` included
    to_do: Tensor
    has_answer: Tensor


class Retrieved(NamedTuple):
    """Clips retrieved for a question."""

    weights_N: Tensor  # softmax of the clips' similarities, float32
    clips: tuple[int, ...]  # their numbers, in order of time
    logit: float  # above 0 to answer now


class DispiderNet:
    """The stages over loaded networks; holds no stream state."""

    def __init__(self, spec: DispiderSpec, networks: Networks):
        self.spec, self.networks = spec, networks

    def embed(self, ids_L: Tensor) -> Tensor:
        """Embeddings [L,D] of the compact model."""
        return self.networks.decision.embed_tokens(ids_L)

    def merge(self, features_FTV: Tensor) -> Tensor:
        """Tower features, class token first, to merged tokens [F,R,C]: 2x2 patches side by side."""
        return join_2x2(features_FTV[:, 1:], self.spec.grid)

    def project(self, tokens_FRC: Tensor) -> Tensor:
        """Input of the compact model for a clip [F*R + M + 1, D]: tokens, pooled slots, their mean."""
        side = self.spec.grid[0] // 2
        slots_FPC = average(tokens_FRC, (side, side), self.spec.slots_per_frame)
        tokens = tokens_FRC.flatten(0, 1)
        return self.networks.pool(torch.cat((tokens, slots_FPC.flatten(0, 1), tokens.mean(0, keepdim=True))))

    def perceive(self, tokens_FRC: Tensor, sentence_LD: Tensor) -> tuple[Tensor, Tensor]:
        """Memory states [M,D] and indicator [D] of a clip after its time sentence."""
        states = self.read([sentence_LD, self.project(tokens_FRC)])
        slots = len(tokens_FRC) * self.spec.slots_per_frame
        # Copies: views would keep all states alive.
        return states[-1 - slots : -1].clone(), states[-1].clone()

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        """States of the compact model after its final norm, for the embeddings of all parts in a row."""
        embeds = torch.cat(tuple(parts))
        return self.networks.decision(inputs_embeds=embeds[None], use_cache=False).last_hidden_state[0]

    def summary(self, clips: ClipMemory, start: int, end: int) -> Tensor:
        """One state [end-start,D] for each clip of a range, which has read all memories of the range."""
        span = clips[start:end]
        states = self.read([*(clip.memory_MD for clip in span), torch.stack([c.indicator_D for c in span])])
        return states[start - end :].clone()

    def query(
        self,
        clips: ClipMemory,
        words: Words,
        asked_at: int = 0,
        answered_at: Sequence[int] = (),
        summary: Callable[[int, int], Tensor] | None = None,
    ) -> Tensor:
        """State [D] of the compact model for a question, in the streaming path.

        Args:
            clips: all clips of the stream so far.
            words: the question.
            asked_at: number of clips when it was asked.
            answered_at: number of clips at each answer so far, increasing.
            summary: (a, b) to the summary of clips a to b-1, to reuse them.
        """
        summary = summary or (lambda a, b: self.summary(clips, a, b))
        splits = [*answered_at] if asked_at in answered_at else [asked_at, *answered_at]
        splits = [split for split in splits if split < len(clips)]
        parts = [words.has_answer]
        if asked_at == len(clips):
            parts += [clip.memory_MD for clip in clips]
        else:
            if asked_at:
                parts.append(summary(0, asked_at))
            parts.append(words.question)
            if asked_at in answered_at:
                parts.append(words.has_answer)
            for before, split in itertools.pairwise(splits):
                parts += [summary(before, split), words.has_answer]
            parts += [clip.memory_MD for clip in clips[splits[-1] :]]
        return self.read([*parts, words.question, words.to_do])[-1]

    def offline_query(self, clips: ClipMemory, words: Words) -> Tensor:
        """State [D] of the compact model for a question, in the offline path."""
        return self.read([words.has_answer, *(clip.memory_MD for clip in clips), words.question])[-1]

    def logit(self, query_D: Tensor) -> float:
        """Above 0 to answer now."""
        return self.networks.silent_head(query_D).item()

    def find(self, clips: ClipMemory, query_D: Tensor, retrieval: Retrieval) -> Retrieved:
        """The clips whose indicators are most similar to the query, in order of time."""
        similarity_N = functional.cosine_similarity(clips.indicators_ND.float(), query_D.float()[None])
        count = STREAM_CLIPS
        if retrieval == "offline":
            count = min(max(count, int((similarity_N > OFFLINE_SIMILARITY).sum())), OFFLINE_CLIPS)
        kept = similarity_N.topk(min(count, len(clips))).indices.sort().values
        weights_N = (similarity_N / TEMPERATURE).softmax(0)
        return Retrieved(weights_N, tuple(kept.tolist()), self.logit(query_D))

    def visual(self, clips: ClipMemory, kept: Sequence[int]) -> Tensor:
        """Visual input of the large model [., H]: tokens and memory of clips, then one state per clip."""
        device = clips[0].memory_MD.device
        parts = []
        for clip in (clips[i] for i in kept):
            tokens = clip.tokens_FRC.to(device).flatten(0, 1)
            parts += [self.networks.clip(tokens), self.networks.compress(clip.memory_MD)]
        return torch.cat((*parts, self.networks.compress(self.summary(clips, 0, len(clips)))))
