"""Keys and values of one layer, for memories that compute the attention themselves.

Shapes: G key heads, S tokens, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stc_lmms.lazy import Tensor, torch

if TYPE_CHECKING:
    from stc_lmms.compat_llm import LanguageModel


@dataclass(frozen=True)
class KV:
    """Never modified in place, so a snapshot is a reference; the owner decides whether keys are rotated."""

    k_GSd: Tensor
    v_GSd: Tensor

    def __len__(self) -> int:
        return self.k_GSd.shape[1]

    @property
    def nbytes(self) -> int:
        return self.k_GSd.nbytes + self.v_GSd.nbytes

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        return self.k_GSd, self.v_GSd

    def tail(self, count: int) -> KV:
        """The last `count` tokens, or all if there are fewer; a view."""
        start = max(0, len(self) - count)
        return KV(self.k_GSd[:, start:], self.v_GSd[:, start:])

    def extended(self, k_GLd: Tensor, v_GLd: Tensor, keep: int | None = None) -> KV:
        """A copy with L more tokens, reduced to the last `keep`."""
        old = self if keep is None else self.tail(max(0, keep - k_GLd.shape[1]))
        new = KV(k_GLd, v_GLd) if keep is None else KV(k_GLd, v_GLd).tail(keep)
        return KV(torch.cat((old.k_GSd, new.k_GSd), dim=1), torch.cat((old.v_GSd, new.v_GSd), dim=1))


def empty(llm: LanguageModel) -> KV:
    """No tokens."""
    none = torch.empty(llm.kv_heads, 0, llm.head_dim, dtype=llm.dtype, device=llm.device)
    return KV(none, none)
