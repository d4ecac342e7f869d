"""Full memory: the KV of every visual token stays, exactly as in the stock model."""

from torch import Tensor

from stc_lmms import compat


class FullMemory:
    """KV cache of one stream over a stock language model.

    Shapes: L tokens, D width of the language model, V vocabulary.
    """

    def __init__(self, llm: "compat.LanguageModel"):
        self.llm = llm
        self.cache = compat.new_cache()

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.cache.get_seq_length()

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return compat.cache_nbytes(self.cache)

    def append(self, embeds_LD: Tensor) -> None:
        """Prefill L embeddings behind what is there."""
        self.llm.hidden(embeds_LD, self.cache)

    def next_logits(self, embeds_LD: Tensor) -> Tensor:
        """Prefill L embeddings and return the logits [V] after the last."""
        return self.llm.head(self.llm.hidden(embeds_LD, self.cache)[-1])

    def snapshot(self) -> int:
        """A mark to `restore` to."""
        return self.length

    def restore(self, snapshot: int) -> None:
        """Forget everything appended since `snapshot`."""
        if self.length > snapshot:
            self.cache.crop(snapshot - self.length)  # negative: so many tokens off the end
