"""A made-up OVO-Bench of any size, and jobs that have run on it without a model."""

import json
from argparse import Namespace
from pathlib import Path

from stc_lmms.engine.timers import Efficiency
from stc_lmms.eval.lmms_tasks import acc, process_results
from stc_lmms.eval.recorder import Recorder, finish, start
from stc_lmms.eval.scoring import AnsweredRound
from stc_lmms.sweep import tasks
from stc_lmms.sweep.folder import Sweep, SweepJob

TASK = "ovobench_stream"
CHOICE = {"question": "What?", "options": ["a", "b"]}


def made_up_ovobench(root: Path, videos: int) -> Path:
    """Backward and realtime questions about empty videos, and one forward question."""
    (root / "src_videos").mkdir(parents=True)
    rows = []
    for number in range(videos):
        name = f"v{number:04d}.mp4"
        (root / "src_videos" / name).touch()
        seconds = 10 + 37 * number % 191
        for ask in range(1 + number % 3):
            sub = ("EPM", "OCR", "HLD", "ATR")[(number + ask) % 4]
            about = {"id": len(rows), "video": name, "realtime": seconds + ask, "task": sub}
            rows.append(CHOICE | about | {"answer": "ab"[number % 2], "gt": number % 2})
    forward = {"id": len(rows), "task": "CRR", "video": "v0000.mp4", "question": "Done?"}
    forward |= {"ask_time": 2, "clue_time": 4, "answer": "yes"}
    rows.append(forward | {"test_info": [{"realtime": 3, "type": 0}, {"realtime": 6, "type": 1}]})
    (root / "ovo_bench_new.json").write_text(json.dumps(rows))
    return root


def answers(doc: dict) -> list[AnsweredRound]:
    """Some right, some wrong, one failed: the same for the same video."""
    number = sum(map(ord, doc["video"]))
    cost = dict.fromkeys(Efficiency.__dataclass_fields__, 1) | {"attention": "sdpa", "execution": "grouped"}
    said = []
    for ask in range(len(doc["questions"])):
        if (number + ask) % 17 == 3:
            said.append(AnsweredRound("", failed="the video is broken"))
        else:
            said.append(AnsweredRound("AB"[(number + ask) % 2], efficiency=cost))
    return said


def scored(doc: dict, recorder: Recorder) -> dict:
    """The values of a video's metrics, as lmms-eval's process gets them during a run."""
    start(recorder).add("task", 0, doc, said := answers(doc), replayed=False)
    del recorder.answers[-len(said) :]
    try:
        return process_results(doc, [[each.text for each in said]])
    finally:
        finish()


def pretend_done(job: SweepJob) -> None:
    """Leave what lmms-eval and the worker leave after a job."""
    settings = {"method": "none", "pretrained": "x"}
    recorder = Recorder(f"20260101_000000_{job.index:03d}_none", "lmms-eval", settings, output=job.out)
    for leaf in leaves(job.task):
        listed = set(job.videos.get(leaf.key, ()))
        inside = [doc for doc in leaf.rows() if doc["video"] in listed]
        if not inside:
            continue
        path = job.out / "model" / f"20260101_000000_samples_{leaf.name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            for number, doc in enumerate(reversed(inside)):  # ranks do not keep the order
                file.write(json.dumps({"doc_id": number} | scored(doc, recorder)) + "\n")
                recorder.add(leaf.name, number, doc, answers(doc), replayed=False)
    recorder.write(answers=True)
    about = {"host": "nowhere", "heartbeat": 0.0, "seconds": 10.0, "attempt": 1}
    job.set_status(**about, state="done", reason="", rows=job.rows, failed_rows=0)


def unsharded(task: str) -> dict:
    """Metrics of one run over all rows, aggregated as lmms-eval does."""
    found = {}
    for leaf in leaves(task):
        items = [scored(doc, Recorder("whole", "lmms-eval")) for doc in leaf.rows()]
        args = Namespace(output_path=None)
        values = {}
        for metric, path in leaf.metrics.items():
            column = [item[metric] for item in items]
            function = tasks.aggregation(path)
            values[f"{metric},none"] = acc(column, args) if metric == "acc" else function(column)
        finish()
        found[leaf.name] = values
    return found


def leaves(task: str) -> tuple[tasks.Leaf, ...]:
    return tasks.find(task).leaves


def pretend_all_done(sweep: Sweep) -> None:
    """`pretend_done` for every job, reading the rows once."""
    rows = {leaf.name: leaf.rows() for leaf in leaves(TASK)}
    kept = tasks.Leaf.rows
    tasks.Leaf.rows = lambda leaf: rows[leaf.name]
    try:
        for job in sweep.jobs:
            pretend_done(job)
    finally:
        tasks.Leaf.rows = kept
