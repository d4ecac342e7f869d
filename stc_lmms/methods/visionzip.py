"""VisionZip: keep the tokens that receive the most attention; optionally merge the rest into a few.

Source: VisionZip (arXiv 2412.04467), section 3, and the authors' code. CLIP has a class token whose
attention row is the score. SigLIP has none: there the score of a patch is the attention that it receives,
mean over heads and queries, in the last tower layer used; scores are resized to the token grid exactly as
the features are.

- `stc` (default): dominant tokens only, as STC's repository runs it on LLaVA-OneVision.
- `full`: dominant and contextual tokens, in the authors' proportion of 54 to 10 (also 108 + 20, 162 + 30).
  The remaining tokens are merged: evenly spaced ones become targets, every other token joins the target with
  the most similar key. As in the authors' code, a contextual token is the target *plus* the mean of the
  tokens that joined it.

Both work on single frames, after the pooling, and keep position order (the authors append the contextual
tokens). Keys are averaged over heads, without the scale.

Shapes: F frames, N tokens per frame, R remaining ones, C contextual ones, D width, E width of a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stc_lmms.errors import StcError
from stc_lmms.lazy import Tensor, functional, torch
from stc_lmms.methods.base import Compressed, Context, Need, State, TokenMethod
from stc_lmms.methods.budget import Budgeted
from stc_lmms.methods.select import take
from stc_lmms.methods.spec import MethodSpec
from stc_lmms.ops.rows import gather_rows, lowest
from stc_lmms.ops.transfer import to_device
from stc_lmms.ops.wide import wide


@dataclass(frozen=True)
class VisionZip(Budgeted, TokenMethod[State]):
    """VisionZip.

    Args:
        mode: `stc` keeps dominant tokens only; `full` gives 10 of 64 tokens to contextual ones.
    """

    mode: Literal["stc", "full"] = "stc"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"attention", "keys"} if self.mode == "full" else {"attention"})

    @property
    def contextual(self) -> int:
        """Number of merged tokens: 10 of 64, 20 of 128, 30 of 192."""
        return self.token_budget * 10 // 64 if self.mode == "full" else 0

    def compress(self, tokens_FND: Tensor, context: Context, state: State) -> tuple[Compressed, State]:
        available = {"attention": context.attention_FN, "keys": context.keys_FNE}
        for name in sorted(self.needs):
            if available[name] is None:
                raise StcError(
                    f"visionzip needs the {name} of the vision tower, which this model does not have"
                )
        self.check(tokens_FND.shape[1])
        dominant_FK = lowest(-context.attention_FN, self.token_budget - self.contextual)
        if self.contextual == 0:
            return take(tokens_FND, dominant_FK), state
        rest_FR = remaining(dominant_FK, tokens_FND.shape[1])
        target_C, merged_FCD = merge_contextual(
            gather_rows(tokens_FND, rest_FR), gather_rows(context.keys_FNE, rest_FR), self.contextual
        )
        index_FC = rest_FR[:, target_C]
        merged_FND = tokens_FND.scatter(1, index_FC[..., None].expand_as(merged_FCD), merged_FCD)
        return take(merged_FND, torch.cat((dominant_FK, index_FC), dim=1)), state


def remaining(chosen_FK: Tensor, tokens: int) -> Tensor:
    """The indices 0..tokens-1 that were not chosen, ascending: [F,tokens-K]."""
    free_FN = torch.ones(len(chosen_FK), tokens, dtype=torch.bool, device=chosen_FK.device)
    free_FN.scatter_(1, chosen_FK, False)
    # A stable sort moves the free ones to the front without a device synchronisation.
    order_FN = free_FN.sort(dim=1, descending=True, stable=True).indices
    return order_FN[:, : tokens - chosen_FK.shape[1]]


def merge_contextual(rest_FRD: Tensor, keys_FRE: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`count` contextual tokens from those that are not dominant, which are in position order.

    Returns:
        Indices [C] of the targets among the R, and the tokens [F,C,D]: each target plus the mean of the
        tokens that joined it.
    """
    rest = rest_FRD.shape[1]
    step = max(1, rest // count)
    targets = range(0, count * step, step)
    others = [i for i in range(rest) if i not in targets]
    target_C, other_O = (to_device(x, rest_FRD.device, torch.long) for x in (targets, others))
    unit = functional.normalize(wide(keys_FRE), dim=-1)
    nearest_FO = (unit[:, other_O] @ unit[:, target_C].transpose(1, 2)).argmax(dim=-1)
    others_FOD = wide(rest_FRD[:, other_O])
    members_FCO = functional.one_hot(nearest_FO, count).transpose(1, 2).to(others_FOD.dtype)
    mean_FCD = members_FCO @ others_FOD
    mean_FCD = mean_FCD / members_FCO.sum(-1, keepdim=True).clamp_min(1)
    return target_C, (rest_FRD[:, target_C] + mean_FCD).to(rest_FRD.dtype)


SPECS = (
    MethodSpec(
        "visionzip",
        "tokens that receive the most attention; mode=full merges the rest",
        token=VisionZip,
        paper="2412.04467",
    ),
)
