"""Render a small hand-made benchmark: twelve short videos with OVO-Bench and StreamingBench annotations.

    python tests/quirks_data/render.py [--out tests/quirks_data]

`storyboard.json` scripts twelve scenes (colored shapes, a sign with a number, a lamp) and
says which question is asked where and when. Frames are drawn from the scenes (`scenes.py`) and every
gold answer is computed from them. A question is refused when frames sampled at 0.5 fps before
`ceil(question time)` could not tell its answer. Nothing in the annotations is random; each scene's frames use
one seeded generator.
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from scenes import (
    COLORS,
    EPS,
    LAMP,
    SCENES,
    SHAPES,
    STILL,
    STORY,
    STORYBOARD,
    Scene,
    Thing,
    encode,
    need,
    only,
)

UNABLE = "Unable to answer"
CORNERS = ["top left", "bottom right", "top right", "bottom left", "center"]
MOTIONS = [STILL, "moving right", "moving left", "moving up", "moving down"]
CAUSES = [*LAMP, "the sign was taken down", "the camera came closer"]


def steady(tell: Callable[[float], object], t: float):
    """The value of `tell` that the last 0.5 fps frame before ceil(t), second t and ceil(t) agree on."""
    end = math.ceil(t)
    values = [tell(x) for x in (2 * ((end - 1) // 2), t - EPS, end - EPS)]
    need(values.count(values[0]) == 3, f"not decidable at {t} s: {values}")
    return values[0]


def arrivals(s: Scene, x: float) -> list[str]:
    """Shapes that came up by second `x`, in that order."""
    return [t.shape for t in sorted(s.things, key=lambda t: t.start) if t.start <= x]


def next_number(s: Scene, x: float) -> str:
    """The coming number, which two equal steps must have announced."""
    shown, coming = [int(n) for t, n in s.sign if t <= x], next(n for t, n in s.sign if t > x)
    need(len(shown) > 2 and len({*np.diff([*shown, int(coming)])}) == 1, f"{s.name}: no clear next number")
    return coming


def orders(s: Scene, x: float) -> list[str]:
    """The true order in which three things came up, then the false ones."""
    rows = itertools.permutations(arrivals(s, x), 3)
    return ["first the {}, then the {}, then the {}".format(*row) for row in rows]


def looks(s: Scene, x: float) -> list[str]:
    """A true description of the visible things, then false ones (last thing left out, colors rotated)."""
    colors, names = zip(*((t.color_at(x), t.shape) for t in s.visible(x)), strict=True)
    turned = (colors[k:] + colors[:k] for k in range(len(names)))
    lines = [" and ".join(f"a {c} {n}" for c, n in zip(row, names, strict=True)) for row in turned]
    return [lines[0], lines[0].rsplit(" and ", 1)[0], *lines[1:]]


def here(s: Scene, x: float, shape: str) -> Thing:
    return only(t for t in s.visible(x) if t.shape == shape)


def unless(s: Scene, shape: str) -> str:
    need(all(t.shape != shape for t in s.things), f"{s.name} has a {shape}")
    return UNABLE


def same_kind(s: Scene, gold: str) -> list[str]:
    """Words of the same kind as the gold answer, those that the scene uses first."""
    lists = [words for words in (COLORS, SHAPES, CORNERS, MOTIONS, CAUSES) if gold in words]
    words = only(lists) if lists else sorted(map(str, range(100)), key=lambda n: abs(int(n) - int(gold)))
    return sorted(words, key=lambda word: repr(word) not in repr(s))


# Kind of question -> [gold as told at second x, wrong options if `same_kind` has none].
# fmt: off
ASKS: dict[str, Callable[..., list[str]]] = {
    "number": lambda s, x: [s.number(x)],
    "next number": lambda s, x: [next_number(s, x)],
    "first number": lambda s, x: [s.number(0)],
    "lamp number": lambda s, x: [s.number(max(on for on, _ in s.lamp if on <= x))],
    "color": lambda s, x, a: [here(s, x, a).color_at(x)],
    "first color": lambda s, x, a: [only(t.color for t in s.things if t.shape == a and t.start <= x)],
    "no color": lambda s, x, a: [unless(s, a), *COLORS],
    "shape": lambda s, x, a: [only(t.shape for t in s.visible(x) if t.color_at(x) == a)],
    "mover": lambda s, x: [only(t.shape for t in s.visible(x) if t.motion(x) != STILL)],
    "after": lambda s, x, a: [arrivals(s, x)[arrivals(s, x).index(a) + 1]],
    "corner": lambda s, x, a: [here(s, x, a).corner(x)],
    "last corner": lambda s, x, a: [
        only(t.corner(t.until - EPS) for t in s.things if t.shape == a and t.until <= x)],
    "no corner": lambda s, x, a: [unless(s, a), *CORNERS],
    "motion": lambda s, x, a: [here(s, x, a).motion(x)],
    "count": lambda s, x: [str(len(s.visible(x)))],
    "flashes": lambda s, x: [str(sum(off <= x for _, off in s.lamp))],
    "order": lambda s, x: [orders(s, x)[0], *orders(s, x)[:0:-1]],
    "latest": lambda s, x: [
        only(e for t, e in s.events(x) if t == s.events(x)[-1][0]),
        *(e for _, e in s.events(s.seconds)[::-1])],
    "cause": lambda s, x: [LAMP[s.lit(x)]],
    "scene": looks,
}
# fmt: on


def ask(turn: int, scene: Scene, t: float, kind: str, *args: str, n: int = 4) -> tuple[str, list[str], int]:
    """Question, n options and gold index (from a balanced cycle), refused unless steady at `t`."""
    gold = steady(lambda x: ASKS[kind](scene, x, *args)[0], t)
    pool = ASKS[kind](scene, t - EPS, *args)[1:] or same_kind(scene, gold)
    wrong = [option for option in dict.fromkeys(pool) if option != gold]
    need(len(wrong) >= n - 1, f"too few wrong options for {gold!r}")
    slot = int("2031130202133120"[turn % 16]) % n
    return STORY["wording"][kind].format(*args), [*wrong[:slot], gold, *wrong[slot : n - 1]], slot


def rounds(times: Iterable[float], key: str, tell: Callable[[float], int], **rest) -> list[dict]:
    return [{"realtime": t, **rest, key: int(steady(tell, t))} for t in times]


def ovo_bench() -> list[dict]:
    """Rows in the schema of OVO-Bench's `ovo_bench_new.json`."""
    rows = []

    def add(task: str, k: int, **fields) -> None:
        rows.append({"id": len(rows), "task": task, "video": f"videos/{SCENES[k].name}.mp4", **fields})

    for task, k, t, *what in STORY["ovo_choice"]:
        n = STORY["ovo_option_count"].get(str(len(rows)), 4)
        question, options, gt = ask(len(rows), SCENES[k], t, *what, n=n)
        answer = f"It is at the {options[gt]}." if task == "STU" else options[gt]  # need not be an option
        add(task, k, realtime=t, question=question, answer=answer, options=options, gt=gt)
    for k, asked, clue, question, *what in STORY["ovo_crr"]:
        times = (asked, clue - 3, clue + 3, clue + 5, clue + 7)
        need(any(t == clue and what[1] in text for t, text in SCENES[k].events(clue)), f"no clue at {clue} s")
        answer = ASKS[what[0]](SCENES[k], clue, *what[1:])[0]
        info = rounds(times, "type", lambda x, clue=clue: x >= clue)
        add("CRR", k, question=question, answer=answer, ask_time=asked, clue_time=clue, test_info=info)
    for k, tutorial, names in STORY["ovo_ssr"]:
        info, spans = [], [only(SCENES[k].spans(name)) for name in names]
        for name, (a, b) in zip(names, spans, strict=True):
            info += rounds((a - 3, a + 5, b, b + 5), "type", lambda x, a=a, b=b: a <= x < b, step=name)
        starts, ends = map(list, zip(*spans, strict=True))
        steps = {"all_steps": names, "start_time": starts, "end_time": ends}
        add("SSR", k, tutorial=tutorial, **steps, test_info=info)
    for k, activity, prefix, times in STORY["ovo_rec"]:
        starts, ends = map(list, zip(*SCENES[k].spans(prefix), strict=True))
        info = rounds(times, "count", lambda x, ends=ends: sum(end <= x for end in ends))
        add("REC", k, activity=activity, start_times=starts, end_times=ends, test_info=info)
    return rows


def stamp(t: float) -> str:
    return f"00:{t // 60:02d}:{t % 60:02d}"


def entry(k: int, t: int, task_type: str, question: str, memory: str, **fields) -> dict:
    """A StreamingBench entry with one question about scene `k`, asked at second `t`."""
    start, end = (stamp(min(s, SCENES[k].seconds))[1:] for s in ((t - 1) // 10 * 10, (t + 9) // 10 * 10))
    asked = {"task_type": task_type, "question": question, "time_stamp": stamp(t), **fields}
    return {
        "time": f"[{start} - {end}]",
        "questions": [asked | {"required_ability": f"{memory} memory"}],
        "video_categories": "colored_shapes",
        "video_path": f"./videos/{SCENES[k].name}.mp4",
    }


def choice(turn: int, k: int, task_type: str, t: int, *what: str, text: str = "") -> dict:
    question, options, gt = ask(turn, SCENES[k], t, *what)
    lettered = [f"{letter}. {o[0].upper()}{o[1:]}." for letter, o in zip("ABCD", options, strict=True)]
    memory = "working" if STORY["wording"][what[0]].endswith("now?") else "episodic"
    return entry(k, t, task_type, text or question, memory, answer="ABCD"[gt], options=lettered)


def streaming_bench() -> dict[str, list]:
    """The four parts in the schema of StreamingBench's `questions_*.json`."""
    plans = STORY["streaming_real"], STORY["streaming_omni"]
    real, omni = ([choice(i, *row) for i, row in enumerate(plan)] for plan in plans)
    task_type, rows = "Sequential Question Answering", STORY["streaming_sqa"]
    sqa = [choice(i, k, task_type, *row, text=text) for i, (k, text, *row) in enumerate(rows)]
    last = sqa[-1]["questions"][0]  # as in the original, some options of this part have no letter
    last["options"] = [option[3:] for option in last["options"]]
    proactive = []
    for k, asked, span, text, output in STORY["streaming_proactive"]:
        start, _ = only(SCENES[k].spans(span))
        need(asked < start, f"{text} is asked too late")
        truth = {"ground_truth_time_stamp": stamp(start), "ground_truth_output": output}
        proactive.append(entry(k, asked, "Proactive Output", text, "working", **truth))
    return {"real": real, "omni": omni, "sqa": [sqa], "proactive": proactive}


def annotations() -> dict[str, str]:
    """Text of every annotation file by file name."""
    files = {"ovo_bench_mini.json": ovo_bench()}
    files |= {f"questions_{part}.json": entries for part, entries in streaming_bench().items()}
    return {name: json.dumps(rows, indent=1) + "\n" for name, rows in files.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=STORYBOARD.parent)
    out = parser.parse_args().out
    (out / "videos").mkdir(parents=True, exist_ok=True)
    for name, text in annotations().items():
        (out / name).write_text(text)
    for scene in SCENES.values():
        path = out / "videos" / f"{scene.name}.mp4"
        encode(scene, path)
        print(f"{path} {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
