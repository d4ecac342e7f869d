"""VideoMME without subtitles: 2700 questions about 900 videos.

Choices keep their published letters, so the prompt reads `(A) A. text`, as in the ReKV drivers.
"""

from stc_lmms.benchmarks.benchmark import PublishedRun
from stc_lmms.benchmarks.offline import Annotations, offline_benchmark

ANNOTATIONS = Annotations(
    tasks=("short", "medium", "long"),
    gold="letter",
    video_field="videoID",
    choices_field="options",
    task_fields=("duration",),
    keep_letters=True,
)
BENCHMARK = offline_benchmark(
    "videomme",
    "test",
    ANNOTATIONS,
    published=PublishedRun("VideoMME", 2700),
    hub_id="lmms-eval/Video-MME",
    question_file="videomme.json",
    download="the videos (900 of them, zips)",
    video_folders=("data", "videos", ""),
    video_endings=(".mp4", ".MP4", ".mkv"),
)
