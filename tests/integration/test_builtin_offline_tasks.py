"""lmms-eval's own `mlvu_dev`, `egoschema_subset` and `videomme`, offline, with our model.

The rows are made up, in the columns that those tasks read. Datasets lie below the working directory under
the names they have on the hub, videos below HF_HOME where the tasks would have unpacked them.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.test_cli import evaluate, results, samples
from tests.media import encode_video, moving_square_frames
from tests.runs import recorded

pytestmark = pytest.mark.slow

TEXTS = ("A red square", "A blue circle", "A green line", "Nothing", "All of them")
ROWS = {
    "sy1998/MLVU_dev": [
        {
            "video_name": "a.mp4",
            "duration": 6.0,
            "question": f"{question}\n" + "\n".join(f"({x}) {t}" for x, t in zip("ABCD", TEXTS)),
            "candidates": list(TEXTS[:4]),
            "answer": "A",
            "task_type": task,
            "question_id": f"{task}_0",
        }
        for question, task in (("What moves?", "plotQA"), ("How many squares are there?", "count"))
    ],
    "lmms-eval/egoschema": [
        {
            "question_idx": "0",
            "question": "What is the video about?",
            "video_idx": "b",
            "option": [f"{x}. {t}" for x, t in zip("ABCDE", TEXTS)],
            "answer": "0",
        }
    ],
    "lmms-eval/Video-MME": [
        {
            "video_id": "001",
            "duration": "short",
            "domain": "Knowledge",
            "sub_category": "Astronomy",
            "videoID": "c",
            "question_id": f"001-{k}",
            "task_type": "Object Recognition",
            "question": question,
            "options": [f"{x}. {t}." for x, t in zip("ABCD", TEXTS)],
            "answer": "A",
        }
        for k, question in enumerate(("What moves?", "What stays?"), 1)
    ],
}
CONFIGS = {"lmms-eval/egoschema": "Subset"}
VIDEOS = ("mlvu/a.mp4", "egoschema/videos/b.mp4", "videomme/data/c.mp4")
METRICS = {
    "mlvu_dev": "mlvu_percetion_score",  # as it is spelt there
    "egoschema_subset": "score",
    "videomme": "videomme_perception_score",
}


def lay_out(folder: Path) -> None:
    for name, rows in ROWS.items():
        dataset = folder / name
        dataset.mkdir(parents=True)
        config = CONFIGS.get(name, "default")
        split = f"- config_name: {config}\n  data_files:\n  - split: test\n    path: test.jsonl\n"
        (dataset / "README.md").write_text(f"---\nconfigs:\n{split}---\n")
        (dataset / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    video = encode_video(folder / "clip.mp4", moving_square_frames(48, 64, 64), fps=8)
    for name in VIDEOS:
        (folder / "hf" / name).parent.mkdir(parents=True)
        shutil.copy(video, folder / "hf" / name)


def test_builtin_offline_tasks_run_unchanged(checkpoint, tmp_path):
    lay_out(tmp_path)
    output = tmp_path / "out"
    code, log = evaluate(checkpoint, output, ",".join(METRICS), cwd=tmp_path, HF_HOME=str(tmp_path / "hf"))
    assert code == 0, log
    found = results(output)["results"]
    for task, metric in METRICS.items():
        assert found[task][f"{metric},none"] >= 0
    assert len(samples(output)) == 5
    (record,) = recorded(output)
    assert record["answered"] == 5 and record["failed"] == 0
    # 6 s at 0.5 fps of three videos: the second question about one finds it encoded
    assert record["efficiency"]["frames_encoded"] == 3 * 3
