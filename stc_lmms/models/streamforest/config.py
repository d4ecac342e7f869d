"""Sizes of a StreamForest checkpoint from its config.json, and checks of settings.

The released config.json is that of a LLaVA training run. It names the vision tower by a path of its authors
and lacks its sizes, those of SigLIP-so400m without its last layer; the tower's weights are in the checkpoint.
Every field is optional, with the released value as its default.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Qwen2Config, SiglipVisionConfig

from stc_lmms.config import Settings
from stc_lmms.errors import CheckpointError, SettingsError
from stc_lmms.models.checkpoint_io import qwen2_config, read_json
from stc_lmms.models.public_sizes import SO400M

_MODEL_TYPES = ("llava_qwen", "qwen2")
_CONTEXT = 32768


@dataclass(frozen=True)
class StreamForestSpec:
    """Sizes of one checkpoint."""

    folder: Path
    text: Qwen2Config
    vision: SiglipVisionConfig
    context_limit: int = _CONTEXT
    tower_name: str = ""  # `mm_vision_tower`, for messages; nothing is ever read from there

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's patches."""
        side = self.vision.image_size // self.vision.patch_size
        return side, side

    @classmethod
    def read(cls, folder: Path) -> "StreamForestSpec":
        """From a folder's config.json; see `of`."""
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{str(folder)!r} has no config.json; give a folder with a StreamForest checkpoint"
            )
        return cls.of(folder, read_json(folder / "config.json"))

    @classmethod
    def of(cls, folder: Path, fields: Mapping[str, Any]) -> "StreamForestSpec":
        """From the fields of config.json; checkpoints of other sizes have a `vision_config` among them.

        Raises:
            CheckpointError: they are those of another model.
        """
        kind, projector = fields.get("model_type", "qwen2"), fields.get("mm_projector_type")
        if kind not in _MODEL_TYPES:
            raise CheckpointError(f"{str(folder)!r} is a {kind!r} checkpoint, not a StreamForest")
        if projector is not None and "pemf" not in projector:
            raise CheckpointError(
                f"{str(folder)!r} has the projector {projector!r}, which has no event memory; a StreamForest "
                "has 'tome729_fstw_pemf', see MCG-NJU/StreamForest-Qwen2-7B"
            )
        vision = SO400M | dict(fields.get("vision_config") or {})
        if fields.get("mm_hidden_size", vision["hidden_size"]) != vision["hidden_size"]:
            raise CheckpointError(
                f"{str(folder)!r} has mm_hidden_size={fields['mm_hidden_size']}, StreamForest's tower "
                f"(SigLIP-so400m) has {vision['hidden_size']}"
            )
        if vision["hidden_size"] % 16:
            raise CheckpointError(
                f"{str(folder)!r}: the position tables need a tower whose width is a multiple of 16, "
                f"not {vision['hidden_size']}"
            )
        return cls(
            folder,
            qwen2_config({**fields, "rope_scaling": None}),  # as released, whatever the file says
            SiglipVisionConfig(**vision, vision_use_head=False),
            fields.get("tokenizer_model_max_length") or _CONTEXT,
            fields.get("mm_vision_tower") or "",
        )


def check_fit(settings: Settings, spec: StreamForestSpec) -> None:
    """Raise `SettingsError` if a method or an option does not fit a model of these sizes."""
    method, options = settings.built_method, settings.built_model_options
    rows, columns = spec.grid
    if options.now_tokens > rows * columns:
        raise SettingsError(
            f"now_tokens={options.now_tokens} is more than the {rows * columns} tokens "
            "that a frame has in the tower"
        )
    use = "use method=stc_cacher or method=none"
    if method.token is not None:
        raise SettingsError(
            f"method={method.name} drops tokens, but StreamForest's memory merges all {rows}x{columns} "
            f"tokens of a frame and keeps {options.now_tokens} of the newest; {use}, and for a budget the "
            "memory's own short_tokens, long_tokens and long_quota"
        )
    if method.tower is not None:
        method.tower.check(1)
        method.tower.check_budget(spec.grid, spec.vision.num_hidden_layers)
        if method.tower.output_grid(spec.grid) != spec.grid:
            raise SettingsError(
                f"method={method.name} changes the number of patches, but StreamForest's positions and "
                f"memory are made for all {rows}x{columns}; {use}"
            )
