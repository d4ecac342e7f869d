"""Full memory: keeps the KV of every visual token, exactly as the stock model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stc_lmms.errors import SettingsError
from stc_lmms.lazy import Tensor
from stc_lmms.memory.base import Memory, Reader, StreamMemory, check_append
from stc_lmms.memory.dycoke_dp import DecodePruning

if TYPE_CHECKING:
    from stc_lmms.compat_llm import LanguageModel


@dataclass(frozen=True)
class Full(Memory):
    """Every token of every frame.

    Args:
        decode_prune: DyCoke's second stage: share of the visual tokens that are hidden while the answer is
            decoded (the prompt still reads all); 0 is off. DyCoke uses 0.7 or 0.8.
        decode_prune_layer: the first layer that reads fewer; the layer below it chooses.
    """

    decode_prune: float = 0.0
    decode_prune_layer: int = 3

    def __post_init__(self):
        if not 0 <= self.decode_prune < 1:
            raise SettingsError(f"decode_prune={self.decode_prune} must be in [0, 1)")
        if self.decode_prune_layer < 1:
            raise SettingsError(f"decode_prune_layer={self.decode_prune_layer} must be at least 1")

    @property
    def runs_attention(self) -> bool:  # type: ignore[override]
        """Only while it prunes."""
        return self.decode_prune > 0

    def check(self, layers: int, tokens_per_frame: int | None) -> None:
        """Refuse a layer that the decoder does not have."""
        if self.decode_prune and self.decode_prune_layer >= layers:
            raise SettingsError(
                f"decode_prune_layer={self.decode_prune_layer} is beyond the last of {layers} layers "
                f"(0 to {layers - 1}), so decode_prune={self.decode_prune} would do nothing"
            )

    def open(self, llm: LanguageModel) -> FullMemory:
        self.check(llm.layers, None)
        return FullMemory(llm, self)


class FullMemory(StreamMemory):
    """KV cache of one stream over a stock language model."""

    def __init__(self, llm: LanguageModel, options: Full):
        self.llm = llm
        self.options = options
        self.cache = llm.new_cache()
        self._prefix = 0

    @property
    def length(self) -> int:
        return self.cache.get_seq_length()

    @property
    def nbytes(self) -> int:
        return self.llm.cache_nbytes(self.cache)

    def begin(self, prefix_LD: Tensor) -> None:
        self._prefix = len(prefix_LD)
        self.llm.hidden(prefix_LD, self.cache)

    def append(self, embeds_MD: Tensor, tokens_per_frame: Sequence[int]) -> None:
        check_append(embeds_MD, tokens_per_frame)
        if len(embeds_MD):
            self.llm.hidden(embeds_MD, self.cache)

    def next_logits(self, embeds_LD: Tensor) -> Tensor:
        """Prefill L embeddings and return the logits [V] after the last."""
        return self.llm.head(self.llm.hidden(embeds_LD, self.cache)[-1])

    def ask(self, question_LD: Tensor | None = None) -> Reader:
        """See `StreamMemory.ask`: the answer is appended to the stream's cache and cropped off again."""
        options, pruning = self.options, None
        if options.decode_prune:
            visual = range(self._prefix, self.length)
            pruning = DecodePruning(visual, options.decode_prune, options.decode_prune_layer)
        return CacheReader(self, pruning)

    def snapshot(self) -> int:
        return self.length

    def restore(self, snapshot: int) -> None:
        if self.length > snapshot:
            self.cache.crop(snapshot - self.length)  # a negative length crops from the end


class CacheReader(Reader):
    """Appends to the stream's own cache, and crops it on closing.

    `pruning` hides visual tokens from everything that follows the prompt (the first call).
    """

    def __init__(self, memory: FullMemory, pruning: DecodePruning | None = None):
        self._memory, self._pruning = memory, pruning
        self._before = memory.snapshot()
        self._prompt_read = False

    @property
    def context_tokens(self) -> int:
        return self._before

    def next_logits(self, embeds_LD: Tensor) -> Tensor:
        if self._pruning is None or not self._prompt_read:
            self._prompt_read = True
            return self._memory.next_logits(embeds_LD)
        llm = self._memory.llm
        for i in range(len(embeds_LD)):
            hidden_1D = llm.hidden(embeds_LD[i : i + 1], self._memory.cache, self._pruning.attend)
        return llm.head(hidden_1D[-1])

    def close(self) -> None:
        self._memory.restore(self._before)
