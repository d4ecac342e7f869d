"""Pieces of text in LiveCC's commentary."""

from collections.abc import Sequence

from stc_lmms.engine.api import Comment

TASK = "Please describe the video."
PAUSE = " ..."
USER, END_OF_TURN = "<|im_start|>user", "<|im_end|>\n"


def next_turn(prompt: str) -> str:
    """A conversation in the chat template, without its system part, after the end of the last turn."""
    return END_OF_TURN + prompt[prompt.index(USER) :]


def spoken(text: str) -> tuple[str, bool]:
    """A generated text without the pause at its end (empty for silence), and whether it has one."""
    text, pause = text.strip(), PAUSE.strip()
    return text.removesuffix(pause).rstrip(), text.endswith(pause)


def caption(comments: Sequence[Comment]) -> str:
    """Comments as one text, joined as LiveCC's evaluation does; empty if nothing was said."""
    said = " ".join(comment.text for comment in comments if comment.text)
    return said + PAUSE.strip() if said else ""
