"""What a run says of questions past the end of their video: once in the log, in records, in counts."""

import logging

import pytest
from lmms_eval.api.instance import Instance

from stc_lmms.benchmarks.ovobench import BENCHMARK
from stc_lmms.benchmarks.summary import format_table
from stc_lmms.eval.lmms_eval import LlavaOvStc
from stc_lmms.eval.lmms_tasks import process_results
from stc_lmms.eval.recorder import current
from stc_lmms.eval.scoring import AnsweredRound
from stc_lmms.resources import tasks_root
from tests import media

QUESTION = {
    "task": "OCR",
    "kind": "choice",
    "start_s": 0.0,
    "prompt": "Q?",
    "answer": "A",
    "follow_up": "",
    "gold_s": -1.0,
}


def played(checkpoint, path, ends_s):
    """A row with a question at each of the times, and what the model says of it."""
    lm = LlavaOvStc(pretrained=str(checkpoint), device="cpu", token_budget=9, journal="off")
    lm.task_dict["own"] = {"test": [{"path": str(path), "video_end": end_s} for end_s in ends_s]}
    requests = []
    for index in range(len(ends_s)):
        args = ("Q?", {"max_new_tokens": 2}, lambda doc: [doc], index, "own", "test")
        requests.append(Instance("generate_until", args, 0, {"task": "own", "doc_id": index, "repeats": 1}))
    questions = [QUESTION | {"qid": str(i), "end_s": end_s} for i, end_s in enumerate(ends_s)]
    row = {
        "video": "v.mp4",
        "part": "realtime",
        "questions": questions,
        "benchmark": "ovobench",
        "size": "mini",
    }
    texts, run = lm.generate_until(requests), current()
    records = [{k: v for k, v in each.items() if k not in ("task", "doc_id")} for each in run.answers]
    rounds = [AnsweredRound(text, **record) for text, record in zip(texts, records, strict=True)]
    run.add("own", 0, row, rounds, replayed=False)
    return row, texts


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """20 s at 5 fps."""
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    options = {"container_options": {"movflags": "faststart"}}
    return media.encode_video(path, media.moving_square_frames(100), 5, **options)


def test_past_the_end_of_a_whole_video(checkpoint, video, caplog):
    with caplog.at_level(logging.WARNING):
        row, said = played(checkpoint, video, [10.0, 20.0, 30.0, 40.0])
    note = "question past the video's end at 20.0 s: asked at its end"
    assert [message for message in caplog.messages if "v.mp4" in message] == [f"{video}: {note}"]
    found = process_results(row, [said])
    records = found["acc"]["records"]
    assert [record["note"] for record in records] == ["", "", note, note]
    assert [record["past_end"] for record in records] == [False, False, True, True]
    assert (found["n"], found["n_past_end"], found["n_failed"]) == (4, 2, 0)
    assert [record["past_end"] for record in found["micro"]["records"]] == [False, False, True, True]
    assert "past end" in format_table(BENCHMARK.summarise(found["micro"]["records"]))


@pytest.mark.parametrize("task", ["ovobench_stream", "streamingbench"])
@pytest.mark.parametrize("size", ["", "_mini"])
def test_every_count_is_declared_as_a_metric(task, size):
    """lmms-eval silently drops metrics that are not declared."""
    text = (tasks_root() / (task + size) / "_common_yaml").read_text()
    counts = {"n", "n_missing", "n_unparsed", "n_failed", "n_past_end"}
    assert counts <= {line.split()[2] for line in text.splitlines() if line.startswith("  - metric: ")}


def test_past_the_end_of_a_cut_video(checkpoint, video, tmp_path):
    path = media.cut_after(video, tmp_path / "part.mp4", 61)
    row, said = played(checkpoint, path, [5.0, 11.0, 18.0, 30.0])
    found = process_results(row, [said])
    records = found["acc"]["records"]
    told = f"{path}: cut short: claims 20.0 s, delivers 12.2 s; download or convert it again"
    assert [record["failed"] for record in records] == ["", "", told, told]
    assert (found["n_failed"], found["n_past_end"], found["n"]) == (2, 0, 4)
