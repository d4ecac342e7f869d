"""The recipe of the demo model: its parts are what they claim, and a killed run goes on where it was."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from training.demo import evaluate, learn, lessons, scenes, tower
from training.demo import model as blueprint
from training.demo.clips import make_clips
from training.demo.language import PackedQwen2
from training.demo.muon import Muon, orthogonal
from training.demo.questions import FAMILIES, ask
from training.demo.streaming_questions import ask_proactive, poll, prompt_of
from training.demo.tokenizer import UNKNOWN, build_tokenizer
from training.demo.train import HELD_OUT, seed_of
from training.demo.world import make_world, render

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def stock(tokenizer):
    return blueprint.build(0, len(tokenizer), tokenizer.get_vocab()).eval()


@pytest.fixture(scope="module")
def clips(tokenizer, tmp_path_factory):
    stock = blueprint.build(0, len(tokenizer), tokenizer.get_vocab())
    return make_clips(stock, tmp_path_factory.mktemp("clips"), 0, {16: 4, 32: 1})


def test_every_prompt_is_in_the_vocabulary(tokenizer):
    rng, unknown = np.random.default_rng(1), tokenizer.get_vocab()[UNKNOWN]
    texts = []
    for index in range(40):
        world = make_world(5, index, 16)
        asked = [a for family in FAMILIES if (a := ask(world, family, int(rng.integers(3, 16)), rng))]
        choices = tuple(a for a in asked if a.options)
        proactive = ask_proactive(world, rng)
        texts += [a.prompt for a in asked] + [prompt_of(choices[0], choices[1:4])]
        texts += poll(proactive) if proactive else []
    rows = tokenizer(texts, add_special_tokens=False).input_ids
    assert not any(unknown in row for row in rows)
    assert max(len(row) for row, text in zip(rows, texts) if text.startswith("\nQuestion")) <= 26
    for word in ("A", "Yes", "7", "moving left", "Unable to answer", "top-left"):
        assert tokenizer.decode(tokenizer(word, add_special_tokens=False).input_ids) == word


def test_the_packed_forward_is_the_stock_one(stock, tokenizer, clips):
    for layer in stock.model.language_model.layers:  # initial output maps of zero would hide everything
        torch.nn.init.normal_(layer.self_attn.o_proj.weight, std=0.05)
    teacher, text = lessons.Teacher(tokenizer, clips, 0), stock.model.language_model
    for step in range(3):
        batch = teacher.lesson(step, lessons.Phase(1, {(6, 12): 1.0}, drills=0)).batch
        with torch.no_grad():
            hidden, _ = PackedQwen2(stock)(batch, 3)
            for clip, question in ((0, 0), (1, 2), (len(batch.ids) - 1, batch.ids.shape[1] - 1)):
                seen = batch.visual[clip, : batch.seen[clip, question]]
                parts = [text.embed_tokens(batch.head), seen]
                parts += [stock.model.image_newline[None]] if batch.newline else []
                parts += [text.embed_tokens(batch.ids[clip, question])]
                wanted = text(inputs_embeds=torch.cat(parts)[None]).last_hidden_state[0]
                torch.testing.assert_close(
                    hidden[clip, question], wanted[-len(parts[-1]) :], atol=2e-5, rtol=1e-4
                )


def test_tokens_are_those_of_the_stock_model(stock):
    pictures = render(make_world(5, 0, 4))
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        wanted = stock.model.get_video_features(
            pixels[None], vision_feature_layer=-1, vision_feature_select_strategy="full"
        )
        wanted = getattr(wanted, "pooler_output", wanted)  # transformers 5
        wanted = wanted.reshape(-1, blueprint.WIDTH)[: 4 * 36]  # the newline comes after them
        found = blueprint.see(stock.model.vision_tower, stock.model.multi_modal_projector, pictures)
    torch.testing.assert_close(found, wanted.reshape(found.shape), atol=1e-5, rtol=1e-4)


def test_labels_of_crowded_pictures_are_what_is_drawn():
    pictures, labels = scenes.crowded(np.random.default_rng(0), 16)
    lit = np.argwhere(labels.kind == scenes.LIT)
    dark = np.argwhere(labels.kind == scenes.DARK)
    cell = pictures.reshape(16, 6, 16, 6, 16, 3).max((2, 4)).reshape(16, 36, 3)
    assert len(lit) > 5 and cell[tuple(lit.T)].min(1).min() > 120
    assert len(dark) > 5 and set(np.unique(labels.digit[labels.kind == scenes.SIGN])) <= set(range(10))
    assert (labels.color[labels.kind >= scenes.SIGN] == scenes.IGNORE).all()
    assert (labels.color[(labels.kind >= 0) & (labels.kind < scenes.SIGN)] >= 0).all()


def test_muon_makes_all_directions_equal():
    torch.manual_seed(0)
    for shape in ((3, 40, 24), (2, 24, 40)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.6 and values.max() < 1.3
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    bias = torch.nn.Parameter(torch.zeros(8))
    optimizer = Muon([("weight", weight), ("bias", bias)], lr=0.1, adam_lr=0.2, weight_decay=0)
    weight.grad, bias.grad = torch.diag(torch.arange(1.0, 9.0)), torch.ones(8)
    optimizer.step(0.5)
    torch.testing.assert_close(bias.detach(), torch.full((8,), -0.1))
    torch.testing.assert_close(weight.detach().diagonal(), torch.full((8,), -0.05), atol=0.02, rtol=0)


def test_kept_tokens_are_as_many_in_every_frame_or_whole_frames():
    rng, seen = np.random.default_rng(0), set()
    thing = np.full((10, 36), -1)
    thing[:, :5] = 0
    for _ in range(200):
        kept = lessons.keep(thing, rng)
        per_frame = kept.sum(1)
        if kept.all():
            seen.add("all")
        elif set(per_frame) <= {0, 36}:
            seen.add("frames")
            assert kept[-1].all()
        else:
            seen.add("tokens")
            assert len(set(per_frame)) == 1 and per_frame[0] >= 4
    assert seen == {"all", "frames", "tokens"}


def test_a_killed_run_ends_where_an_unbroken_one_does(tokenizer, clips, tmp_path, monkeypatch):
    phases = (lessons.Phase(2, {}, drills=1.0), lessons.Phase(4, {(6, 8): 1.0}))

    def run(folder, stops):
        folder.mkdir()
        for stop in stops:
            stock = blueprint.build(0, len(tokenizer), tokenizer.get_vocab())
            for name, count in (("VISUAL_PER_STEP", 16), ("QUESTIONS_PER_STEP", 6), ("DRILLS_PER_STEP", 4)):
                monkeypatch.setattr(lessons, name, count)
            monkeypatch.setattr(learn, "SAVE_EVERY", stop)
            monkeypatch.setattr(learn, "EVERY", 3)
            if stop != stops[-1]:
                monkeypatch.setattr(blueprint, "log", fail)
                with pytest.raises(KeyboardInterrupt):
                    learn.learn(stock, tokenizer, clips, folder, 0, phases, bf16=False)
                monkeypatch.undo()
            else:
                learn.learn(stock, tokenizer, clips, folder, 0, phases, bf16=False)
        return learn.named_parameters(stock)

    def fail(*_):
        raise KeyboardInterrupt

    whole, broken = run(tmp_path / "whole", [6]), run(tmp_path / "broken", [2, 6])
    for (name, a), (_, b) in zip(whole, broken):
        torch.testing.assert_close(a, b, msg=name, atol=0, rtol=0)
    logged = [json.loads(line) for line in (tmp_path / "whole" / "language.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [3, 6]


def test_the_tower_learns(tmp_path, monkeypatch):
    monkeypatch.setattr(tower, "EVERY", 4)
    monkeypatch.setattr(tower, "BATCH", 8)
    tower.train(blueprint.build(0, 64), tmp_path, 0, steps=16)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "tower.jsonl").read_text().splitlines()]
    assert len(losses) == 4 and losses[-1] < losses[0] - 1


def test_a_killed_tower_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch):
    monkeypatch.setattr(tower, "BATCH", 2)
    monkeypatch.setattr(tower, "SAVE_EVERY", 3)

    def train(folder, seed):
        folder.mkdir(exist_ok=True)
        stock = blueprint.build(seed, 64)
        tower.train(stock, folder, 0, steps=5)
        return dict(stock.named_parameters())

    def fail(*_):
        raise KeyboardInterrupt

    whole = train(tmp_path / "whole", 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tower, "accuracy", fail)  # after the last step, before it is saved
        train(tmp_path / "broken", 0)
    assert torch.load(tmp_path / "broken" / "tower.pt", weights_only=True)["step"] == 3
    for seed in (0, 1):  # the second time it is finished, and only loaded
        again = train(tmp_path / "broken", seed)
        for name in (name for name in whole if "vision_tower" in name or "projector" in name):
            torch.testing.assert_close(again[name], whole[name], msg=name, atol=0, rtol=0)


def test_a_folder_keeps_its_seed(tmp_path):
    assert seed_of(tmp_path / "run", None) == 0 == seed_of(tmp_path / "run", 0)
    assert seed_of(tmp_path / "other", 7) == 7 == seed_of(tmp_path / "other", None)
    with pytest.raises(ValueError, match="has a run with --seed 7; give another folder for --seed 0"):
        seed_of(tmp_path / "other", 0)
    for held_out in HELD_OUT:
        with pytest.raises(ValueError, match="held-out worlds"):
            seed_of(tmp_path / "new", held_out)
    render_mini = runpy.run_path(str(REPO / "scripts" / "render_mini.py"), run_name="rendered")
    assert set(HELD_OUT) == {evaluate.SEED, render_mini["SEED"]} and not (tmp_path / "new").exists()
