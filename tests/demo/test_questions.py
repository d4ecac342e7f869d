"""Questions about worlds: true, causal, in the official forms, and not given away by their options."""

from collections import Counter

import numpy as np
import pytest

from stc_lmms.benchmarks import ovobench
from training.demo.questions import FAMILIES, UNABLE, ask
from training.demo.streaming_questions import ask_choice, ask_proactive, poll, prompt_of
from training.demo.text_only import TextOnly, mini
from training.demo.world import COLOR_NAMES, MOTIONS, SHAPES, make_world


def some(family, count=120, frames=16, seed=0, even=False):
    """(world, question) pairs."""
    rng, found, index = np.random.default_rng([seed, FAMILIES.index(family)]), [], 0
    while len(found) < count:
        world = make_world(77, index, frames)
        index += 1
        asked = ask(world, family, int(rng.integers(3, frames)), rng, even)
        if asked:
            found.append((world, asked))
    return found


def named(world, text):
    """The object whose shape the text names."""
    return next((k for k, s in enumerate(world.shape) if f" {SHAPES[s]}" in text), None)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_official_loader_takes_every_question(family):
    rows = [{"id": i, "video": "v.mp4"} | asked.row() for i, (_, asked) in enumerate(some(family, 20))]
    checked = ovobench.check_annotations(rows, "here")
    for (_, asked), row in zip(some(family, 20), checked, strict=True):
        (question,) = ovobench.questions_of(row)
        assert (question["prompt"], question["answer"]) == (asked.prompt, asked.gold)
        assert question["end_s"] == 2 * asked.frame + 1  # frame f is seen, f + 1 is not


@pytest.mark.parametrize("family", FAMILIES)
def test_the_future_does_not_matter(family):
    """CRR takes wrong names from what comes later; what it says is true all the same."""
    for world, asked in some(family, 40):
        known = world.window(0, asked.frame + 1)
        if family == "CRR":
            assert (asked.answer == "Yes") == any(
                SHAPES[s] in asked.text for s in known.shape[known.visible.any(1)]
            )
            continue
        for seed in range(5):
            for even in (False, True):
                one, other = (
                    ask(w, family, asked.frame, np.random.default_rng(seed), even) for w in (world, known)
                )
                assert one == other


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("REC", "SSR", "CRR")])
@pytest.mark.parametrize("even", [False, True])
def test_options_do_not_give_the_answer_away(family, even):
    found = [asked for _, asked in some(family, 300, even=even)]
    assert all(len(set(a.options)) == 4 and a.answer in a.options for a in found)
    places = Counter(a.gold for a in found)
    assert min(places[letter] for letter in "ABCD") > 45  # 75 each
    if family != "HLD":
        assert not any(a.answer == UNABLE for a in found)
        assert 0.15 < np.mean([UNABLE in a.options for a in found]) < 0.35
    if family in ("OCR", "FPD"):  # neither end of a run of numbers may be the safe guess
        ranks = Counter(sorted(a.options).index(a.answer) for a in found if UNABLE not in a.options)
        assert max(ranks.values()) < 0.45 * sum(ranks.values())


def drawn(first, last, even):
    """Questions of worlds that nothing else uses; those that count also with options."""
    for number in range(first, last):
        world, rng = make_world(78, number, 16), np.random.default_rng([78, number])
        for family in FAMILIES:
            yield from filter(None, [ask(world, family, int(rng.integers(3, 16)), rng, even)])
        yield from filter(None, [ask_choice(world, "REC", int(rng.integers(3, 16)), rng, even)])


@pytest.mark.slow
def test_the_text_of_even_questions_does_not_help():
    """Not even somebody who knows how they are made; HLD is given away by its nature."""
    gained = {}
    for even in (True, False):
        guesser, fresh = TextOnly(drawn(0, 900, even)), list(drawn(900, 1300, even))
        for family in FAMILIES:
            own = [a for a in fresh if a.family == family and (family == "REC") == (a.text[:3] == "How")]
            options = len(own[0].options) or 2
            gained[family, even] = guesser.accuracy(own) - 1 / options
    assert all(gained[family, True] < 0.09 for family in FAMILIES if family not in ("HLD", "REC"))
    assert gained["REC", True] < 0.2 and gained["HLD", True] > 0.7  # counts are small in short videos
    for family in ("OCR", "FPD", "ACR", "REC"):
        assert gained[family, False] > gained[family, True] + 0.15


def test_the_mini_sets_are_even():
    asked = mini()
    for family, bound in {"ACR": 0.35, "OCR": 0.25, "FPD": 0.25, "SSR": 0.62, "CRR": 0.62}.items():
        common = Counter(a.answer for a in asked[family]).most_common(1)[0][1]
        assert common <= bound * len(asked[family]), family
    texts = [a.text for a in asked["StreamingBench"] if a.family == "ACR"]
    still = sum(a.answer == MOTIONS[0] for a in asked["StreamingBench"] if a.family == "ACR")
    assert still <= 0.4 * len(texts)


@pytest.mark.parametrize("even", [False, True])
def test_answers_are_true(even):
    for world, asked in some("ATR", even=even):
        k = named(world, asked.text)
        assert asked.answer == COLOR_NAMES[world.color[k, asked.frame]] and world.visible[k, asked.frame]
    for world, asked in some("OJR", even=even):
        (k,) = np.flatnonzero(
            world.visible[:, asked.frame]
            & (world.color[:, asked.frame] == COLOR_NAMES.index(asked.text.split()[3]))
        )
        assert asked.answer == SHAPES[world.shape[k]]
    for world, asked in some("STU", even=even):
        x, y = world.place[named(world, asked.text), asked.frame]
        assert asked.answer == ("top", "bottom")[int(y >= 3)] + "-" + ("left", "right")[int(x >= 3)]
    for world, asked in some("ACR", even=even):
        k = named(world, asked.text)
        dx, dy = np.rint(world.place[k, asked.frame] - world.place[k, asked.frame - 1]).astype(int)
        told = {(0, 0): 0, (-1, 0): 1, (1, 0): 2, (0, -1): 3, (0, 1): 4}[dx, dy]
        assert asked.answer == MOTIONS[told]
    for world, asked in some("OCR", even=even):
        assert asked.answer == str(world.digit[asked.frame])
    for world, asked in some("FPD", even=even):
        later = world.digit[asked.frame :]
        turned = later[later != world.digit[asked.frame]]
        assert not len(turned) or asked.answer == str(turned[0])
    for world, asked in some("REC", even=even):
        assert asked.answer == str(world.lit[: asked.frame + 1].sum())
    for world, asked in some("HLD", even=even):
        shown = world.visible[:, : asked.frame + 1]
        seen = {SHAPES[s] for s in world.shape[shown.any(1)]}
        seen |= {COLOR_NAMES[c] for c in world.color[:, : asked.frame + 1][shown]}
        assert asked.answer == UNABLE and not seen & set(asked.text.strip("?").split())
    for world, asked in some("SSR", even=even):
        if "lamp" in asked.text:
            assert (asked.answer == "Yes") == (
                asked.text.split()[-1] == ("on." if world.lit[asked.frame] else "off.")
            )
        elif "visible" in asked.text:
            k = named(world, asked.text)
            assert (asked.answer == "Yes") == (k is not None and bool(world.visible[k, asked.frame]))
    for world, asked in some("ASI", even=even):
        order = [SHAPES[world.shape[k]] for k in np.argsort(world.first_seen)]
        known = order[: int((world.first_seen <= asked.frame).sum())]
        if "after" in asked.text:
            assert known.index(asked.answer) == known.index(asked.text.strip("?").split()[-1]) + 1
        else:
            assert asked.answer == known[0 if "first" in asked.text else -1]


def test_yes_and_no_are_balanced():
    for family in ("SSR", "CRR"):
        assert 0.4 < np.mean([asked.answer == "Yes" for _, asked in some(family, 300)]) < 0.6


def test_forms_of_streaming_bench():
    rng, world = np.random.default_rng(0), make_world(77, 0, 16)
    first, counted = ask_choice(world, "OCR", 6, rng), ask_choice(world, "REC", 9, rng)
    assert counted.text.startswith("How many times") and counted.answer == str(world.lit[:10].sum())
    assert ask_choice(world, "SSR", 9, rng) is None
    text = prompt_of(counted, (first,))
    assert "At timestamp 00:00:13" in text and f"Answer: {first.gold};" in text and counted.text in text
    found = [asked for i in range(60) if (asked := ask_proactive(make_world(77, i, 16), rng))]
    assert len(found) > 15
    for asked in found:
        assert asked.frame < asked.gold < 16
        assert asked.text in poll(asked)[0] and f'"{asked.output}"' in poll(asked)[0]
