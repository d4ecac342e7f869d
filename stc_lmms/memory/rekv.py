"""ReKV: a sliding window while the stream runs, and the old KV searched by the question.

Source: ReKV (ICLR 2025, arXiv 2503.00540) and the authors' code. Every new token attends to the last
`n_local` tokens and, once the stream is longer, to the text before the video as a sink. Each frame's KV is
one block, which is archived immediately. A question is first run on its own: in every layer its mean query is
compared (dot product) with every block's mean key, and the layer continues with the text before the video and
the best blocks, in temporal order, at consecutive positions. The prompt and the answer attend to these, and
not to the window: recent frames are seen only if they are retrieved.

As in the authors' code, and tested against it:
  - the sink is at the distance n_local - 1 from every query, and grows as tokens leave the window: a
    block that ends at E sees the first min(n_init, E - n_local) of its n_init tokens;
  - a context longer than n_local is read through the same window, with the sink beyond it.

Differences: blocks may have any length, a group of frames is one forward pass, and keys of the window stay
rotated at their position in the stream (the authors rotate the whole window again for every block).

Shapes: F frames, M tokens, L queries, H query heads, G key heads, S keys, d head width, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from stc_lmms.errors import SettingsError, StcError
from stc_lmms.lazy import Tensor, torch
from stc_lmms.memory.archive import Archive
from stc_lmms.memory.base import Memory, Reader, StreamMemory, check_append
from stc_lmms.memory.kv import KV, empty
from stc_lmms.ops.attention import attend, attend_masked, combine, windowed
from stc_lmms.ops.rope import rotate, rotation
from stc_lmms.ops.transfer import to_device
from stc_lmms.ops.wide import wide

if TYPE_CHECKING:
    from stc_lmms.compat_llm import LanguageModel


@dataclass(frozen=True)
class ReKV(Memory):
    """In-context video KV retrieval.

    Args:
        n_local: tokens of the sliding window.
        retrieve_size: blocks (frames) retrieved per layer and question.
        retrieve_chunk: consecutive blocks that are scored and retrieved together.
        archive_dir: keep the archive in files below this folder instead of in host memory.
        archive_cap_gib: forget the oldest frames when the archive would exceed this size.
    """

    n_local: int = 15000
    retrieve_size: int = 64
    retrieve_chunk: int = 1
    archive_dir: str | None = None
    archive_cap_gib: float | None = None

    runs_attention = True
    one_axis = True

    def __post_init__(self):
        for name in ("n_local", "retrieve_size", "retrieve_chunk"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least 1")
        if self.retrieve_size % self.retrieve_chunk:
            raise SettingsError(
                f"retrieve_size={self.retrieve_size} is no multiple of retrieve_chunk={self.retrieve_chunk}"
            )
        if self.archive_cap_gib is not None and not 0 < self.archive_cap_gib < 2**30:
            raise SettingsError(f"archive_cap_gib={self.archive_cap_gib} must be a number of GiB above 0")

    def check(self, layers: int, tokens_per_frame: int | None) -> None:
        """Refuse a window that does not hold one frame."""
        if tokens_per_frame is not None and self.n_local < tokens_per_frame:
            raise SettingsError(_too_small(self.n_local, f"a frame has {tokens_per_frame} tokens"))

    def most_tokens(self, tokens_per_frame: int) -> int:
        return self.n_local + self.retrieve_size * tokens_per_frame

    def open(self, llm: LanguageModel) -> ReKVMemory:
        return ReKVMemory(llm, self)


def _too_small(n_local: int, why: str) -> str:
    return f"n_local={n_local} is too small: {why}, and the window must hold them"


@dataclass(frozen=True)
class _State:
    """KV per layer; keys of `init` are not rotated, those of `window` are at their position in the stream."""

    init: tuple[KV, ...]
    window: tuple[KV, ...]
    end: int = 0


class ReKVMemory(StreamMemory):
    """Window on the device, blocks in the archive."""

    def __init__(self, llm: LanguageModel, options: ReKV):
        self.llm, self.options = llm, options
        cap = None if options.archive_cap_gib is None else int(options.archive_cap_gib * 2**30)
        shape = (llm.layers, llm.kv_heads, llm.head_dim)
        self.archive = Archive(*shape, llm.dtype, llm.device, folder=options.archive_dir, cap_bytes=cap)
        nothing = (empty(llm),) * llm.layers
        self.state = _State(nothing, nothing)

    @property
    def length(self) -> int:
        return self.state.end

    @property
    def nbytes(self) -> int:
        return sum(kv.nbytes for kv in (*self.state.init, *self.state.window))

    @property
    def archive_nbytes(self) -> int:
        return self.archive.nbytes

    def begin(self, prefix_LD: Tensor) -> None:
        """See `StreamMemory.begin`; these tokens are the sink."""
        if len(prefix_LD) > self.options.n_local:
            why = f"the text before the video has {len(prefix_LD)} tokens"
            raise StcError(_too_small(self.options.n_local, why))
        init: list[KV] = []
        self._prefill(prefix_LD, (), lambda layer, k, v: init.append(KV(k, v)))
        self.state = _State(tuple(init), self.state.window, self.state.end)

    def append(self, embeds_MD: Tensor, tokens_per_frame: Sequence[int]) -> None:
        self.prefill(embeds_MD, tokens_per_frame)

    def prefill(self, embeds_MD: Tensor, tokens_per_frame: Sequence[int]) -> Tensor:
        """`append`; returns the last hidden states [M,D] of the tokens."""
        check_append(embeds_MD, tokens_per_frame)
        lengths = [n for n in tokens_per_frame if n]
        if max(lengths, default=0) > self.options.n_local:
            raise StcError(_too_small(self.options.n_local, f"a frame has {max(lengths)} tokens"))
        if not lengths:
            return embeds_MD
        blocks = self.archive.reserve(lengths)
        means: list[Tensor] = []

        def keep(layer: int, k_GMd: Tensor, v_GMd: Tensor) -> None:
            self.archive.write(layer, blocks, k_GMd, v_GMd)
            means.append(block_means(k_GMd, lengths))

        hidden_MD = self._prefill(embeds_MD, lengths, keep)
        self.archive.commit(blocks, torch.stack(means))
        return hidden_MD

    def _prefill(
        self, embeds_LD: Tensor, lengths: Sequence[int], keep: Callable[[int, Tensor, Tensor], object]
    ) -> Tensor:
        """Run L tokens through the decoder and advance the window; `keep` gets every layer's new KV."""
        llm, state, n_local = self.llm, self.state, self.options.n_local
        end = state.end + len(embeds_LD)
        position_ids_L = torch.arange(state.end, end, device=llm.device)
        cos_sin = rotation(position_ids_L, llm.inv_freq, llm.dtype)
        far = rotation(position_ids_L.new_full((1,), n_local - 1), llm.inv_freq, llm.dtype)
        sink_mask = self._sink_mask(lengths)
        window: list[KV] = []

        def step(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            past, new = state.window[layer], KV(rotate(k, cos_sin), v)
            parts = [windowed(rotate(q, cos_sin), past.pair, new.pair, scale, n_local)]
            if sink_mask is not None:
                parts.append(attend_masked(rotate(q, far), *state.init[layer].pair, scale, sink_mask))
            keep(layer, k, v)
            window.append(past.extended(*new.pair, keep=n_local))
            return combine(parts).out_HLd

        hidden_LD = llm.hidden(embeds_LD, None, step)
        self.state = _State(state.init, tuple(window), end)
        return hidden_LD

    def _sink_mask(self, lengths: Sequence[int]) -> Tensor | None:
        """Which sink tokens the new ones see [M,n_init]; None while they see none."""
        ends = list(accumulate(lengths, initial=self.state.end))[1:]
        init = len(self.state.init[0])
        seen = [min(init, max(0, end - self.options.n_local)) for end in ends]
        if not any(seen):
            return None
        seen_M = to_device(np.repeat(seen, lengths), self.llm.device)
        return torch.arange(init, device=self.llm.device) < seen_M[:, None]

    def ask(self, question_LD: Tensor | None = None) -> ReKVReader:
        return ReKVReader(self, question_LD)

    def snapshot(self) -> object:
        """See `StreamMemory.snapshot`; it does not keep blocks that the archive drops later."""
        return self.state, self.archive.snapshot()

    def restore(self, snapshot: object) -> None:
        self.state, blocks = snapshot
        self.archive.restore(blocks)

    def close(self) -> None:
        self.archive.close()


class ReKVReader(Reader):
    """Retrieves blocks at the first read; the prompt and the answer attend to them.

    Attributes:
        retrieved: block numbers per layer, ascending.
        scores: per layer, of the archive's blocks; empty where all were retrieved.
        question_hidden_LD: last hidden states of the retrieval pass.
    """

    def __init__(self, memory: ReKVMemory, question_LD: Tensor | None):
        self._memory = memory
        self._question_LD = question_LD if question_LD is not None and len(question_LD) else None
        self._context: list[KV] = []  # per layer, keys rotated at 0..
        self._own = [empty(memory.llm)] * memory.llm.layers
        self._rotations: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.retrieved: list[list[int]] = []
        self.scores: list[Tensor] = []
        self.question_hidden_LD: Tensor | None = None

    @property
    def context_tokens(self) -> int:
        """Tokens of the sink and of the retrieved blocks, maximum over layers."""
        return max(map(len, self._context), default=0)

    def next_logits(self, embeds_LD: Tensor) -> Tensor:
        llm = self._memory.llm
        if not self._context:
            question_LD = embeds_LD if self._question_LD is None else self._question_LD
            self.question_hidden_LD = llm.hidden(question_LD, None, self._retrieve)
        self._rotations.clear()
        return llm.head(llm.hidden(embeds_LD, None, self._read)[-1])

    def _retrieve(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        memory, options = self._memory, self._memory.options
        scores = memory.archive.scores(layer, mean_query(q, len(k)))
        chosen = choose(scores, options.retrieve_size, options.retrieve_chunk)
        self.scores.append(scores if len(chosen) < len(scores) else scores[:0])
        self.retrieved.append([memory.archive.first + block for block in chosen])
        context = memory.state.init[layer].extended(*memory.archive.load(layer, self.retrieved[-1]).pair)
        cos_sin = self._rotation(0, len(context))
        self._context.append(KV(rotate(context.k_GSd, cos_sin), context.v_GSd))
        return self._attend(layer, q, k, v, scale)[0]

    def _read(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        out_HLd, new = self._attend(layer, q, k, v, scale)
        self._own[layer] = self._own[layer].extended(*new.pair)
        return out_HLd

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, KV]:
        """Attention of L tokens that follow the context and the reader's own tokens, and their KV."""
        context, own, n_local = self._context[layer], self._own[layer], self._memory.options.n_local
        start, length = len(context) + len(own), q.shape[1]
        cos_sin = self._rotation(start, start + length)
        near, new = rotate(q, cos_sin), KV(rotate(k, cos_sin), v)
        if start + length <= n_local:
            parts = [windowed(near, own.pair, new.pair, scale)]
            if len(context):
                parts.append(attend(near, *context.pair, scale))
            return combine(parts).out_HLd, new
        past = context.extended(*own.pair)
        parts = [windowed(near, past.pair, new.pair, scale, n_local)]
        init = self._memory.state.init[layer]
        if len(init):
            far = rotate(q, self._rotation(n_local - 1, n_local))
            position_ids_L = torch.arange(start, start + length, device=q.device)
            beyond = position_ids_L[:, None] - torch.arange(len(init), device=q.device) >= n_local
            parts.append(attend_masked(far, *init.pair, scale, beyond))
        return combine(parts).out_HLd, new

    def _rotation(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The rotation at these positions; usually the same in all layers."""
        if (start, stop) not in self._rotations:
            llm = self._memory.llm
            position_ids_L = torch.arange(start, stop, device=llm.device)
            self._rotations[start, stop] = rotation(position_ids_L, llm.inv_freq, llm.dtype)
        return self._rotations[start, stop]


def block_means(k_GMd: Tensor, lengths: Sequence[int]) -> Tensor:
    """Mean key of every block [F,G*d], float32 or wider, of M tokens in blocks of these lengths."""
    blocks = wide(k_GMd).split(list(lengths), dim=1)
    return torch.stack([block.mean(dim=1).flatten() for block in blocks])


def mean_query(q_HLd: Tensor, groups: int) -> Tensor:
    """Mean query [G*d], summed over the query heads that share a key head."""
    return wide(q_HLd).mean(dim=1).unflatten(0, (groups, -1)).sum(dim=1).flatten()


def choose(scores_B: Tensor, size: int, chunk: int) -> list[int]:
    """Indices, ascending, of the `size` best blocks in chunks of `chunk`; the last may be shorter."""
    blocks = len(scores_B)
    if blocks <= size:
        return list(range(blocks))
    best = chunk_means(scores_B, chunk).topk(size // chunk).indices.sort().values.tolist()
    return [i for group in best for i in range(group * chunk, min((group + 1) * chunk, blocks))]


def chunk_means(scores_B: Tensor, chunk: int) -> Tensor:
    """Mean score of every `chunk` consecutive blocks, and of the remaining ones."""
    full = len(scores_B) - len(scores_B) % chunk
    means = scores_B[:full].unflatten(0, (-1, chunk)).mean(dim=1)
    return means if full == len(scores_B) else torch.cat((means, scores_B[full:].mean(dim=0, keepdim=True)))
