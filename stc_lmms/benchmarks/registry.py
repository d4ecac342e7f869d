"""All benchmarks by name. To add one: write its module (see `benchmark.py`) and add one line here."""

from importlib import import_module

from stc_lmms.benchmarks.benchmark import Benchmark
from stc_lmms.errors import DataError
from stc_lmms.suggest import unknown

_MODULES = (
    "ovobench",
    "streamingbench",
    "mlvu",
    "egoschema",
    "videomme",
)
BENCHMARKS: dict[str, Benchmark] = {x: import_module(f"{__package__}.{x}").BENCHMARK for x in _MODULES}


def find(name: str) -> Benchmark:
    """The benchmark called `name`, or a DataError that names the nearest."""
    if name not in BENCHMARKS:
        raise DataError(unknown("benchmark", name, BENCHMARKS))
    return BENCHMARKS[name]


def timed() -> dict[str, Benchmark]:
    """The benchmarks whose questions have times, which `stc-lmms plan` knows."""
    return {name: benchmark for name, benchmark in BENCHMARKS.items() if benchmark.timed}


def find_label(label: str) -> tuple[Benchmark, str]:
    """Benchmark and size of a label such as `ovobench_mini`, or a DataError that names the nearest."""
    labels = {found.label(size): (found, size) for found in BENCHMARKS.values() for size in found.sizes}
    if label not in labels:
        raise DataError(unknown("benchmark", label, labels))
    return labels[label]
