"""Train the demo model from scratch: `python -m training.demo.train FOLDER [--seed N]`.

Stages: tower and projector; clips seen once; language model. Each leaves its state in FOLDER, and a killed
run goes on from there. The result is a checkpoint in FOLDER/checkpoint.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from training.demo import evaluate, tower
from training.demo import model as blueprint
from training.demo.clips import LENGTHS, make_clips
from training.demo.export import export
from training.demo.learn import learn
from training.demo.tokenizer import build_tokenizer

# Seeds of the worlds used later by training.demo.evaluate and in the mini benchmarks.
HELD_OUT = (evaluate.SEED, 2026)


def seed_of(folder: Path, wanted: int | None) -> int:
    """The seed of the run in a folder, where it is stored; 0 for a new run unless another one is given.

    Raises:
        ValueError: the folder has a run with another seed, or it is one of the held-out worlds.
    """
    if wanted in HELD_OUT:
        raise ValueError(f"--seed {wanted} is that of held-out worlds; take another")
    path = folder / "run.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"seed": wanted or 0}) + "\n")
    seed = json.loads(path.read_text())["seed"]
    if wanted not in (None, seed):
        raise ValueError(f"{folder} has a run with --seed {seed}; give another folder for --seed {wanted}")
    return seed


def main() -> None:
    """Run all stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, help="default: 0, or that of the run in the folder")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    try:
        seed = seed_of(args.folder, args.seed)
    except ValueError as error:
        sys.exit(f"error: {error}")
    torch.set_num_threads(args.threads)
    tokenizer = build_tokenizer()
    stock = blueprint.build(seed, len(tokenizer), tokenizer.get_vocab())
    tower.train(stock, args.folder, seed)
    tower.level(stock, seed)
    clips = make_clips(stock, args.folder, seed, LENGTHS)
    learn(stock, tokenizer, clips, args.folder, seed)
    export(args.folder, args.folder / "checkpoint", seed)


if __name__ == "__main__":
    main()
