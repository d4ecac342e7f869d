"""Tables of the dataset hub, or of a local folder of the same relative path."""

from pathlib import Path
from typing import Any

from stc_lmms.errors import DataError

_TIMEOUT_S = 10


def load_table(name: str, config: str | None, fix: str, split: str = "test") -> Any:
    """One split of a dataset, its videos left alone.

    Args:
        name: Dataset; a folder of that relative path goes before the hub.
        config: Its configuration, None: the only one.
        fix: What the user can do if it fails, the end of the message.
        split: Which split.

    Raises:
        DataError: The dataset or the configuration is unreachable.
    """
    from datasets import load_dataset
    from huggingface_hub import HfApi, constants

    try:
        if not (Path(name).is_dir() or constants.HF_HUB_OFFLINE):
            # Without a network load_dataset would go on retrying for 24 s; this fails at once.
            HfApi().dataset_info(name, timeout=_TIMEOUT_S)
        return load_dataset(name, config, split=split)
    except Exception as error:  # datasets, pyarrow and the hub each raise kinds of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = f"{config!r} of the hub dataset {name}" if config else f"the hub dataset {name}"
        raise DataError(f"cannot load {what} ({reason}); {fix}") from error
