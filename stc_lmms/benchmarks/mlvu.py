"""MLVU-dev, multiple choice: 2172 questions about 1242 videos.

A gold answer is the text of a choice in ReKV's file (where "2" can be a choice), a letter on the hub.
"""

from stc_lmms.benchmarks.benchmark import PublishedRun
from stc_lmms.benchmarks.offline import Annotations, offline_benchmark

ANNOTATIONS = Annotations(
    tasks=("topic_reasoning", "anomaly_reco", "needle", "ego", "plotQA", "order", "count"),
    gold="text",
    video_field="video_name",
    choices_field="candidates",
)
BENCHMARK = offline_benchmark(
    "mlvu",
    "dev",
    ANNOTATIONS,
    published=PublishedRun("MLVU-dev", 2172),
    hub_id="sy1998/MLVU_dev",
    question_file="dev_debug_mc.json",
    download="the videos (1242 of them, zips)",
    video_folders=("", "videos", "video"),
)
