"""lmms-eval's own OVO-Bench task, offline: the layout that its documentation describes."""

import json
import shutil

from tests.conftest import QUIRKS
from tests.media import encode_video, moving_square_frames


def lay_out_ovobench(folder):
    """Annotations in `folder`/kcz358/OVOBench, chunk files in `folder`/hf.

    Returns how many questions have their file; one has none, and fails.
    """
    rows = json.loads((QUIRKS / "ovo_bench_mini.json").read_text())
    modes = {"backward": ("EPM", "HLD", "ASI"), "forward": ("REC", "SSR", "CRR")}
    data, chunks = folder / "kcz358" / "OVOBench", folder / "hf" / "ovobench" / "chunked_videos"
    data.mkdir(parents=True)
    chunks.mkdir(parents=True)
    picked = {
        "backward": [r for r in rows if r["task"] in modes["backward"]][:2],
        "forward": [r for r in rows if r["task"] in modes["forward"]][:1],
        "realtime": [r for r in rows if r["task"] not in modes["backward"] + modes["forward"]][:2],
    }
    for mode, some in picked.items():
        (data / f"{mode}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in some))
    configs = "".join(
        f"- config_name: {m}\n  data_files:\n  - split: test\n    path: {m}.jsonl\n" for m in picked
    )
    (data / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    video = encode_video(folder / "chunk.mp4", moving_square_frames(40, 64, 64), fps=8)
    for row in picked["backward"] + picked["realtime"]:
        shutil.copy(video, chunks / f"{row['id']}.mp4")
    (forward,) = picked["forward"]
    for i in range(1, len(forward["test_info"])):  # round 0 has no file: it fails, the others do not
        shutil.copy(video, chunks / f"{forward['id']}_{i}.mp4")
    return 4 + len(forward["test_info"]) - 1
