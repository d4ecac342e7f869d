"""Wall-clock times of functions, taken in turn so that a slow spell of the machine hits all of them."""

import time
from collections.abc import Callable, Mapping


def alternate(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of every run, alternated (a, b, a, b, ...); the first round is a warm-up."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                samples[name].append((time.perf_counter() - start) * 1e3)
    return samples
