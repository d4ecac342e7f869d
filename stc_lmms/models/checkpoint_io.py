"""Checkpoints in the layout of their authors, not of transformers: folders, fields and safetensors.

Of the weights, only names and shapes are read before all of them fit.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2Config
from transformers.configuration_utils import PretrainedConfig

from stc_lmms import compat
from stc_lmms.config import Settings
from stc_lmms.engine.api import checkpoint
from stc_lmms.errors import CheckpointError

_INDEX = "model.safetensors.index.json"
_CONFIG_FILES = ["*.json", "*.txt", "*.model"]
_QWEN2_FIELDS = [
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
]
_BUFFERS = (".inv_freq", ".position_ids")  # saved by old transformers; they follow from the config
_SHOWN = 4  # problems in an error message


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, not read yet."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def checkpoint_folder(settings: Settings, *, weights: bool) -> Path:
    """The checkpoint on this disk: a local folder, or files of a hub id, downloaded with or without weights.

    Raises:
        CheckpointError: there is no such folder, and the hub does not have it or cannot be reached.
    """
    pretrained, revision = checkpoint(settings), settings.revision
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
        CheckpointError: it is missing, unreadable or something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {compat.first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content


def qwen2_config(fields: Mapping[str, Any]) -> Qwen2Config:
    """Config of the Qwen2 that a checkpoint's fields describe."""
    return Qwen2Config(**{name: fields[name] for name in _QWEN2_FIELDS if fields.get(name) is not None})


def entries(folder: Path) -> dict[str, Entry]:
    """All tensors of a folder's safetensors files by name.

    Raises:
        CheckpointError: there are none, a file of the index is missing, or one cannot be read.
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


@dataclass(frozen=True)
class Network:
    """How to make one network of a checkpoint.

    Attributes:
        build: a class of transformers, which needs `config`, or a function that makes a module of our own.
    """

    build: Callable[..., Any]
    config: PretrainedConfig | None = None
    attention: str = "sdpa"

    def blank(self) -> nn.Module:
        """Without weights, to compare names and shapes with."""
        with torch.device("meta"):
            return self.build() if self.config is None else self.build._from_config(self.config)

    def random(self, dtype: torch.dtype) -> nn.Module:
        """With random weights, made in their dtype on the current device."""
        if self.config is None:
            return self.build().to(dtype).eval()
        return self.build._from_config(self.config, dtype=dtype, attn_implementation=self.attention).eval()

    def load(self, tensors: Mapping[str, Entry], dtype: torch.dtype) -> nn.Module:
        """With the weights of a checkpoint, which must be complete; see `check_weights`."""
        state = {name: entry.read() for name, entry in tensors.items()}
        if self.config is None:
            module = self.build().to(dtype)
            module.load_state_dict(state)
            return module.eval()
        how = {"config": self.config, "dtype": dtype, "attn_implementation": self.attention}
        return self.build.from_pretrained(None, state_dict=state, **how).eval()


def load_all(
    networks: Mapping[str, Network],
    parts: Mapping[str, Mapping[str, Entry]],
    dtype: torch.dtype,
    device: torch.device | str,
) -> dict[str, nn.Module]:
    """All networks with the weights of a checkpoint."""
    return {name: network.load(parts[name], dtype).to(device) for name, network in networks.items()}


def random_all(
    networks: Mapping[str, Network], dtype: torch.dtype, device: torch.device
) -> dict[str, nn.Module]:
    """All networks with random weights, made in their dtype on their device, without a copy on the CPU."""
    with torch.device(device):
        return {name: network.random(dtype) for name, network in networks.items()}


def mlp(width: int, out: int) -> nn.Sequential:
    """The projector that LLaVA calls `mlp2x_gelu`."""
    return nn.Sequential(nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))


def sort_weights(
    found: Mapping[str, Entry], prefixes: Sequence[tuple[str, str, str]]
) -> tuple[dict[str, dict[str, Entry]], list[str]]:
    """Tensors by the network that they belong to, and the names of those that belong to none.

    Args:
        found: tensors by their released names.
        prefixes: (prefix of released names, network, what replaces the prefix); the first that fits counts.
            A network called "" is dropped.
    """
    parts: dict[str, dict[str, Entry]] = {part: {} for _, part, _ in prefixes}
    strangers = []
    for name, entry in found.items():
        if name.endswith(_BUFFERS):
            continue
        for prefix, part, instead in prefixes:
            if name.startswith(prefix):
                parts[part][instead + name.removeprefix(prefix)] = entry
                break
        else:
            strangers.append(name)
    parts.pop("", None)
    return parts, strangers


def check_weights(
    about: str,
    networks: Mapping[str, Network],
    parts: dict[str, dict[str, Entry]],
    unread: tuple[str, ...] = (),
    strangers: Iterable[str] = (),
    hint: str = "",
) -> None:
    """Refuse weights that do not fit their networks.

    Args:
        about: begins the error message.
        networks: by name.
        parts: their tensors; names of vision towers are adapted to this version of transformers in place.
        unread: ends of the names of weights that may be missing.
        strangers: names that count as unexpected.
        hint: ends the error message.

    Raises:
        CheckpointError: names weights that are missing, unexpected or of another shape.
    """
    problems = [f"{name} is unexpected" for name in strangers]
    for part, network in networks.items():
        blank = network.blank()
        if compat.vision_core(blank) is not blank:
            parts[part] = {f"vision_model.{name}": entry for name, entry in parts[part].items()}
        problems += [f"{part}: {problem}" for problem in _problems(blank, parts[part], unread)]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        shown = ", ".join(problems[:_SHOWN])
        raise CheckpointError(f"{about} lacks weights or has others: {shown}{more}{hint}")


def _problems(module: nn.Module, found: Mapping[str, Entry], unread: tuple[str, ...]) -> list[str]:
    """`NAME`, `NAME (has [..], needs [..])`, `NAME is unexpected`."""
    needed = {name: tuple(x.shape) for name, x in module.state_dict().items()}
    unexpected = [f"{name} is unexpected" for name in sorted(found.keys() - needed.keys())]
    if getattr(getattr(module, "config", None), "tie_word_embeddings", False):
        needed.pop("lm_head.weight", None)  # it is the embedding
    problems = []
    for name, shape in needed.items():
        if name.endswith(unread):
            continue
        if name not in found:
            problems.append(name)
        elif found[name].shape != shape:
            problems.append(f"{name} (has {list(found[name].shape)}, needs {list(shape)})")
    return problems + unexpected


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder.

    Raises:
        CheckpointError: one of its files is missing or unreadable.
    """
    # transformers warns at every load of a model type that only its authors know; here that is no mistake.
    noisy = logging.getLogger("transformers.configuration_utils")
    noisy.addFilter(_no_type_warning)
    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"cannot load the tokenizer in {str(folder)!r}: {compat.first_line(error)}"
        ) from error
    finally:
        noisy.removeFilter(_no_type_warning)


def _no_type_warning(record: logging.LogRecord) -> bool:
    return "You are using a model of type" not in record.getMessage()
