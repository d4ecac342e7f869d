"""StreamingBench (THUNLP-MT/StreamingBench): rows, prompts and official scoring.

Five parts: `real`, `omni`, `contextual`, `sqa` and `proactive`. The annotation formats are read in
`streamingbench_data`.
"""

from collections.abc import Iterable, Sequence

from stc_lmms.benchmarks.base import Question, Row, Verdict, make_row, order_rows, strict_score
from stc_lmms.benchmarks.benchmark import Benchmark, PublishedRun
from stc_lmms.benchmarks.streamingbench_data import SOURCE, TASKS, Entry, load_annotations, video_candidates

POLL_UNTIL_S = 4  # polling ends this long after the gold time
ON_TIME_S = 2

# The prompts are data, byte for byte.
CHOICE_PROMPT = (
    "You are an advanced video question-answering AI assistant. You have been provided with some frames from"
    " the video and a multiple-choice question related to the video. Your task is to carefully analyze the"
    " video and provide the best answer to question, choosing from the four options provided. Respond with"
    " only the letter (A, B, C, or D) of the correct option.\n\n"
    "Question: {}\n\nOptions:\n{}\n{}\n{}\n{}\n\nThe best option is:"
)
SQA_PROMPT = (
    "You are an advanced video question-answering AI assistant. You have been provided with a video and a"
    " multiple-choice question related to the video. Your task is to carefully analyze the video and the"
    " provided context to answer the question, choosing from the four options provided. Respond with only"
    " the letter (A, B, C, or D) of the correct option.\n\n"
    "{}\n\nHere is the question. Answer it and don't confuse it with the previous conversation.\n"
    "Question: {}\n\nOptions:\n{}\n{}\n{}\n{}\n\nThe best option is:"
)
SQA_HISTORY_START = (
    "Here are the contextual information related to the video. Please answer the questions based on the"
    " contextual information: "
)
SQA_HISTORY_ITEM = (
    "At timestamp {}, the following question and answer occurred: Question: {};"
    " Options: {}, {}, {}, {}; Answer: {}; "
)
PROACTIVE_PROMPT = (
    "You are an advanced image question-answering AI assistant. You have been provided with images and a"
    " question related to the images. Your task is to carefully analyze the images and provide the answer to"
    " the question. You need to carefully confirm whether the images content meet the conditions of the"
    " question, and then output the correct content.\n\nQuestion: {}\n\nThe answer is:\n"
)
PROACTIVE_POLL = '{} Is it the right time to output "{}"? You can only answer yes or no.'


def build_rows(entries: Iterable[Entry], part: str, context_s: int = -1) -> list[Row]:
    """One row per source video with its questions of one part.

    A question sees `context_s` seconds of video before it (below 1: the whole past); a proactive clip always
    starts when the question is asked.
    """
    videos: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.part == part:
            videos.setdefault(entry.video, []).append(entry)
    return order_rows(
        # The sqa history grows in file order, as officially.
        make_row(video, part, (_question(entry, members[:i], context_s) for i, entry in enumerate(members)))
        for video, members in videos.items()
    )


def prompt(entry: Entry, history: Sequence[Entry] = ()) -> str:
    """The official prompt of a multiple-choice entry; as officially, without options beyond the fourth.

    A `sqa` prompt quotes the earlier entries of the video, `history`, with their gold answers.
    """
    options = _lettered(entry.options)
    if entry.part != "sqa":
        return CHOICE_PROMPT.format(entry.question, *options)
    quoted = "".join(
        SQA_HISTORY_ITEM.format(past.time_stamp, past.question, *_lettered(past.options), past.answer)
        for past in history
    )
    return SQA_PROMPT.format(SQA_HISTORY_START + quoted if quoted else "", entry.question, *options)


def proactive_prompts(entry: Entry) -> tuple[str, str]:
    """Prompt of a poll (it quotes the gold output), and the prompt after a yes."""
    poll = PROACTIVE_POLL.format(entry.question, entry.answer)
    return PROACTIVE_PROMPT.format(poll), PROACTIVE_PROMPT.format(entry.question)


def official_score(response: str | None, answer: str) -> int:
    """1 if the first character after stripping is the gold letter, else 0.

    The official rule, made fair to models whose answers start with a space; no answer leaves the denominator.
    """
    return int((response or "").strip()[:1] == answer)


def proactive_score(answered_s: float, gold_s: float, content: str, gold_text: str) -> tuple[int, int]:
    """The official counter's two scores: in time (within 2 s), and in time with the gold text."""
    on_time = abs(answered_s - gold_s) <= ON_TIME_S
    return int(on_time), int(on_time and gold_text in content)


def judge(question: Question, response: str, asked_s: float) -> Verdict:
    """The official and the strict score; of a proactive question the two of `proactive_score`."""
    if question["kind"] == "proactive":
        return Verdict(*proactive_score(asked_s, question["gold_s"], response, question["answer"]))
    return Verdict(official_score(response, question["answer"]), strict_score(question, response))


def _question(entry: Entry, history: Sequence[Entry], context_s: int) -> Question:
    if entry.part == "proactive":
        text, follow_up = proactive_prompts(entry)
        start_s, end_s = entry.time_s, entry.gold_s + POLL_UNTIL_S
    else:
        text, follow_up = prompt(entry, history), ""
        start_s, end_s = max(0, entry.time_s - context_s) if context_s > 0 else 0, entry.time_s
    question: Question = {
        "qid": entry.qid,
        "task": entry.task,
        "kind": "proactive" if entry.part == "proactive" else "choice",
        "start_s": float(start_s),
        "end_s": float(end_s),
        "prompt": text,
        "answer": entry.answer,
        "follow_up": follow_up,
        "gold_s": entry.gold_s,
    }
    return question | {"watch": entry.question} if entry.part == "proactive" else question


def _lettered(options: Sequence[str]) -> list[str]:
    """The four options of a prompt; letters are added if the first option has none."""
    if options[0].startswith("A."):
        return list(options[:4])
    return [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False)]


BENCHMARK = Benchmark(
    name="streamingbench",
    parts=TASKS,
    headline="micro",
    judge=judge,
    source=SOURCE,
    load_annotations=load_annotations,
    build_rows=build_rows,
    video_candidates=video_candidates,
    portions={"contextual": "omni"},
    mini_parts=tuple(TASKS),
    tiny_parts=("real",),
    vlmeval_class="StreamingBench",
    vlmeval_parts=("real",),
    published=PublishedRun("StreamingBench real-time", 2500, parts=("real",)),
)
