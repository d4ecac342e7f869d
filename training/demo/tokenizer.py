"""A closed vocabulary: the words of StreamWorld's questions, and one token per sentence of the prompts.

The official prompts are long; what never changes in them costs one token per sentence, so that a question of
the demo is about as many tokens as it has words.
"""

import re
from collections.abc import Iterator

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stc_lmms.benchmarks import ovobench, streamingbench
from training.demo.checkpoint import SPECIAL
from training.demo.questions import DIGITS, FAMILIES, QUARTERS, UNABLE, ask
from training.demo.streaming_questions import PROACTIVE_TEXTS
from training.demo.world import COLOR_NAMES, MOTIONS, SHAPES, make_world

UNKNOWN = "<unk>"
SYSTEM = "You are a helpful assistant."
PROMPTS = (
    ovobench.CHOICE_PROMPT,
    ovobench.REC_PROMPT,
    ovobench.SSR_PROMPT,
    ovobench.CRR_PROMPT,
    streamingbench.CHOICE_PROMPT,
    streamingbench.SQA_PROMPT,
    streamingbench.SQA_HISTORY_START,
    streamingbench.SQA_HISTORY_ITEM,
    streamingbench.PROACTIVE_PROMPT,
    streamingbench.PROACTIVE_POLL,
)
_SIGNS = ' .,;:?!()"“”/'
_APART = rf"[\s{_SIGNS}]+"
_WORDS_OF_PROMPTS = ("Question", "Options", "Answer")


def sentences() -> list[str]:
    """Every fixed sentence of the prompts, longest first."""
    found = {UNABLE, SYSTEM, *MOTIONS}
    for prompt in PROMPTS:
        for line in re.split(r"\{\}|\n|" + "|".join(f"{word}:" for word in _WORDS_OF_PROMPTS), prompt):
            text = line.strip(_SIGNS)
            if len(text.split()) > 1:
                found.add(text)
    return sorted(found, key=lambda text: (-len(text), text))


def words() -> list[str]:
    """All other words of the questions and answers."""
    found = {
        *SHAPES,
        *COLOR_NAMES,
        *QUARTERS,
        *DIGITS,
        *"ABCDE",
        "Yes",
        "No",
        "yes",
        "no",
        "user",
        "assistant",
    }
    found |= {"system", *_WORDS_OF_PROMPTS, *(f"{n:02d}" for n in range(60))}
    kept = re.compile("|".join(re.escape(text) for text in sentences()))
    for text in (*_asked(), *PROACTIVE_TEXTS, *PROMPTS):
        found |= set(re.split(_APART, kept.sub(" ", text.replace("{}", " "))))
    return sorted(found - {""})


def _asked() -> Iterator[str]:
    """Enough questions for every word to occur."""
    rng = np.random.default_rng(0)
    for index in range(40):
        world = make_world(0, index, 16)
        for family in FAMILIES:
            for frame in (6, 15):
                asked = ask(world, family, frame, rng)
                if asked is not None:
                    yield asked.prompt


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer; `<|im_end|>` ends an answer, and no start token is added."""
    listed = [*SPECIAL, UNKNOWN, *words()]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(listed)}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(_APART), "removed")
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    core.add_tokens([AddedToken(text, special=False, normalized=False) for text in sentences()])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=UNKNOWN,
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
