"""EgoSchema, the subset of 500 questions with public answers.

A gold answer is the index of a choice. STC's driver looks it up among the texts, so there it is always A.
"""

from stc_lmms.benchmarks.benchmark import PublishedRun
from stc_lmms.benchmarks.offline import Annotations, offline_benchmark

ANNOTATIONS = Annotations(tasks=("subset",), gold="index", video_field="video_idx", choices_field="option")
BENCHMARK = offline_benchmark(
    "egoschema",
    "subset",
    ANNOTATIONS,
    published=PublishedRun("EgoSchema", 500),
    hub_id="lmms-eval/egoschema",
    hub_config="Subset",
    question_file="egoschema_subset.json",
    download="the videos (zips; 500 of them are used)",
    video_folders=("videos", ""),
    video_endings=(".mp4", ".MP4"),
)
