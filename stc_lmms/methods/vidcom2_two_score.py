"""The memory-and-frame score that STC's repository runs under the name of VidCom2.

Source: the compiled `vidcom2_for_rekv` module of STC's repository, strategy `vidcom2_two_score`. This is
STC-Pruner's score, not VidCom2's (`vidcom2`), and very likely the row "VidCom2" of the published table.
"""

from __future__ import annotations

from dataclasses import dataclass

from stc_lmms.lazy import Tensor
from stc_lmms.methods.base import Compressed, Context, TokenMethod
from stc_lmms.methods.budget import Budgeted
from stc_lmms.methods.spec import MethodSpec
from stc_lmms.methods.stc_pruner import PrunerState, STCPruner


@dataclass(frozen=True)
class VidCom2TwoScore(Budgeted, TokenMethod[PrunerState]):
    """STC-Pruner with the arguments that make it this score."""

    state_class = PrunerState

    def compress(
        self, tokens_FND: Tensor, context: Context, state: PrunerState
    ) -> tuple[Compressed, PrunerState]:
        pruner = STCPruner(self.token_budget, strategy="gaussian", history="official", channel_keep=0.5)
        return pruner.compress(tokens_FND, context, state)


SPECS = (
    MethodSpec(
        "vidcom2_two_score",
        "the memory-and-frame score published under VidCom2's name (that of STC-Pruner)",
        token=VidCom2TwoScore,
        paper="2512.00891",
    ),
)
