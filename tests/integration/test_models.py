"""Every model but LLaVA-OneVision through lmms-eval's evaluator: its own OVO-Bench task, and ours."""

from argparse import Namespace

import pytest
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from stc_lmms.resources import tasks_root
from tests.integration.builtin import lay_out_ovobench
from tests.models import qwen_checkpoint
from tests.runs import recorded
from training.demo.dispider_checkpoint import build_dispider
from training.demo.streamforest_checkpoint import build_streamforest

pytestmark = pytest.mark.slow

OURS = ["ovobench_stream_mini_realtime", "ovobench_stream_mini_forward", "streamingbench_mini"]
SMALL = ",".join(f"{name}={value}" for name, value in (qwen_checkpoint.SMALL | {"token_budget": 6}).items())
MODELS = {
    "streamforest_stc": (build_streamforest, ""),
    "dispider_stc": (build_dispider, ",frames_per_clip=4"),
    "livecc_stc": (
        lambda folder: qwen_checkpoint.build_checkpoint(folder, "qwen2_vl"),
        f",{SMALL},answer=choices",
    ),
} | {
    f"{family}_stc": (
        lambda folder, family=family: qwen_checkpoint.build_checkpoint(folder, family),
        f",{SMALL}",
    )
    for family in qwen_checkpoint.FAMILIES
}

# Settings in the results, for models with defaults of their own.
ECHOED = {
    "streamforest_stc": {
        "model": "streamforest",
        "memory": "forest",
        "method": "stc_cacher",
        "fps": 0.5,
        "now_tokens": 729,
        "cache_interval": 4,
        "update_ratio": 0.25,
        "long_quota": 5120,
        "grid": "fixed",
    },
    "livecc_stc": {"model": "livecc", "fps": 2.0, "slice_tokens": 12, "token_budget": 6},
}


@pytest.mark.parametrize("model", MODELS)
def test_benchmarks_run_unchanged(model, tmp_path, monkeypatch):
    build, args = MODELS[model]
    checkpoint = build(tmp_path / "checkpoint")
    answered = lay_out_ovobench(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    found = simple_evaluate(
        model=model,
        model_args=f"pretrained={checkpoint},device=cpu{args}",
        tasks=["ovobench", *OURS],
        task_manager=TaskManager(include_path=str(tasks_root())),
        cli_args=Namespace(output_path=str(tmp_path / "out"), process_with_media=False),
        limit=2,
        bootstrap_iters=0,
    )
    assert {"ovo_backward", "ovo_realtime", "ovo_forward"} <= set(found["results"])
    assert all(found["results"][task]["n_failed,none"] == 0 for task in OURS)
    (record,) = recorded(tmp_path / "out")
    ours = sum(found["results"][task]["n,none"] for task in OURS)
    assert ours > 10 and record["failed"] == 1 and record["answered"] == answered + ours
    assert found["config"]["resolved_cli_args"]["stc_settings"].items() >= ECHOED.get(model, {}).items()
    efficiency = record["efficiency"]
    assert efficiency["tower_tokens_recomputed"] < efficiency["tower_tokens"]
    if "token_budget" in args:
        assert efficiency["llm_tokens_max"] == 6
    if model == "streamforest_stc":
        assert record["model"]["execution"] == "grouped"
        assert 0.3 < efficiency["tower_tokens_recomputed"] / efficiency["tower_tokens"] < 0.8
