"""Tables from the dataset hub, or from a local folder with the same relative path."""

from pathlib import Path
from typing import Any

from stc_lmms.errors import DataError

_TIMEOUT_S = 10


def load_table(name: str, config: str | None, cure: str) -> Any:
    """The test split of a dataset, without its videos.

    Args:
        name: dataset; a folder with that relative path takes precedence over the hub.
        config: its configuration; None if it has only one.
        cure: what the user can do if it is unreachable, the end of the DataError's message.
    """
    from datasets import load_dataset
    from huggingface_hub import HfApi, constants

    try:
        if not (Path(name).is_dir() or constants.HF_HUB_OFFLINE):
            # Without a network, load_dataset would retry for 24 s; this fails at once.
            HfApi().dataset_info(name, timeout=_TIMEOUT_S)
        return load_dataset(name, config, split="test")
    except Exception as error:  # datasets, pyarrow and the hub raise various types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = f"{config!r} of the hub dataset {name}" if config else f"the hub dataset {name}"
        raise DataError(f"cannot load {what} ({reason}); {cure}") from error
