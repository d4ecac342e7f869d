"""`pretrained=demo`: the small trained LLaVA-OneVision that ships with the package.

It was trained from scratch on StreamWorld (`training/demo` in the repository; its model card is next to the
weights). Its folder is a plain Hugging Face checkpoint; the checksums are ours.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stc_lmms.errors import CheckpointError
from stc_lmms.suggest import unknown

NAME = "demo"
NOTICE = "pretrained=demo is a toy, trained on StreamWorld: its scores say nothing about real videos"
CHECKSUMS, CARD = "SHA256SUMS", "README.md"


@dataclass(frozen=True)
class Variant:
    """A shipped checkpoint: its folder, the checksum of its `SHA256SUMS`, and its model arguments."""

    folder: str
    sha256: str
    defaults: Mapping[str, Any]


# A third of its 36 tokens per frame, as 64 is of LLaVA-OneVision's 196.
VARIANTS = {
    NAME: Variant(
        "stream_world",
        "e7e4d3d580ae40cb0f79ea015feea75dff1831aaef2bb4945416b7d465e6be42",
        MappingProxyType({"token_budget": 12}),
    )
}


def is_demo(pretrained: str) -> bool:
    """Whether `pretrained` names a shipped checkpoint, existing or not; a user's folder is `./demo`."""
    return pretrained == NAME or (pretrained.startswith(f"{NAME}-") and not Path(pretrained).exists())


def defaults_of(pretrained: str) -> Mapping[str, Any]:
    """Defaults of model arguments that come with a value of `pretrained`."""
    return VARIANTS[pretrained].defaults if is_demo(pretrained) and pretrained in VARIANTS else {}


@functools.cache
def demo_folder(variant: str = NAME) -> Path:
    """Folder of a shipped checkpoint; `CheckpointError` if it or a file is missing, damaged or not ours."""
    if variant not in VARIANTS:
        raise CheckpointError(unknown("demo variant", variant, VARIANTS))
    folder = Path(__file__).parent / "checkpoints" / VARIANTS[variant].folder
    check(folder, VARIANTS[variant].sha256)
    return folder


def check(folder: Path, sha256: str) -> None:
    """Raise `CheckpointError` if `SHA256SUMS` or a file in it differs, or a file is not in it."""
    known = {CHECKSUMS, CARD}
    for line in _checked(folder / CHECKSUMS, sha256).decode().splitlines():
        expected, _, name = line.partition("  ")
        _checked(folder / name, expected)
        known.add(name)
    for path in sorted(folder.iterdir()):
        if path.name not in known:  # transformers loads an adapter_config.json, for example, if there is one
            raise CheckpointError(f"{path} is not part of the demo checkpoint: delete it")


def _checked(path: Path, sha256: str) -> bytes:
    cure = "reinstall stc-lmms"
    try:
        content = path.read_bytes()
    except OSError:
        raise CheckpointError(f"the demo checkpoint lacks {path}: {cure}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(f"{path} is damaged or not the shipped file (sha256): {cure}")
    return content
