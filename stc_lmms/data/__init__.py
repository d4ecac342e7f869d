"""Benchmark data on disk: where it lies, how it gets there, and whether it is complete."""

from stc_lmms.data.catalog import BENCHMARKS, MINI, Benchmark, Part, video_candidates
from stc_lmms.data.check import VerifyReport, VideoProblem, verify
from stc_lmms.data.download import fetch
from stc_lmms.data.questions import load_hub_annotations, load_ovobench_rows
from stc_lmms.data.roots import annotation_file, benchmark_root, safe_join, video_path

__all__ = [
    "BENCHMARKS",
    "MINI",
    "Benchmark",
    "Part",
    "VerifyReport",
    "VideoProblem",
    "annotation_file",
    "benchmark_root",
    "fetch",
    "load_hub_annotations",
    "load_ovobench_rows",
    "safe_join",
    "verify",
    "video_candidates",
    "video_path",
]
