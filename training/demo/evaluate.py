"""Accuracy of a checkpoint on held-out worlds: `python -m training.demo.evaluate CHECKPOINT`.

The worlds are arrays, or with --mp4 files that are encoded and decoded as every user's video is. Runs
the product's own streaming model. Beside the accuracy of every method stand chance, the best guess from the
text of the question, and the accuracy without any video. Questions are drawn even, as those of the
benchmarks; `--as-trained` draws them as training does.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stc_lmms.arguments import parse_pairs
from stc_lmms.benchmarks.ovobench import official_score
from stc_lmms.engine.api import Generation
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.settings import resolve
from stc_lmms.video.decode import iter_frames
from training.demo.questions import FAMILIES, Asked, ask
from training.demo.text_only import reader
from training.demo.video import write_mp4
from training.demo.world import FRAME_S, World, make_world, render

SEED = 4242
BRIEF = Generation(max_new_tokens=3)
BLIND, TEXT = "no video", "text alone"


def questions(world: World, number: int, each: int, even: bool = True) -> list[Asked]:
    """`each` questions of every family that the world allows, in order of time."""
    rng, found = np.random.default_rng([SEED, 1, number]), []
    for family in FAMILIES:
        for _ in range(each):
            asked = ask(world, family, int(rng.integers(3, world.frames)), rng, even)
            found += [asked] if asked else []
    return sorted(found, key=lambda asked: asked.frame)


def decoded(world: World) -> np.ndarray:
    """The world's frames uint8 [F,H,W,3] after H.264 encoding and decoding."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.mp4"
        write_mp4(world, path)
        return np.stack([image for _, image in iter_frames(path, fps=1 / FRAME_S)])


def answers(
    model: LlavaOnevision, pictures: np.ndarray, asked: list[Asked], blind: bool = False
) -> list[int]:
    """The official score of every question, in order, on frames uint8 [F,H,W,3]."""
    stream, scores = model.open_stream(), []
    done = 0
    for one in asked:
        upto = 0 if blind else one.frame + 1
        stream.observe(pictures[done:upto], [FRAME_S * f for f in range(done, upto)])
        done = max(done, upto)
        kind = "choice" if one.options else "count" if one.family == "REC" else "yesno"
        scores.append(official_score(kind, one.gold, stream.ask(one.prompt, BRIEF).text))
    return scores


def chance(asked: list[Asked]) -> float:
    """Accuracy of guessing: one of the options, yes or no; for counts, the most frequent answer."""
    if asked[0].options:
        return 1 / len(asked[0].options)
    if asked[0].family != "REC":
        return 0.5
    counts = [one.answer for one in asked]
    return max(counts.count(count) for count in set(counts)) / len(counts)


def main() -> None:
    """Print a line per method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--worlds", type=int, default=150)
    parser.add_argument("--frames", default="12-16", help="shortest-longest video")
    parser.add_argument("--each", type=int, default=1, help="questions of a family per video")
    parser.add_argument("--methods", nargs="*", default=["method=none"], help="model arguments of each")
    parser.add_argument("--blind", action="store_true", help="also without the video")
    parser.add_argument("--as-trained", action="store_true", help="questions as in training, not even")
    parser.add_argument("--mp4", action="store_true", help="encode and decode every video")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    low, high = map(int, args.frames.split("-"))
    lengths = np.random.default_rng([SEED, 2]).integers(low, high + 1, args.worlds)
    worlds = [make_world(SEED, i, int(n)) for i, n in enumerate(lengths)]
    even = not args.as_trained
    asked = [questions(world, i, args.each, even) for i, world in enumerate(worlds)]
    flat = [one for some in asked for one in some]
    by_family = {family: [one for one in flat if one.family == family] for family in FAMILIES}
    guesser = reader(even)
    rows = {
        "chance": {family: chance(some) for family, some in by_family.items()},
        TEXT: {family: guesser.accuracy(some) for family, some in by_family.items()},
    }
    see = decoded if args.mp4 else render
    base = LlavaOnevision(resolve({"pretrained": args.checkpoint, "method": "none", "device": "cpu"}))
    runs = [(BLIND, "method=none", True)] if args.blind else []
    for name, given, blind in (*runs, *((text, text, False) for text in args.methods)):
        settings = resolve({"pretrained": args.checkpoint, "device": "cpu"} | parse_pairs(given, "--methods"))
        model = LlavaOnevision.from_parts(settings, base.model, base.processor)
        scores = defaultdict(list)
        for world, some in zip(tqdm(worlds, name, mininterval=10), asked, strict=True):
            for one, score in zip(some, answers(model, see(world), some, blind), strict=True):
                scores[one.family].append(score)
        rows[name] = {family: float(np.mean(scores[family])) for family in FAMILIES}
    print("| | mean | " + " | ".join(FAMILIES) + " |\n|" + "---|" * (len(FAMILIES) + 2))
    for name, row in rows.items():
        cells = [f"{100 * row[family]:.0f}" for family in FAMILIES]
        print(f"| {name} | {100 * np.mean(list(row.values())):.1f} | " + " | ".join(cells) + " |")
    if args.json:
        about = {"videos": args.worlds, "frames": args.frames, "mp4": args.mp4, "even": even}
        counts = {family: len(some) for family, some in by_family.items()}
        found = about | {"questions": counts, "accuracy": rows}
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
