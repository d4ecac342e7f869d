"""Tables from the dataset hub, or from a local folder with the same relative path."""

from pathlib import Path
from typing import Any

from stc_lmms.errors import DataError

_TIMEOUT_S = 10


def load_table(name: str, config: str | None, cure: str, split: str = "test") -> Any:
    """One split of a dataset, without its videos.

    Args:
        name: Dataset; a folder with that relative path takes precedence over the hub.
        config: Its configuration; None if it has only one.
        cure: What the user can do if it fails, the end of the error message.
        split: The split.

    Raises:
        DataError: The dataset or the configuration is unreachable.
    """
    from datasets import load_dataset
    from huggingface_hub import HfApi, constants

    try:
        if not (Path(name).is_dir() or constants.HF_HUB_OFFLINE):
            # Without a network, load_dataset would retry for 24 s; this fails at once.
            HfApi().dataset_info(name, timeout=_TIMEOUT_S)
        return load_dataset(name, config, split=split)
    except Exception as error:  # datasets, pyarrow and the hub raise various types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = f"{config!r} of the hub dataset {name}" if config else f"the hub dataset {name}"
        raise DataError(f"cannot load {what} ({reason}); {cure}") from error
