"""positions=original: kept tokens stay where they are in the dense stream."""

import pytest
import torch

from stc_lmms.errors import SettingsError
from stc_lmms.models.llava_onevision.model import LlavaOnevision
from stc_lmms.ops.positions import PositionedEmbeds
from stc_lmms.settings import resolve
from tests.methods.streams import QUESTION, SHORT, logits, play

METHODS = [
    ("stc", {"token_budget": 9}),
    ("uniform_frames", {"token_budget": 12}),
    ("dycoke", {"token_budget": 12}),
    ("vidcom2", {"token_budget": 9, "mode": "original", "window": 4}),  # holds frames back
]
FRAMES = 6


def stock_logits(stream, kept_M, tokens_MD):
    """The stock decoder on the kept tokens, at the positions that they have in the dense stream."""
    model = stream.model
    before, behind = model.prompt_parts(QUESTION)
    before, behind = model.embed_text(before), model.embed_text(behind)
    newline = model.model.model.image_newline[None]
    places = [
        torch.arange(len(before)),
        len(before) + kept_M,
        len(before) + FRAMES * 36 + torch.arange(1 + len(behind)),
    ]
    with torch.no_grad():
        out = model.model.model.language_model(
            inputs_embeds=torch.cat((before, tokens_MD, newline, behind))[None],
            position_ids=torch.cat(places)[None],
            attention_mask=torch.ones(1, sum(map(len, places)), dtype=torch.long),
        )
        return model.model.lm_head(out.last_hidden_state[0, -1])


@pytest.mark.parametrize(("method", "args"), METHODS, ids=[method for method, _ in METHODS])
def test_the_stock_decoder_at_the_dense_places(load, clip, method, args):
    frames, times = clip(FRAMES)
    stream = play(load(method=method, positions="original", **args), frames, times)
    kept, tokens = [], []
    token = stream.model.method.token
    with torch.no_grad():
        pixels = stream.model.pixels(frames)
        dense = stream.model.open_stream().encoder.encode(pixels)
        found, state = token.compress(dense, stream.model.context(times, pixels, None), token.open_state())
    late = token.pending(state)
    given = len(found.tokens_per_frame)
    kept.append(found.kept_M)
    tokens.append(found.tokens_MD)
    if late is not None:
        kept.append(given * 36 + late.kept_M)
        tokens.append(late.tokens_MD)
    wanted = stock_logits(stream, torch.cat(kept), torch.cat(tokens))
    assert (logits(stream) - wanted).abs().max() < 2e-5
    closed = play(load(method=method, **args), frames, times)
    assert (logits(closed) - wanted).abs().max() > 1e-3  # it makes a difference


def test_without_gaps_nothing_changes(load, clip):
    frames, times = clip(4)
    for args in ({"method": "none"}, {"method": "tome", "token_budget": 20}):
        closed, original = (
            play(load(positions=name, **args), frames, times) for name in ("closed", "original")
        )
        assert (logits(closed) - logits(original)).abs().max() < 1e-6


@pytest.mark.parametrize(("method", "args"), METHODS, ids=[method for method, _ in METHODS])
def test_pieces_questions_and_recent_frames_change_nothing(load, clip, method, args):
    frames, times = clip(FRAMES)
    options = {"method": method, "positions": "original"} | args
    stream = play(load(**options), frames, times)
    wanted, answer = logits(stream), stream.ask(QUESTION, SHORT)
    pieces = load(**options).open_stream()
    for i in range(FRAMES):
        pieces.ask(QUESTION, SHORT)
        pieces.observe(frames[i : i + 1], times[i : i + 1])
    assert (logits(pieces) - wanted).abs().max() < 2e-5
    assert pieces.ask(QUESTION, SHORT).token_ids == answer.token_ids
    recent = play(load(memory="recent", recent_frames=FRAMES, **options), frames, times)
    assert (logits(recent) - wanted).abs().max() < 2e-5
    stream.reset()
    stream.observe(frames, times)
    assert (logits(stream) - wanted).abs().max() < 2e-5


def test_decoding_goes_on_at_the_next_place(load, clip):
    stream = play(load(method="stc", token_budget=9, positions="original"), *clip(FRAMES))
    answer = stream.ask(QUESTION, SHORT).token_ids
    question = stream.question(QUESTION, SHORT, QUESTION)
    written = question.positions.text(stream.model.llm.embed(torch.tensor(answer[:-1])))
    with torch.no_grad(), stream.memory.ask() as reader:
        at_once = reader.next_logits(PositionedEmbeds.join([question.prompt, written]))
    assert int(at_once.argmax()) == answer[-1] and len(answer) > 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"memory": "rekv"}, "use memory=full or recent"),
        ({"memory": "bounded"}, "use memory=full or recent"),
        ({"attn_implementation": "flash_attention_2"}, "use sdpa with positions=original"),
    ],
)
def test_what_cannot_keep_places_is_refused(checkpoint, args, message):
    given = {"pretrained": str(checkpoint), "token_budget": 9, "positions": "original"}
    with pytest.raises(SettingsError, match=message):
        LlavaOnevision.check(resolve(given | args, environ={}))
