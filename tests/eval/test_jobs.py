"""A request as rounds: which clip, which prompt, what is done about a task that cannot say."""

import functools

import pytest
from lmms_eval.api.instance import Instance
from lmms_eval.tasks.ovobench import utils as builtin_ovobench

from stc_lmms.benchmarks.registry import find
from stc_lmms.errors import DataError
from stc_lmms.eval import lmms_tasks
from stc_lmms.eval.dialogue import MAX_BROKEN_ROUNDS, RequestDialogue, reason, to_clip
from stc_lmms.eval.scoring import AnsweredRound
from stc_lmms.eval.session import Clip


@pytest.mark.parametrize(
    ("visuals", "clip"),
    [
        ("a.mp4", Clip("a.mp4")),
        (["a.mp4"], Clip("a.mp4")),
        (("a.mp4",), Clip("a.mp4")),
        ({"path": "a.mp4"}, Clip("a.mp4")),
        ([{"type": "video", "url": "a.mp4", "video_start": None}], Clip("a.mp4")),
        ([{"path": "a.mp4", "video_start": 2, "video_end": "7.5"}], Clip("a.mp4", 2.0, 7.5)),
        ([{"path": "a.mp4", "video_end": 0}], Clip("a.mp4", 0.0, 0.0)),
    ],
)
def test_one_video_in_any_of_the_forms_that_tasks_use(visuals, clip):
    assert to_clip(visuals) == clip


@pytest.mark.parametrize(
    ("visuals", "why"),
    [
        ([], "the task gave 0 visuals"),
        (["a.mp4", "b.mp4"], "the task gave 2 visuals"),
        (None, "the task gave a NoneType"),
        ([{"type": "image", "path": "a.png"}], "the task gave a dict"),
        ([{"type": "video"}], "the task gave a dict"),
    ],
)
def test_anything_else_is_refused_in_one_line(visuals, why):
    with pytest.raises(DataError, match=why):
        to_clip(visuals)


def test_a_record_has_only_what_is_known():
    assert AnsweredRound("B.").record() == {}
    record = AnsweredRound("B.", efficiency={"vit_ms": 1.0}, note="late", past_end=True).record()
    assert AnsweredRound("B.", **record) == AnsweredRound("B.", "", {"vit_ms": 1.0}, "late", True)


def test_reasons_are_one_short_line():
    assert reason(DataError("no\n  video")) == "no video"
    assert reason(AssertionError("a\nb")) == "AssertionError: a b"
    assert len(reason(ValueError("x" * 9999))) == 500


def single(prompt, doc_to_visual):
    args = (prompt, {}, doc_to_visual, 0, "task", "test")
    return Instance("generate_until", args, 0, {"task": "task", "doc_id": 0, "repeats": 1})


def multi(prompt, doc_to_visual, doc_to_text):
    args = (prompt, {}, doc_to_visual, doc_to_text, 0, "task", "test")
    return Instance("generate_until_multi_round", args, 0, {"task": "task", "doc_id": 0, "repeats": 1})


def played(job, answers=None):
    """The rounds asked, answering with their numbers, or with what `answers` makes of them."""
    asked = []
    while job.next is not None:
        asked.append(job.next)
        failed = job.next.failed
        text = "" if failed else answers(job.next) if answers else str(len(asked))
        job.respond(AnsweredRound(text, failed=failed))
    return asked


def test_a_single_round_gives_a_string():
    job = RequestDialogue(single("Q?", lambda doc: [doc["video"]]), {"video": "v.mp4"})
    (asked,) = played(job)
    assert (asked.prompt, asked.clip, asked.failed) == ("Q?", Clip("v.mp4"), "")
    assert job.result == "1" and type(job.result) is str and job.failed == ""


def test_a_task_that_raises_fails_its_own_sample_only():
    job = RequestDialogue(single("Q?", lambda doc: doc["no such field"]), {})
    (asked,) = played(job)
    assert asked.clip is None and asked.failed == job.failed == "KeyError: 'no such field'"
    assert job.result == ""


def test_our_rounds_follow_the_answers():
    (row,) = find("streamingbench").load_rows("proactive", "mini")
    request = multi(lmms_tasks.doc_to_text(row), lmms_tasks.doc_to_visual, lmms_tasks.doc_to_text)

    def yes_at_five(asked):
        return "Yes." if asked.clip.end_s == 5 else "no"

    job = RequestDialogue(request, row)
    asked = played(job, yes_at_five)
    first, second = row["questions"]
    assert [a.clip.end_s for a in asked[:4]] == [3, 4, 5, 5]  # polls until the yes, then the follow-up
    assert asked[3].prompt == first["follow_up"] != asked[2].prompt
    assert asked[4].clip == Clip(row["path"], second["start_s"], second["start_s"] + 1)
    assert job.result == [yes_at_five(a) for a in asked] and all(a.clip.path == row["path"] for a in asked)


@pytest.fixture
def forward(tmp_path):
    """A row of the built-in ovobench with three rounds, all chunks there; its request."""
    for number in range(3):
        (tmp_path / f"7_{number}.mp4").write_bytes(b"x")
    shared = {"data_dir": str(tmp_path)}
    doc = {"id": 7, "task": "CRR", "question": "Is it?", "test_info": [{}, {}, {}]}
    bound = {"lmms_eval_specific_kwargs": shared}
    request = multi(
        "first",
        functools.partial(builtin_ovobench.ovo_doc_to_visual, **bound),
        functools.partial(builtin_ovobench.ovo_forward_doc_to_text, **bound),
    )
    return doc, request, shared, tmp_path


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_chunk_does_not_end_the_rounds_after_it(forward, missing):
    doc, request, shared, folder = forward
    (folder / f"7_{missing}.mp4").unlink()
    job = RequestDialogue(request, doc)
    asked = played(job)
    there = [number for number in range(3) if number != missing]
    assert [a.clip.path for a in asked if a.clip] == [str(folder / f"7_{number}.mp4") for number in there]
    assert f"7_{missing}.mp4" in asked[missing].failed and job.failed == asked[missing].failed
    assert job.result == ["" if number == missing else str(number + 1) for number in range(3)]
    assert "round_idx" not in shared  # else the next row's first round would look for the wrong chunk


def test_a_task_that_only_raises_ends():
    def doc_to_text(doc, **_):
        raise RuntimeError("broken task")

    job = RequestDialogue(multi("Q?", lambda doc: ["v.mp4"], doc_to_text), {})
    assert len(played(job)) == 1 + MAX_BROKEN_ROUNDS and job.failed == "RuntimeError: broken task"
