"""Checkpoints in the layout of their authors, not of transformers: folders, fields and safetensors.

Nothing of a file but its table of names and shapes is read before all of them fit.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config
from transformers.configuration_utils import PretrainedConfig

from stc_lmms import compat
from stc_lmms.errors import CheckpointError

_INDEX = "model.safetensors.index.json"
_CONFIG_FILES = ["*.json", "*.txt", "*.model"]
_QWEN2_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
)

BUFFERS = (".inv_freq", ".position_ids")  # old transformers saved them; they follow from the config


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, not read yet."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def checkpoint_folder(pretrained: str, revision: str | None, *, weights: bool) -> Path:
    """The checkpoint on this disk: a local folder, or a hub id whose files are fetched.

    Args:
        pretrained: folder or hub id.
        revision: of the hub id.
        weights: fetch the safetensors files, too.

    Raises:
        CheckpointError: there is no such folder, and the hub does not have it or cannot be reached.
    """
    if Path(pretrained).is_dir():
        return Path(pretrained)
    patterns = [*_CONFIG_FILES, "*.safetensors"] if weights else _CONFIG_FILES
    try:
        compat.reach_hub(pretrained, revision)
        return Path(snapshot_download(pretrained, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"pretrained={pretrained!r} is not a local folder and was not found on (or not reachable at) the "
            f"model hub; give a folder with the checkpoint ({compat.first_line(error)})"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        CheckpointError: it does not, or it is not there.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {compat.first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content


def qwen2_config(fields: Mapping[str, Any]) -> Qwen2Config:
    """The Qwen2 among a checkpoint's fields."""
    return Qwen2Config(**{name: fields[name] for name in _QWEN2_FIELDS if fields.get(name) is not None})


def entries(folder: Path) -> dict[str, Entry]:
    """All tensors of a folder's safetensors files by name.

    Raises:
        CheckpointError: there are none, the index names a file that is not there, or one cannot be read.
    """
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / _INDEX).is_file():
        listed = read_json(folder / _INDEX).get("weight_map")
        names = sorted(set(listed.values())) if isinstance(listed, dict) else []
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{str(folder)!r} lacks {', '.join(missing)}, of {len(names)} files with weights; fetch it again"
        )
    if not names:
        raise CheckpointError(
            f"{str(folder)!r} has no weights as safetensors files; fetch the whole checkpoint"
        )
    found: dict[str, Entry] = {}
    for name in names:
        try:
            file = safe_open(folder / name, framework="pt")
            for tensor in file.keys():  # noqa: SIM118 - no mapping
                shape = tuple(file.get_slice(tensor).get_shape())
                found[tensor] = Entry(shape, lambda file=file, tensor=tensor: file.get_tensor(tensor))
        except (OSError, SafetensorError) as error:
            why = compat.first_line(error)
            raise CheckpointError(f"{folder / name} cannot be read ({why}); fetch it again") from error
    return found


def entries_of(weights: Mapping[str, Tensor]) -> dict[str, Entry]:
    """The same for tensors that are in memory."""
    return {name: Entry(tuple(x.shape), lambda x=x: x) for name, x in weights.items()}


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    """A module without weights, to compare names and shapes with."""
    with torch.device("meta"):
        return make()


def lacking(module: nn.Module, found: Mapping[str, Entry], unused: Iterable[str] = ()) -> list[str]:
    """What a module's weights lack among those found: `NAME` or `NAME (has [..], needs [..])`.

    Args:
        module: may be on the meta device.
        found: tensors by their names in the module.
        unused: names that the module has but never reads.
    """
    wanted = {name: tuple(x.shape) for name, x in module.state_dict().items()}
    if getattr(getattr(module, "config", None), "tie_word_embeddings", False):
        wanted.pop("lm_head.weight", None)  # it is the embedding
    problems = []
    for name, shape in wanted.items():
        if name in unused:
            continue
        if name not in found:
            problems.append(name)
        elif found[name].shape != shape:
            problems.append(f"{name} (has {list(found[name].shape)}, needs {list(shape)})")
    return problems


def unexpected(module: nn.Module, found: Mapping[str, Entry]) -> list[str]:
    """What is found for a module that it does not have: `NAME is unexpected`."""
    return [f"{name} is unexpected" for name in sorted(found.keys() - module.state_dict().keys())]


def stock_network(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    tensors: Mapping[str, Entry],
    dtype: torch.dtype,
    attn_implementation: str,
) -> PreTrainedModel:
    """A network of transformers with a checkpoint's tensors, in eval mode."""
    state = {name: entry.read() for name, entry in tensors.items()}
    return cls.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, attn_implementation=attn_implementation
    ).eval()


def small_network(module: nn.Module, tensors: Mapping[str, Entry], dtype: torch.dtype) -> nn.Module:
    """A module of our own with a checkpoint's tensors, in eval mode."""
    module.to(dtype).load_state_dict({name: entry.read() for name, entry in tensors.items()})
    return module.eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder.

    Raises:
        CheckpointError: one of its files is missing or unreadable.
    """
    # A type that only its authors know is no mistake here; transformers warns of it at every load.
    noisy = logging.getLogger("transformers.configuration_utils")
    noisy.addFilter(_about_something_else)
    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"cannot load the tokenizer in {str(folder)!r}: {compat.first_line(error)}"
        ) from error
    finally:
        noisy.removeFilter(_about_something_else)


def _about_something_else(record: logging.LogRecord) -> bool:
    return "You are using a model of type" not in record.getMessage()
