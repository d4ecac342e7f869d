"""The contract of a stream memory: what the language model still knows of a stream when it is asked.

A memory is a frozen dataclass of options (its fields are model arguments) that opens one `StreamMemory`
per stream. The text before the video goes in once, by `begin`; frames by `append`; a question gets a
`Reader` from `ask`, which may be read to the end, dropped half way, or opened twice: none of it changes
the memory.

Frames may be ragged, that is, have any number of tokens, also none. No memory here needs equal frames.

Models that position tokens themselves, as those with M-RoPE do, pass `ops.positions.PositionedEmbeds`
wherever embeddings are expected here. A memory hands them to `LanguageModel.hidden` and asks that model for
position ids and rotations; a memory that counts positions itself is `one_axis`, refused for such models.

What is told of every memory (tests/memory/test_contract.py):
  - what a question reads depends on the frames, not on how they were cut into `append` calls;
  - asking changes nothing, so K questions on one stream equal K streams asked once;
  - `restore` brings back the state of `snapshot`; later snapshots are void then.

Shapes: L tokens of text, M tokens of F frames, D width of the language model, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stc_lmms.lazy import Tensor

if TYPE_CHECKING:
    from stc_lmms.compat_llm import LanguageModel


class Reader(ABC):
    """One question's view of a memory: greedy decoding appends to it and reads logits."""

    @property
    @abstractmethod
    def context_tokens(self) -> int:
        """Tokens of the stream that the answer is read from, without the question's own.

        The most of any layer, where layers differ; known after the first `next_logits`.
        """

    @abstractmethod
    def next_logits(self, embeds_LD: Tensor) -> Tensor:
        """Append L >= 1 embeddings and return the float32 logits [V] after the last."""

    def close(self) -> None:  # noqa: B027 - most have nothing to undo
        """Leave the memory as it was before `ask`."""

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class StreamMemory(ABC):
    """What one stream has left in the language model."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Tokens taken in so far, the text before the video included, kept or not."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes held on the compute device."""

    @property
    def forgotten_frames(self) -> int:
        """How many of the oldest frames no question can see any more."""
        return 0

    @property
    def archive_nbytes(self) -> int:
        """Bytes held in host memory or on disk."""
        return 0

    @abstractmethod
    def begin(self, prefix_LD: Tensor) -> None:
        """Take in the text before the video; at most once, before the first frame."""

    @abstractmethod
    def append(self, embeds_MD: Tensor, tokens_per_frame: Sequence[int]) -> None:
        """Take in the tokens of the next F frames.

        Args:
            embeds_MD: tokens of all frames, in frame order.
            tokens_per_frame: how many belong to each frame; sums to M.

        Raises:
            ValueError: it does not.
            StcError: a frame does not fit this memory.
        """

    @abstractmethod
    def ask(self, question_LD: Tensor | None = None) -> Reader:
        """A reader for one question; a context manager.

        Args:
            question_LD: what to search the memory by, if this memory searches. None, or no tokens: by
                the first embeddings that are read.
        """

    @abstractmethod
    def snapshot(self) -> Any:
        """The present state, to `restore` to."""

    @abstractmethod
    def restore(self, snapshot: Any) -> None:
        """Forget everything since `snapshot`. Snapshots taken after that one are void."""

    def close(self) -> None:  # noqa: B027 - most hold nothing else
        """Give back what outlives the object, such as files."""


class Memory(ABC):
    """The options of a memory: a frozen dataclass."""

    runs_attention = False  # does the attention of the decoder itself, see `compat_llm.why_not_hooked`
    one_axis = False  # places tokens anew on one axis: not for decoders with M-RoPE

    @abstractmethod
    def open(self, llm: LanguageModel) -> StreamMemory:
        """The empty memory of a new stream.

        Raises:
            SettingsError: the options do not fit the model.
        """

    def most_tokens(self, tokens_per_frame: int) -> int | None:
        """How many of a stream's tokens have their KV on the device at once, at most; None: all of them."""
        return None

    def check(self, layers: int, tokens_per_frame: int | None) -> None:  # noqa: B027 - most fit all
        """Refuse a decoder that the options do not fit, before any weight is loaded.

        Args:
            layers: decoder layers.
            tokens_per_frame: tokens of every frame; None where a token method decides.

        Raises:
            SettingsError: with the reason.
        """


def check_append(embeds_MD: Tensor, tokens_per_frame: Sequence[int]) -> None:
    """Raise `ValueError` unless the arguments of `StreamMemory.append` agree."""
    if sum(tokens_per_frame) != len(embeds_MD) or any(n < 0 for n in tokens_per_frame):
        raise ValueError(f"{len(embeds_MD)} tokens do not make frames of {list(tokens_per_frame)} tokens")
