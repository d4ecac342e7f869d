"""What VLMEvalKit leaves of a run."""

import json

import pandas as pd


def text_table(path):
    """A result table with every cell as it was written."""
    return pd.read_excel(path, dtype=str, keep_default_na=False)


def summaries(folder):
    found = (json.loads(path.read_text()) for path in sorted(folder.glob("stc_summary_*.json")))
    return {content["benchmark"]: content["summary"] for content in found}
