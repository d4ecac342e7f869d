"""Sizes of a Dispider checkpoint from its json files, in both released layouts, and checks of settings.

The releases of 2025 (`v1`) and 2026 (`v2`) share weight names, but not the names of fields and folders. The
root folder holds the language model that answers, a folder in it the fields of the compact one that watches.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, TypeVar

from transformers import Qwen2Config

from stc_lmms.config import Settings
from stc_lmms.errors import CheckpointError, SettingsError
from stc_lmms.models.checkpoint_io import qwen2_config, read_json

LAYOUTS: Mapping[str, Literal["v1", "v2"]] = {"long": "v1", "dispider_reaction": "v2"}
DECISION_TYPES = ("stream_ground_qwen", "dispider_decision")
DECISION_FOLDERS = ("perception_decision", "stream_compressor")
_SENTENCE_TOKENS = 20  # about the length of a time sentence

_T = TypeVar("_T")


@dataclass(frozen=True)
class DispiderSpec:
    """Sizes and choices of one checkpoint.

    Attributes:
        decision_folder: the one with the compact model's fields and tokenizer.
        reaction: the model that answers.
        decision: the compact model that watches, width D.
        vision: fields of the CLIP tower; None if no file has them and they follow from its weights.
        select_layer: hidden state of the tower that is the feature, in transformers' numbering.
        tokens_per_frame: R, tokens of a frame after the 2x2 merge.
        slots_per_frame: P, pooled slots of a frame, whose states are its memory.
        image_markers: whether `<im_start>` and `<im_end>` enclose the video in the prompt.
        eos_ids: token ids that end an answer, from the generation config.
        repetition_penalty: from the generation config.
    """

    folder: Path
    decision_folder: Path
    layout: Literal["v1", "v2"]
    reaction: Qwen2Config
    decision: Qwen2Config
    vision: Mapping[str, Any] | None
    select_layer: int
    tokens_per_frame: int
    slots_per_frame: int
    image_markers: bool = False
    eos_ids: frozenset[int] = frozenset()
    repetition_penalty: float = 1.0

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's patches in the tower."""
        side = 2 * math.isqrt(self.tokens_per_frame)
        return side, side

    @classmethod
    def from_dir(cls, folder: Path) -> "DispiderSpec":
        """Read the json files of a checkpoint.

        Raises:
            CheckpointError: it is not a Dispider, or a field is missing or has a value of no release.
        """
        root = read_json(folder / "config.json")
        kind = root.get("model_type")
        if kind not in LAYOUTS:
            raise CheckpointError(
                f"pretrained={str(folder)!r} is a {kind!r} checkpoint, not Dispider ({' or '.join(LAYOUTS)})"
            )
        nested_folder = _decision_folder(folder, root)
        nested = read_json(nested_folder / "config.json")
        fields, outer = _Fields(folder, root | nested), _Fields(folder, root)
        fields.expect("pool", "mm_projector_type", "perception_projector_type")
        fields.expect("patch", "mm_vision_select_feature", "perception_select_feature")
        outer.expect("mlp2x_gelu", "compress_projector_type", "decision_projector_type")
        outer.expect("mlp2x_gelu", "clip_projector_type", "perception_projector_type")
        decision = qwen2_config(nested)
        width = outer.get(int, "compress_hidden_size", "decision_hidden_size")
        if width != decision.hidden_size:
            raise CheckpointError(
                f"{str(folder)!r} joins a decision model of width {width}, the one in "
                f"{nested_folder.name}/ has {decision.hidden_size}"
            )
        tokens, slots = fields.get(int, "resolution"), fields.get(int, "pool_num", default=1)
        if min(tokens, slots) < 1:
            raise CheckpointError(
                f"{str(folder)!r}: resolution={tokens} and pool_num={slots} must be at least 1"
            )
        side, slot_side = math.isqrt(tokens), math.isqrt(slots)
        if side**2 != tokens or slot_side**2 != slots or side % slot_side:
            raise CheckpointError(
                f"{str(folder)!r}: pool_num={slots} slots do not tile resolution={tokens} tokens"
            )
        generation = folder / "generation_config.json"
        decoding = read_json(generation) if generation.is_file() else {}
        eos = decoding.get("eos_token_id") or []
        return cls(
            folder=folder,
            decision_folder=nested_folder,
            layout=LAYOUTS[kind],
            reaction=qwen2_config(root),
            decision=decision,
            vision=_vision_fields(nested_folder, nested),
            select_layer=fields.get(int, "mm_vision_select_layer", "perception_select_layer"),
            tokens_per_frame=tokens,
            slots_per_frame=slots,
            image_markers=fields.get(bool, "mm_use_im_start_end", default=False),
            eos_ids=frozenset(eos if isinstance(eos, list) else [eos]),
            repetition_penalty=decoding.get("repetition_penalty") or 1.0,
        )


def check_fit(settings: Settings, spec: DispiderSpec) -> None:
    """Raise `SettingsError` if a method or clip length does not fit a model of these sizes."""
    method, options = settings.built_method, settings.built_model_options
    if method.token is not None:
        raise SettingsError(
            f"method={method.name} drops tokens of single frames, but Dispider retrieves whole clips; "
            "use method=stc_cacher or method=none"
        )
    if method.tower is not None:
        method.tower.check(1)
        if method.tower.output_grid(spec.grid) != spec.grid:
            raise SettingsError(
                f"method={method.name} changes the number of patches, Dispider needs all "
                f"{spec.grid[0]}x{spec.grid[1]}; use method=stc_cacher or method=none"
            )
    row = options.frames_per_clip * (spec.tokens_per_frame + spec.slots_per_frame) + _SENTENCE_TOKENS
    limit = spec.decision.max_position_embeddings
    if row > limit:
        raise SettingsError(
            f"frames_per_clip={options.frames_per_clip} makes clips of {row} tokens, the decision model "
            f"reads {limit}; the released value is 16"
        )


class _Fields(NamedTuple):
    """Fields by their names in either release."""

    folder: Path
    values: Mapping[str, Any]

    def get(self, kind: type[_T], *names: str, default: _T | None = None) -> _T:
        found = [(name, self.values[name]) for name in names if self.values.get(name) is not None]
        if not found and default is None:
            raise CheckpointError(f"{str(self.folder)!r}: its config has no {' or '.join(names)}")
        name, value = found[0] if found else ("", default)
        if type(value) is not kind:
            raise CheckpointError(f"{str(self.folder)!r}: {name}={value!r} must be of type {kind.__name__}")
        return value

    def expect(self, supported: str, *names: str) -> None:
        value = self.get(str, *names, default=supported)
        if value != supported:
            raise CheckpointError(
                f"{str(self.folder)!r}: {' or '.join(names)} is {value!r}; only {supported!r} is supported"
            )


def _decision_folder(folder: Path, root: Mapping[str, Any]) -> Path:
    """The compact model's folder; v1 names it by a path of its authors, whose last component is used."""
    named = root.get("perception_decision") or root.get("mm_compressor") or ""
    for name in (PurePosixPath(str(named)).name, *DECISION_FOLDERS):
        if name and (folder / name / "config.json").is_file():
            return folder / name
    for config in sorted(folder.glob("*/config.json")):
        if read_json(config).get("model_type") in DECISION_TYPES:
            return config.parent
    raise CheckpointError(
        f"{str(folder)!r} has no folder {' or '.join(DECISION_FOLDERS)}; fetch the whole checkpoint"
    )


def _vision_fields(folder: Path, nested: Mapping[str, Any]) -> Mapping[str, Any] | None:
    named = nested.get("perception_vision_tower") or nested.get("mm_vision_tower") or ""
    path = folder / PurePosixPath(str(named)).name / "config.json"
    if not named or not path.is_file():
        return None
    fields = read_json(path)
    return fields.get("vision_config", fields)
