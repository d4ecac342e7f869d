"""Muon for matrices and AdamW for the rest, as one optimiser.

torch's own Muon orthogonalises in bfloat16, which CPUs without matrix units are slow at; this one does it in
float32, all matrices of a shape in one batched product.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)  # of Jordan et al. 2024, "Muon": five steps bring singular values near 1


class Muon:
    """Momentum, orthogonalised per matrix (Jordan et al. 2024); vectors and tables go to AdamW.

    Args:
        named: parameters with their names.
        tables: names of two-dimensional parameters that are look-up tables, not maps.
        lr: of the matrices.
        adam_lr: of the rest.
        weight_decay: of the matrices, times `lr` in every step.
        momentum: of the matrices, Nesterov.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        *,
        tables: Iterable[str] = (),
        lr: float,
        adam_lr: float,
        weight_decay: float = 0.02,
        momentum: float = 0.95,
    ):
        tables, shapes, rest = set(tables), defaultdict(list), []
        for name, parameter in named:
            if parameter.ndim == 2 and name not in tables:
                shapes[tuple(parameter.shape)].append(parameter)
            else:
                rest.append(parameter)
        self.groups = list(shapes.values())
        self.buffers = [torch.zeros(len(g), *g[0].shape) for g in self.groups]
        self.adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
        self.lr, self.adam_lr = lr, adam_lr
        self.weight_decay, self.momentum = weight_decay, momentum

    @torch.no_grad()
    def step(self, share: float) -> None:
        """One update at `share` of the learning rates; clears the gradients."""
        for parameters, buffer in zip(self.groups, self.buffers, strict=True):
            held = [i for i, p in enumerate(parameters) if p.grad is not None]
            if not held:
                continue
            gradient = torch.stack([parameters[i].grad for i in held])
            mixed = buffer[held].mul_(self.momentum).add_(gradient)
            buffer[held] = mixed
            update = orthogonal(gradient.add_(mixed, alpha=self.momentum))
            rows, columns = update.shape[-2:]
            rate = self.lr * share
            for i, change in zip(held, update, strict=True):
                parameters[i].mul_(1 - rate * self.weight_decay)
                parameters[i].add_(change, alpha=-rate * max(1.0, rows / columns) ** 0.5)
                parameters[i].grad = None
        for group in self.adam.param_groups:
            group["lr"] = self.adam_lr * share
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, object]:
        """State for resuming a run."""
        return {"buffers": self.buffers, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore the result of `state_dict`."""
        for mine, saved in zip(self.buffers, state["buffers"], strict=True):
            mine.copy_(saved)
        self.adam.load_state_dict(state["adam"])


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices [N,R,C] with all singular values brought near 1 (Newton-Schulz)."""
    a, b, c = _QUINTIC
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
