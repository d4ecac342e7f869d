"""Stage 2b: the training loop of the language model, which can be killed and resumed."""

import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.demo import model as blueprint
from training.demo.clips import Clip
from training.demo.language import PackedQwen2
from training.demo.lessons import PHASES, Phase, Teacher, Timely, losses
from training.demo.muon import Muon
from training.demo.questions import DIGITS, FAMILIES, QUARTERS
from training.demo.scenes import DARK, LIT, NOTHING, SIGN, crowded
from training.demo.world import CELLS, COLOR_NAMES, SHAPES

LR, TABLE_LR, EVERY, SAVE_EVERY = 0.013, 2e-3, 50, 100
WARMUP = 40
# Share of all steps -> learning rate factor: constant, slowly down, then fast to 0.
DESCENT = {0.65: 1.0, 15 / 17: 142 / 221, 1.0: 0.0}


def learn(
    stock: nn.Module,
    tokenizer,
    clips: dict[int, list[Clip]],
    folder: Path,
    seed: int,
    phases: tuple[Phase, ...] = PHASES,
    bf16: bool = True,
) -> None:
    """Train the language model of `stock` in place; resumes from `folder`/language.pt, if there is one."""
    model, timely = PackedQwen2(stock), Timely(blueprint.WIDTH)
    ids = tokenizer.get_vocab()
    motions = torch.tensor([ids[word] for word in ("standing still", *_moving())])
    start_from_vision(stock, ids, seed)
    named = named_parameters(stock)
    named += [(f"timely.{n}", p) for n, p in timely.named_parameters()]
    for parameter in stock.parameters():
        parameter.requires_grad_(False)
    for _, parameter in named:
        parameter.requires_grad_(True)
    tables = [n for n, _ in named if n in ("core.embed_tokens.weight", "lm_head") or n.startswith("timely")]
    optimizer = Muon(named, tables=tables, lr=LR, adam_lr=TABLE_LR)
    teacher, saved, first = Teacher(tokenizer, clips, seed), folder / "language.pt", 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        load_values(named, state)
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        teacher.skill |= state.get("skill", {})
    steps, start = sum(phase.steps for phase in phases), time.time()
    seen: dict[str, list] = defaultdict(list)
    for step in range(first, steps):
        phase = phase_of(step, phases)
        lesson = teacher.lesson(step, phase)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, report = losses(model, timely, lesson, motions, teacher.end)
        loss.backward()
        optimizer.step(phase.rate * schedule(step, steps))
        teacher.mark({name: value for name, value in report.items() if isinstance(value, tuple)})
        for name, value in report.items():
            seen[name].append(value)
        if step % EVERY == EVERY - 1 or step == steps - 1:
            blueprint.log(folder / "language.jsonl", _log_line(step, time.time() - start, seen))
            seen.clear()
        if step % SAVE_EVERY == SAVE_EVERY - 1 or step == steps - 1:
            state = {
                "values": [p.data for _, p in named],
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
            }
            state["skill"] = teacher.skill
            blueprint.save(saved, state)


def schedule(step: int, steps: int) -> float:
    """Factor on a phase's learning rate."""
    return min(1.0, (step + 1) / WARMUP) * float(
        np.interp(step / steps, list(DESCENT), list(DESCENT.values()))
    )


def named_parameters(stock: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters of the stock model that this stage trains."""
    named = [(f"core.{n}", p) for n, p in stock.model.language_model.named_parameters()]
    return [*named, ("lm_head", stock.lm_head.weight), ("newline", stock.model.image_newline)]


def load_values(named: list[tuple[str, nn.Parameter]], state: dict[str, object]) -> None:
    """Copy saved values into parameters; `state` may hold more values, those used only for training."""
    for (_, parameter), value in zip(named, state["values"], strict=False):
        parameter.data.copy_(value)


def phase_of(step: int, phases: tuple[Phase, ...]) -> Phase:
    """The phase that a step belongs to."""
    for phase in phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return phases[-1]


def _moving() -> tuple[str, ...]:
    return ("moving left", "moving right", "moving up", "moving down")


def _log_line(step: int, seconds: float, seen: dict[str, list]) -> dict[str, object]:
    line: dict[str, object] = {"step": step + 1, "s": round(seconds, 1)}
    for name, values in seen.items():
        if isinstance(values[0], tuple):
            hits, count = (sum(column) for column in zip(*values, strict=True))
            line[name] = round(hits / count, 3)
        else:
            line[name] = round(sum(values) / len(values), 3)
    order = {family: i for i, family in enumerate(FAMILIES)}
    return dict(sorted(line.items(), key=lambda item: order.get(item[0], -1)))


@torch.no_grad()
def start_from_vision(stock: nn.Module, ids: dict[str, int], seed: int, size: float = 0.7) -> None:
    """Initial weights: word embeddings follow the tower's features, attention first matches like with like.

    Without this the option letters stay at chance for a long time, as the trial run showed.
    """
    generator = torch.Generator().manual_seed(seed)
    text = stock.model.language_model
    width, head = text.config.hidden_size, text.config.hidden_size // text.config.num_attention_heads
    embed = text.embed_tokens.weight
    embed.copy_(torch.randn(embed.shape, generator=generator) * size)
    stock.lm_head.weight.copy_(torch.randn(embed.shape, generator=generator) * 0.02)
    stock.model.image_newline.copy_(torch.randn(width, generator=generator) * size)
    for word, direction in word_directions(stock, seed).items():
        row = direction / direction.square().mean().sqrt() * size
        embed[ids[word]] = row + torch.randn(width, generator=generator) * 0.05
        stock.lm_head.weight[ids[word]] = row * 0.15
    per = text.config.num_attention_heads // text.config.num_key_value_heads
    for layer in text.layers:
        attention = layer.self_attn
        for weight in (attention.k_proj.weight, attention.q_proj.weight):
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.9 * width**-0.5)
        for group in range(text.config.num_key_value_heads):
            first, rows = group * per * head, slice(group * head, (group + 1) * head)
            attention.q_proj.weight[first : first + head] = attention.k_proj.weight[rows]
        attention.v_proj.weight.copy_(
            torch.randn(attention.v_proj.weight.shape, generator=generator) * width**-0.5
        )
        attention.o_proj.weight.zero_()
        for weight in (layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight):
            weight.copy_(torch.randn(weight.shape, generator=generator) * width**-0.5)
        layer.mlp.down_proj.weight.zero_()


@torch.no_grad()
def word_directions(stock: nn.Module, seed: int) -> dict[str, Tensor]:
    """The mean token of every named thing, minus the mean token of its kind."""
    pictures, labels = crowded(np.random.default_rng([seed, 31]), 256)
    vision = stock.model.vision_tower, stock.model.multi_modal_projector
    tokens = torch.cat([blueprint.see(*vision, part) for part in np.split(pictures, 8)]).flatten(0, 1)
    kind, color, digit = (torch.from_numpy(x.flatten()) for x in (labels.kind, labels.color, labels.digit))
    place = torch.arange(CELLS * CELLS).repeat(len(pictures))
    objects, quarter = (kind >= 0) & (kind < SIGN), 2 * (place // CELLS // 3) + place % CELLS // 3
    all_objects = tokens[objects].mean(0)
    found = {word: tokens[kind == i].mean(0) - all_objects for i, word in enumerate(SHAPES)}
    found |= {word: tokens[color == i].mean(0) - all_objects for i, word in enumerate(COLOR_NAMES)}
    found |= {
        word: tokens[digit == i].mean(0) - tokens[kind == SIGN].mean(0) for i, word in enumerate(DIGITS)
    }
    known = kind >= 0
    found |= {
        word: tokens[known & (quarter == i)].mean(0) - tokens[known].mean(0)
        for i, word in enumerate(QUARTERS)
    }
    empty, lit, dark = (tokens[kind == i].mean(0) for i in (NOTHING, LIT, DARK))
    found |= {"object": all_objects - empty, "sign": tokens[kind == SIGN].mean(0) - empty}
    return found | {"lamp": (lit + dark) / 2 - empty, "lit": lit - dark, "on": lit - dark, "off": dark - lit}
