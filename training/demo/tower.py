"""Stage 1: tower and projector learn to classify the content of every token.

Linear read-outs with unit rows see the direction of a token only, so that shape, colour, digit and place
each get a direction of their own and of equal strength; the language model's word embeddings start from them.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.demo import model as blueprint
from training.demo.muon import Muon
from training.demo.scenes import IGNORE, KINDS, NOTHING, Labels, crowded, from_worlds
from training.demo.world import CELLS

STEPS, BATCH, WORLDS_EVERY = 1500, 32, 16
EVERY, SAVE_EVERY = 50, 100  # steps between log lines, and between saved states
SHARPNESS = 20.0
READ_OUTS = {"kind": KINDS, "color": 8, "digit": 10, "row": CELLS, "column": CELLS, "quarter": 4}
WEIGHTS = {"kind": 1.0, "color": 1.0, "digit": 1.0, "row": 0.4, "column": 0.4, "quarter": 0.4}
EMPTY = 0.3  # weight of empty tokens


class Eye(nn.Module):
    """Tower, projector and read-outs."""

    def __init__(self, stock: nn.Module):
        super().__init__()
        self.tower, self.projector = stock.model.vision_tower, stock.model.multi_modal_projector
        self.words = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(count, blueprint.WIDTH)) for name, count in READ_OUTS.items()}
        )

    def tokens(self, pictures: np.ndarray) -> Tensor:
        """Pictures uint8 [B,96,96,3] to LLM tokens [B,36,192]."""
        return blueprint.see(self.tower, self.projector, pictures)

    def read(self, tokens: Tensor) -> dict[str, Tensor]:
        """Logits [B,36,C] of every read-out."""
        unit = functional.normalize(tokens, dim=-1)
        return {
            name: SHARPNESS * unit @ functional.normalize(rows, dim=-1).T for name, rows in self.words.items()
        }


def targets(labels: Labels) -> dict[str, Tensor]:
    """Labels of every read-out, int64 [B,36]."""
    place = np.arange(CELLS * CELLS)
    row, column = place // CELLS, place % CELLS
    fixed = {"row": row, "column": column, "quarter": 2 * (row // 3) + column // 3}
    found = {"kind": labels.kind, "color": labels.color, "digit": labels.digit}
    found |= {name: np.broadcast_to(value, labels.kind.shape) for name, value in fixed.items()}
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}


def loss_of(logits: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    """Weighted cross entropies; cells with content have full weight."""
    weight = torch.where(wanted["kind"] == NOTHING, EMPTY, 1.0).flatten()
    total = torch.zeros(())
    for name, scale in WEIGHTS.items():
        goal = wanted[name].flatten()
        loss = functional.cross_entropy(
            logits[name].flatten(0, 1), goal, ignore_index=IGNORE, reduction="none"
        )
        use = weight * (goal != IGNORE)
        total = total + scale * (loss * use).sum() / use.sum().clamp(min=1)
    return total


@torch.no_grad()
def accuracy(logits: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """Accuracy per read-out on tokens with content."""
    there = (wanted["kind"] != NOTHING) & (wanted["kind"] != IGNORE)
    found = {}
    for name, scores in logits.items():
        use = there & (wanted[name] != IGNORE)
        found[name] = round((scores.argmax(-1) == wanted[name])[use].float().mean().item(), 4)
    return found


def train(stock: nn.Module, folder: Path, seed: int, steps: int = STEPS) -> dict[str, Tensor]:
    """Train tower and projector of `stock` in place; returns the read-outs' unit rows.

    Resumes from `folder`/tower.pt, which only this script reads, and logs to `folder`/tower.jsonl.
    """
    eye = Eye(stock)
    tables = [n for n, _ in eye.named_parameters() if "position" in n or n.startswith("words")]
    optimizer = Muon(eye.named_parameters(), tables=tables, lr=0.02, adam_lr=2e-3)
    saved, first = folder / "tower.pt", 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        eye.load_state_dict(state["eye"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    start = time.time()
    for step in range(first, steps):
        rng = np.random.default_rng([seed, 11, step])
        pictures, labels = from_worlds(rng, BATCH, seed) if step % WORLDS_EVERY == 7 else crowded(rng, BATCH)
        logits, wanted = eye.read(eye.tokens(pictures)), targets(labels)
        loss = loss_of(logits, wanted)
        loss.backward()
        optimizer.step(blueprint.schedule(step, steps, warmup=60))
        if step % EVERY == EVERY - 1 or step == steps - 1:
            line = {"step": step + 1, "loss": round(loss.item(), 4), "s": round(time.time() - start, 1)}
            blueprint.log(folder / "tower.jsonl", line | accuracy(logits, wanted))
        if step % SAVE_EVERY == SAVE_EVERY - 1 or step == steps - 1:
            blueprint.save(
                saved, {"eye": eye.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            )
    return {name: functional.normalize(rows.detach(), dim=-1) for name, rows in eye.words.items()}


@torch.no_grad()
def level(stock: nn.Module, seed: int) -> None:
    """Scale the projector's last layer so that tokens have a root mean square of 1."""
    pictures, _ = from_worlds(np.random.default_rng([seed, 12]), 64, seed)
    tokens = blueprint.see(stock.model.vision_tower, stock.model.multi_modal_projector, pictures)
    last = stock.model.multi_modal_projector.linear_2
    scale = tokens.square().mean().rsqrt()
    last.weight.mul_(scale)
    last.bias.mul_(scale)
