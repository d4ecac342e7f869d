"""Render the mini benchmarks from held-out StreamWorlds.

    python scripts/render_mini.py [--out tasks/mini_data]

Writes videos, OVO-Bench rows and StreamingBench entries in the annotation formats of the originals. Questions
are drawn with `even`, so that their text alone does not help, and none is repeated. Everything depends on one
seed that training never uses; only the bytes of an mp4 also depend on the version of x264.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stc_lmms.benchmarks.ovobench import MODE_OF
from training.demo.questions import FAMILIES, Asked, ask
from training.demo.streaming_questions import (
    CONTEXT_TYPES,
    OMNI_TYPES,
    REAL_TYPES,
    ask_choice,
    ask_proactive,
    stamp,
)
from training.demo.video import write_mp4
from training.demo.world import FRAME_S, SHAPES, World, make_world

SEED, VIDEOS, TINY = 2026, 72, 12
ROWS_EACH, REAL_EACH = 52, 34  # questions per OVO-Bench family, per StreamingBench type
# As in OVO-Bench, nearly every video belongs to one mode, so that it is watched once; half are realtime.
MODE_OF_TURN = ("backward", "realtime", "forward", "realtime")
# A video's name gives its StreamingBench part; OVO-Bench asks about all videos.
OTHERS = {
    55: "sqa",
    63: "proactive",
    68: "Scene_Understanding_1-25",
    69: "Source_Discrimination",
    70: "Multimodal_Alignment",
    71: "Misleading_Context_Understanding",
    72: "Anomaly_Context_Understanding",
}
EARLIEST = 3
KEY_FIELDS = (
    "question",
    "realtime",
    "time_stamp",
    "test_info",
)  # identify a question and its time


def name_of(number: int) -> str:
    """File name of video `number`, counted from 1."""
    kind = next((OTHERS[first] for first in sorted(OTHERS, reverse=True) if number >= first), "real")
    return f"sample_{number}_{kind}.mp4"


def frames_of(number: int) -> int:
    """24 to 36 s for half of the videos, 40 to 64 s for a third, 80 to 120 s for the rest."""
    low, high = ((12, 18), (12, 18), (12, 18), (20, 32), (20, 32), (40, 60))[number % 6]
    return int(np.random.default_rng([SEED, 1, number]).integers(low, high + 1))


def collect(count: int, salt: int, worlds: dict[int, World], make: Callable[..., Any]) -> list[Any]:
    """`count` different results of `make(number, world, rng)` other than None, going round the videos."""
    rng, found, turn, seen = np.random.default_rng([SEED, salt]), [], 0, set()
    numbers = sorted(worlds)
    start = int(rng.integers(len(numbers)))
    while len(found) < count:
        number = numbers[(start + turn) % len(numbers)]
        turn += 1
        made = make(number, worlds[number], rng)
        if made is not None and (key := _question_key(made)) not in seen:
            seen.add(key)
            found.append(made)
    return found


def _question_key(made: Any) -> str:
    """Identifies video, question and time, regardless of the options."""
    if isinstance(made, list):
        return str([_question_key(entry) for entry in made])
    fields = made["questions"][0] if "questions" in made else made
    return str([made.get("video", made.get("video_path")), *map(fields.get, KEY_FIELDS)])


def some_frame(world: World, rng: np.random.Generator) -> int:
    return int(rng.integers(EARLIEST, world.frames))


def choice_row(family: str) -> Callable[..., dict[str, Any] | None]:
    def make(number: int, world: World, rng: np.random.Generator) -> dict[str, Any] | None:
        asked = ask(world, family, some_frame(world, rng), rng, even=True)
        return asked and {"video": f"videos/{name_of(number)}"} | asked.row()

    return make


def two_frames(world: World, rng: np.random.Generator) -> list[int]:
    return sorted(int(f) for f in rng.choice(np.arange(EARLIEST, world.frames), 2, replace=False))


def rec_row(number: int, world: World, rng: np.random.Generator) -> dict[str, Any] | None:
    asked = [ask(world, "REC", f, rng) for f in two_frames(world, rng)]
    lit = [float(f * FRAME_S) for f in np.flatnonzero(world.lit)]
    times = {"start_times": [max(0.0, t - 1) for t in lit], "end_times": [t + 1 for t in lit]}
    return _forward(number, asked, {"activity": asked[0].text} | times)


def ssr_row(number: int, world: World, rng: np.random.Generator) -> dict[str, Any] | None:
    asked = [ask(world, "SSR", f, rng, even=True) for f in two_frames(world, rng)]
    if None in asked:
        return None
    steps = list(dict.fromkeys(one.text for one in asked))
    return _forward(number, asked, {"tutorial": "What happens in this video?", "all_steps": steps})


def crr_row(number: int, world: World, rng: np.random.Generator) -> dict[str, Any] | None:
    """Asked before the object appears and after."""
    coming = np.flatnonzero((world.first_seen > EARLIEST) & (world.first_seen < world.frames - 1))
    if not len(coming):
        return None
    k = int(rng.choice(coming))
    first, text = int(world.first_seen[k]), f"What color is the {SHAPES[world.shape[k]]}?"
    frames = [int(rng.integers(EARLIEST - 1, first)), int(rng.integers(first, world.frames))]
    asked = [Asked("CRR", f, text, (), "Yes" if f >= first else "No") for f in frames]
    times = {"ask_time": int(frames[0] * FRAME_S), "clue_time": int(first * FRAME_S)}
    return _forward(number, asked, {"question": text} | times)


def _forward(number: int, asked: list[Asked], fields: dict[str, Any]) -> dict[str, Any]:
    rounds = {"test_info": [one.round() for one in asked]}
    return {"video": f"videos/{name_of(number)}", "task": asked[0].family} | fields | rounds


def ovo_bench(worlds: dict[int, World]) -> list[dict[str, Any]]:
    """Rows of all twelve families, with equally many questions each."""
    forward = {"REC": rec_row, "SSR": ssr_row, "CRR": crr_row}
    rows: list[dict[str, Any]] = []
    for salt, family in enumerate(FAMILIES):
        count = ROWS_EACH // 2 if family in forward else ROWS_EACH
        own = {n: w for n, w in worlds.items() if MODE_OF_TURN[n // 2 % 4] == MODE_OF[family]}
        rows += collect(count, 100 + salt, own, forward.get(family) or choice_row(family))
    return [{"id": i} | row for i, row in enumerate(rows)]


def streaming_entry(
    number: int, task: str, question: str, seconds: int, fields: dict[str, Any]
) -> dict[str, Any]:
    told = {"task_type": task, "question": question, "time_stamp": stamp(seconds)}
    start = seconds // 10 * 10
    return {
        "time": f"[{stamp(start)[1:]} - {stamp(start + 10)[1:]}]",
        "questions": [told | fields | {"required_ability": "working memory"}],
        "video_categories": "stream_world",
        "video_path": f"./videos/{name_of(number)}",
    }


def choice_entry(task: str, family: str) -> Callable[..., dict[str, Any] | None]:
    def make(number: int, world: World, rng: np.random.Generator) -> dict[str, Any] | None:
        asked = ask_choice(world, family, some_frame(world, rng), rng, even=True)
        return asked and as_entry(number, task, asked)

    return make


def as_entry(number: int, task: str, asked: Asked) -> dict[str, Any]:
    options = [f"{letter}. {text}" for letter, text in zip("ABCD", asked.options, strict=True)]
    seconds = int(asked.frame * FRAME_S) + 1
    return streaming_entry(number, task, asked.text, seconds, {"answer": asked.gold, "options": options})


def proactive_entry(number: int, world: World, rng: np.random.Generator) -> dict[str, Any] | None:
    asked = ask_proactive(world, rng)
    if asked is None:
        return None
    fields = {
        "ground_truth_time_stamp": stamp(int(asked.gold * FRAME_S)),
        "ground_truth_output": asked.output,
    }
    return streaming_entry(number, "Proactive Output", asked.text, int(asked.frame * FRAME_S) + 1, fields)


def sequence(number: int, world: World, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Five questions about one video, in order of time."""
    found: list[dict[str, Any]] = []
    for frame in np.linspace(EARLIEST, world.frames - 1, 5).astype(int):
        asked = None
        while asked is None:
            asked = ask_choice(world, str(rng.choice(FAMILIES)), int(frame), rng, even=True)
        found.append(as_entry(number, "Sequential Question Answering", asked))
    return found


def streaming_bench(worlds: dict[int, World]) -> dict[str, list[Any]]:
    """Question files of the parts."""

    def part(kind: str) -> dict[int, World]:
        return {n: w for n, w in worlds.items() if name_of(n).removesuffix(".mp4").split("_", 2)[2] == kind}

    real: list[Any] = []
    for salt, (task, family) in enumerate(REAL_TYPES.items()):
        real += collect(REAL_EACH, 200 + salt, part("real"), choice_entry(task, family))
    omni: list[Any] = []
    for salt, (task, family) in enumerate((OMNI_TYPES | CONTEXT_TYPES).items()):
        kind = next(kind for kind in OTHERS.values() if kind.startswith(task.replace(" ", "_")))
        omni += collect(6, 300 + salt, part(kind), choice_entry(task, family))
    return {
        "real": real,
        "omni": omni,
        "sqa": collect(len(part("sqa")), 400, part("sqa"), sequence),
        "proactive": collect(10, 500, part("proactive"), proactive_entry),
    }


def annotations(worlds: dict[int, World]) -> dict[str, Any]:
    """All annotation files."""
    files: dict[str, Any] = {"ovo_bench_mini.json": ovo_bench(worlds)}
    files |= {f"questions_{part}.json": entries for part, entries in streaming_bench(worlds).items()}
    return files | {"tiny.json": [name_of(n) for n in tiny(worlds)]}


def tiny(worlds: dict[int, World]) -> list[int]:
    """Videos of at most a minute, spread over all parts of StreamingBench."""
    short = [n for n in worlds if worlds[n].frames <= 30]
    return sorted(short[:: max(1, len(short) // TINY)][:TINY])


def all_worlds() -> dict[int, World]:
    """The worlds of all videos."""
    return {n: make_world(SEED, n, frames_of(n)) for n in range(1, VIDEOS + 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "tasks/mini_data")
    parser.add_argument("--questions-only", action="store_true", help="do not render the videos")
    args = parser.parse_args()
    out = args.out
    (out / "videos").mkdir(parents=True, exist_ok=True)
    worlds = all_worlds()
    for name, content in annotations(worlds).items():
        (out / name).write_text(json.dumps(content, indent=1) + "\n")
    if args.questions_only:
        return
    for number, world in tqdm(worlds.items(), "videos"):
        write_mp4(world, out / "videos" / name_of(number))


if __name__ == "__main__":
    main()
