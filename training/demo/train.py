"""Train the demo model from nothing: `python -m training.demo.train FOLDER [--seed N]`.

Stages: tower and projector; clips seen once; language model. Each leaves its state in FOLDER, and a killed
run goes on from there. The result is a checkpoint in FOLDER/checkpoint.
"""

import argparse
from pathlib import Path

import torch

from training.demo import model as blueprint
from training.demo import tower
from training.demo.clips import LENGTHS, make_clips
from training.demo.learn import learn
from training.demo.tokenizer import build_tokenizer


def main() -> None:
    """Run all stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    stock = blueprint.build(args.seed, len(tokenizer), tokenizer.get_vocab())
    tower.train(stock, args.folder, args.seed)
    tower.level(stock, args.seed)
    clips = make_clips(stock, args.folder, args.seed, LENGTHS)
    learn(stock, tokenizer, clips, args.folder, args.seed)


if __name__ == "__main__":
    main()
