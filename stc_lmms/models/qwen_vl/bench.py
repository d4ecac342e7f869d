"""The static card of a Qwen2-VL tower: what STC-Cacher saves of its work, from the shapes alone.

Nothing is loaded and nothing is measured. The unit is one temporal slice (two frames) of N patches; the
counts are those of `cost.py`, with the patch embedding over two frames and the merger, which are always
dense. A wide tower at these N is bound by matrix products, so this is the least share of time to expect.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stc_lmms.bench.cost import dense_block_macs, selective_block_macs
from stc_lmms.bench.options import PROTOCOLS, Options
from stc_lmms.errors import SettingsError
from stc_lmms.methods.registry import build
from stc_lmms.methods.stc_cacher import STCCacher

ALWAYS = ((2, 0.25), (4, 0.25))


@dataclass(frozen=True)
class QwenTowerShape:
    """A Qwen2-VL tower: MLPs of `mlp`, patches of `patch` pixels over two frames, LLM tokens of `out`."""

    layers: int
    width: int
    mlp: int
    patch: int
    out: int

    def always_macs(self, patches: int) -> int:
        """Patch embedding and merger of one slice."""
        return patches * (2 * 3 * self.patch**2 * self.width + 4 * self.width**2 + self.width * self.out)

    def dense_macs(self, patches: int) -> int:
        """All of one dense slice."""
        return self.layers * dense_block_macs(patches, self.width, self.mlp) + self.always_macs(patches)

    def selective_macs(self, patches: int, selected: int) -> int:
        """All of one selective slice."""
        blocks = selective_block_macs(patches, self.width, self.mlp, selected)
        return self.layers * blocks + self.always_macs(patches)

    def saving(self, patches: int, cacher: STCCacher) -> float:
        """Share of the tower's work saved on an endless stream."""
        selective = self.selective_macs(patches, cacher.selected(patches, 4)) / self.dense_macs(patches)
        return (1 - 1 / cacher.cache_interval) * (1 - selective)


# Qwen2-VL-7B and LiveCC-7B have the same tower. N of LiveCC: 480 frames of a clip, live, 64 frames or fewer.
TOWERS = {name: QwenTowerShape(32, 1280, 5120, 14, 3584) for name in ("livecc", "qwen2_vl")}
PATCHES = (420, 1536, 3072)


def _refuse_unused(options: Options) -> None:
    unused = {
        "--pretrained": options.pretrained is not None,
        "--video": options.video is not None,
        "--layers": options.layers is not None,
        "--llm-layers": options.llm_layers is not None,
        "--selection": "selection" in options.method_args,
        "--budget": "token_budget" in options.method_args,
        "--frames": options.frames != PROTOCOLS[options.protocol].frames,
    }
    given = [name for name, there in unused.items() if there]
    if given:
        raise SettingsError(
            f"the card of {options.model} is static, of one slice: nothing is loaded or measured; "
            f"leave out {', '.join(given)}"
        )


def run(options: Options, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Print the card; returns what the last line holds.

    Raises:
        SettingsError: the method has no STC-Cacher, or an option is for measuring.
    """
    _refuse_unused(options)
    cacher = build(options.method, dict(_numbers(options.method_args))).tower
    if not isinstance(cacher, STCCacher):
        raise SettingsError(f"method {options.method!r} saves nothing in the tower; use stc or stc_cacher")
    shape = TOWERS[options.model]
    pairs = list(dict.fromkeys([*ALWAYS, (cacher.cache_interval, cacher.update_ratio)]))
    rows = [
        {
            "patches": patches,
            "llm_tokens": patches // 4,
            "dense_gflop": round(2 * shape.dense_macs(patches) / 1e9, 1),
            "saving": {
                f"{interval},{ratio:g}": round(shape.saving(patches, STCCacher(interval, ratio)), 4)
                for interval, ratio in pairs
            },
        }
        for patches in PATCHES
    ]
    heads = "".join(f"{f'({interval}, {ratio:g})':>12}" for interval, ratio in pairs)
    say(
        f"{options.model} 7b, tower {shape.layers} layers x {shape.width} with patch embedding and merger\n"
        "static: multiply-accumulates of one temporal slice (2 frames), nothing is measured\n"
        "work saved by STC-Cacher at (cache_interval, update_ratio), on an endless stream\n\n"
        f"{'patches':>8}{'LLM tokens':>12}{'dense GFLOP':>13}{heads}"
    )
    for row in rows:
        saved = "".join(f"{100 * share:>11.1f}%" for share in row["saving"].values())
        say(f"{row['patches']:>8}{row['llm_tokens']:>12}{row['dense_gflop']:>13.1f}{saved}")
    card = {
        "benchmark": "tower_card",
        "schema": 1,
        "model": options.model,
        "shape": vars(shape),
        "rows": rows,
    }
    if options.output is not None:
        options.output.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    say(json.dumps(card))
    return card


def _numbers(args: dict[str, str]) -> list[tuple[str, Any]]:
    """The options that count here, converted; a budget of LLM tokens saves nothing in the tower."""
    kinds = {"cache_interval": int, "update_ratio": float}
    try:
        return [(name, kinds[name](args[name])) for name in kinds if name in args]
    except ValueError as error:
        raise SettingsError(f"--interval and --ratio must be numbers: {error}") from None
