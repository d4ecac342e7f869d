"""What VLMEvalKit leaves of a run."""

import pandas as pd

from tests.runs import recorded


def text_table(path):
    """A result table with every cell as it was written."""
    return pd.read_excel(path, dtype=str, keep_default_na=False)


def summaries(folder):
    """The summary of every benchmark, the newest."""
    return {name: summary for run in recorded(folder) for name, summary in run["benchmarks"].items()}
