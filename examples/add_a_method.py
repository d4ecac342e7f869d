"""Add your own method: keep the tokens whose length grew most since the frame before.

    python examples/add_a_method.py

A method is a frozen dataclass; its fields become model arguments. `compress` gets the tokens of the next
frames and what the stream has left behind, and returns what to keep and the new state. It must not look at
later frames, and must not care how a stream is cut into calls: so state is all it knows of the past.
"""

from dataclasses import dataclass

from torch import Tensor

from stc_lmms.methods.base import State, TokenMethod
from stc_lmms.methods.budget import Budgeted
from stc_lmms.methods.registry import METHODS, MethodSpec
from stc_lmms.methods.select import take


@dataclass(frozen=True)
class LoudestState(State):
    """Lengths of the tokens of the frame before, [N]; None at the start of a stream."""

    before_N: Tensor | None = None


@dataclass(frozen=True)
class Loudest(Budgeted, TokenMethod[LoudestState]):
    """Keep the tokens whose length grew most since the frame before.

    Args:
        past: how much the frame before counts, from 0 (not at all) to 1.
    """

    past: float = 0.5

    def open_state(self):
        """A new stream has no past."""
        return LoudestState()

    def compress(self, tokens_FND, context, state):
        """Keep `token_budget` tokens of each frame; `Budgeted` has checked that there are so many."""
        length_FN = tokens_FND.float().norm(dim=-1)
        before_FN = length_FN.roll(1, dims=0)
        before_FN[0] = length_FN[0] if state.before_N is None else state.before_N
        kept_FK = (length_FN - self.past * before_FN).topk(self.token_budget, dim=1).indices
        return take(tokens_FND, kept_FK), LoudestState(length_FN[-1].clone())


METHOD = MethodSpec("loudest", "tokens whose length grew most", token=Loudest)


def main() -> None:
    """Ask the demo model about a moving square, with the new method by its name."""
    import numpy as np

    from stc_lmms.engine.api import Generation
    from stc_lmms.models.llava_onevision.model import LlavaOnevision
    from stc_lmms.settings import resolve

    METHODS.register(METHOD)  # in a package of your own, the entry point does this
    frames = np.zeros((8, 216, 216, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        frame[20 * i : 20 * i + 60, 50:110] = 255
    settings = resolve({"pretrained": "demo", "device": "cpu", "method": "loudest", "token_budget": "32"})
    stream = LlavaOnevision(settings).open_stream()
    stream.observe(frames, times_s=[2.0 * i for i in range(8)])
    answer = stream.ask("What moves?", Generation(max_new_tokens=4))
    cost = answer.efficiency
    print(f"{cost.frames_seen} frames, {cost.llm_tokens_mean:g} tokens each, random weights: {answer.text!r}")


if __name__ == "__main__":
    main()
