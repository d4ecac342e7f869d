"""Runs as they lie on disk: of this package, of its older versions, and of other models."""

import json

from stc_lmms.benchmarks import ovobench
from stc_lmms.engine.timers import Efficiency
from stc_lmms.eval.recorder import Recorder

MODEL = {
    "execution": "grouped",
    "attention": "tower sdpa, llm sdpa",
    "dtype": "float32",
    "environment": {"device": "cpu (x86_64)", "threads": "2", "torch": "2.13.0", "transformers": "5.0.0"},
}


def question(task, official, strict=None, **flags):
    flags = {"missing": False, "unparsed": False, "failed": "", "past_end": False} | flags
    part = ovobench.MODE_OF[task]
    return {
        "part": part,
        "task": task,
        "official": official,
        "strict": official if strict is None else strict,
    } | flags


def answer(frames, recomputed=0.25, **cost):
    cost = {"kv_bytes": 3 * 2**20, "state_bytes": 4 * 2**20, "ttft_ms": 10.0, "llm_tokens_mean": 64.0} | cost
    counts = {"tower_tokens": 100 * frames, "tower_tokens_recomputed": int(100 * frames * recomputed)}
    times = {"vit_ms": 8.0 * frames, "prefill_ms": 2.0 * frames}
    return {
        "task": "t",
        "doc_id": 0,
        "efficiency": Efficiency(frames_encoded=frames, **counts, **times, **cost).to_dict(),
    }


def write_run(folder, questions, answers, method="stc", model=MODEL, stamp="20260101_000000_000", **options):
    """What a run leaves in its output path; the path of its `run.json`."""
    settings = {"method": method} | options
    recorder = Recorder(f"{stamp}_{method}", "lmms-eval", settings, output=folder, model=model)
    recorder.answers = list(answers)
    if questions:
        recorder.summarise("ovobench", "", questions)
    recorder.write(answers=True)
    return folder / f"stc_run_{recorder.run}" / "run.json"


def write_old_run(folder, questions, answers, method="stc", rank=0, world_size=1, **options):
    """What a run of version 0.1.0 left in its output path."""
    folder.mkdir(exist_ok=True)
    stamp, settings = options.pop("stamp", "20260101_000000_000"), {"method": method} | options
    run = f"{stamp}_{method}"
    if questions:
        content = {"benchmark": "ovobench", "run": run, "settings": settings}
        content["summary"] = ovobench.BENCHMARK.summarise(questions)
        (folder / f"stc_summary_ovobench_{run}.json").write_text(json.dumps(content))
    record = {
        "run": run,
        "settings": settings,
        "model": MODEL,
        "rank": rank,
        "world_size": world_size,
        "replayed": sum(bool(a.get("replayed")) for a in answers),
        "beyond_context": 0,
        "answers": answers,
    }
    path = folder / f"stc_efficiency_{run}_rank{rank}.json"
    path.write_text(json.dumps(record))
    return path
