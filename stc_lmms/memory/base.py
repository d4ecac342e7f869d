"""The contract of a stream memory: what the language model keeps of a stream for later questions.

A memory is a frozen dataclass of options (its fields are model arguments) that opens one `StreamMemory`
per stream. `begin` takes the text before the video, once; `append` takes frames; a question gets a `Reader`
from `ask`, which may be read to the end, abandoned half way, or opened twice: none of it changes the memory.
Frames may have different numbers of tokens, including none.

Models that position tokens themselves (M-RoPE) pass `ops.positions.PositionedEmbeds` as embeddings. A memory
that numbers positions itself is `one_axis`, and is refused for such models; others ask the language model.

Invariants (tests/memory/test_contract.py):
  - what a question reads depends on the frames, not on how they were split into `append` calls;
  - asking changes nothing, so K questions on one stream equal K streams with one question each;
  - `restore` brings back the state of `snapshot`, and invalidates later snapshots.

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
        """Tokens of the stream that the question attends to (maximum over layers), after `next_logits`."""

    @abstractmethod
    def next_logits(self, embeds_LD: Tensor) -> Tensor:
        """Append L >= 1 embeddings and return the float32 logits [V] after the last."""

    def close(self) -> None:  # noqa: B027 - most have nothing to undo
        """Restore the memory to its state before `ask`."""

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class StreamMemory(ABC):
    """The memory of one stream."""

    _state: Any

    @property
    @abstractmethod
    def length(self) -> int:
        """Tokens appended so far, including the text before the video, kept or not."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes held on the compute device."""

    @property
    def forgotten_frames(self) -> int:
        """Number of oldest frames that no question can see any more."""
        return 0

    @property
    def archive_nbytes(self) -> int:
        """Bytes held in host memory or on disk."""
        return 0

    @abstractmethod
    def begin(self, prefix_LD: Tensor) -> None:
        """Append the text before the video; at most once, before the first frame."""

    @abstractmethod
    def append(self, embeds_MD: Tensor, tokens_per_frame: Sequence[int]) -> None:
        """Append the tokens of the next F frames; `tokens_per_frame` sums to M.

        Raises:
            ValueError: it does not.
            StcError: a frame does not fit this memory.
        """

    @abstractmethod
    def ask(self, question_LD: Tensor | None = None) -> Reader:
        """A reader for one question.

        Args:
            question_LD: the query, for memories that search; None or empty: the first embeddings read.
        """

    def snapshot(self) -> Any:
        """The current state, for `restore`; by default `_state`, which `append` must replace, not modify."""
        return self._state

    def restore(self, snapshot: Any) -> None:
        """Forget everything since `snapshot`; invalidates later snapshots."""
        self._state = snapshot

    def close(self) -> None:  # noqa: B027 - most hold nothing else
        """Release what outlives the object, such as files."""


class Memory(ABC):
    """The options of a memory: a frozen dataclass."""

    runs_attention = False  # computes the decoder's attention itself, see `compat_llm.check_hook`
    one_axis = False  # renumbers tokens on one axis: not for decoders with M-RoPE

    @abstractmethod
    def open(self, llm: LanguageModel) -> StreamMemory:
        """The empty memory of a new stream; `SettingsError` if the options do not fit the model."""

    def most_tokens(self, tokens_per_frame: int) -> int | None:
        """Most tokens of a stream whose KV is on the device at once; None: all of them."""
        return None

    def check(self, layers: int, tokens_per_frame: int | None) -> None:  # noqa: B027 - most fit all
        """Raise `SettingsError` if the options do not fit a decoder; before any weight is loaded.

        Args:
            layers: decoder layers.
            tokens_per_frame: tokens of every frame; None where a token method decides.
        """


def check_append(embeds_MD: Tensor, tokens_per_frame: Sequence[int]) -> None:
    """Raise `ValueError` unless the arguments of `StreamMemory.append` agree."""
    if sum(tokens_per_frame) != len(embeds_MD) or any(n < 0 for n in tokens_per_frame):
        raise ValueError(f"{len(embeds_MD)} tokens cannot be split into frames of {list(tokens_per_frame)}")
