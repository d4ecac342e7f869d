"""The static card of a Qwen2-VL tower: what STC-Cacher saves of its work, computed from shapes alone.

Nothing is loaded or measured. The unit is one temporal slice (two frames) of N patches. MACs are counted as
in `bench/cost.py`, plus the patch embedding over two frames and the merger, which are always dense. Matrix
products dominate a tower this wide, so expect at least this share of its time to be saved.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stc_lmms.bench.cost import dense_block_macs, selective_block_macs
from stc_lmms.bench.entry import StaticCard
from stc_lmms.bench.options import PROTOCOLS, Options
from stc_lmms.bench.render import emit
from stc_lmms.errors import SettingsError
from stc_lmms.methods.registry import build
from stc_lmms.methods.stc_cacher import STCCacher

ALWAYS = ((2, 0.25), (4, 0.25))  # cache interval and update ratio
PATCHES = (420, 1536, 3072)  # of LiveCC: a clip of 480 frames, live, a clip of at most 64 frames


@dataclass(frozen=True)
class QwenTowerShape:
    """A Qwen2-VL tower: MLPs of `mlp`, patches of `patch` pixels over two frames, LLM tokens of `out`."""

    layers: int
    width: int
    mlp: int
    patch: int
    out: int

    def macs(self, patches: int, selected: int | None = None) -> int:
        """One slice that recomputes `selected` patches; None: a dense one."""
        always = patches * (2 * 3 * self.patch**2 * self.width + 4 * self.width**2 + self.width * self.out)
        sizes = patches, self.width, self.mlp
        block = dense_block_macs(*sizes) if selected is None else selective_block_macs(*sizes, selected)
        return self.layers * block + always

    def saving(self, patches: int, cacher: STCCacher) -> float:
        """Share of the tower's work saved on an endless stream."""
        selective = self.macs(patches, cacher.selected(patches, 4)) / self.macs(patches)
        return (1 - 1 / cacher.cache_interval) * (1 - selective)


QWEN2_VL_7B = QwenTowerShape(32, 1280, 5120, 14, 3584)


@dataclass(frozen=True)
class TowerCard(StaticCard):
    """The card of one model."""

    model: str

    def run(self, options: Options, say: Callable[[str], None] = print) -> dict[str, Any]:
        """Refuses methods without STC-Cacher, and options that only make sense for a measurement."""
        _refuse_unused(options)
        cacher = build(options.method, _cacher_fields(options.method_args)).tower
        if not isinstance(cacher, STCCacher):
            raise SettingsError(
                f"method {options.method!r} saves nothing in the tower; use stc or stc_cacher"
            )
        tower = QWEN2_VL_7B
        pairs = list(dict.fromkeys([*ALWAYS, (cacher.cache_interval, cacher.update_ratio)]))
        rows = [
            {
                "patches": patches,
                "llm_tokens": patches // 4,
                "dense_gflop": round(2 * tower.macs(patches) / 1e9, 1),
                "saving": {
                    f"{interval},{ratio:g}": round(tower.saving(patches, STCCacher(interval, ratio)), 4)
                    for interval, ratio in pairs
                },
            }
            for patches in PATCHES
        ]
        heads = "".join(f"{f'({interval}, {ratio:g})':>12}" for interval, ratio in pairs)
        say(
            f"{self.model} 7b, tower {tower.layers} layers x {tower.width} with patch embedding and merger\n"
            "static: multiply-accumulates of one temporal slice (2 frames), nothing is measured\n"
            "work saved by STC-Cacher at (cache_interval, update_ratio), on an endless stream\n\n"
            f"{'patches':>8}{'LLM tokens':>12}{'dense GFLOP':>13}{heads}"
        )
        for row in rows:
            saved = "".join(f"{100 * share:>11.1f}%" for share in row["saving"].values())
            say(f"{row['patches']:>8}{row['llm_tokens']:>12}{row['dense_gflop']:>13.1f}{saved}")
        card = {"benchmark": "tower_card", "schema": 1, "model": self.model}
        return emit(card | {"shape": vars(tower), "rows": rows}, options.output, say)


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
    refused = [name for name, present in unused.items() if present]
    if refused:
        raise SettingsError(
            f"the card of {options.model} is static, of one slice: nothing is loaded or measured; "
            f"leave out {', '.join(refused)}"
        )


def _cacher_fields(args: dict[str, str]) -> dict[str, Any]:
    """The method options that matter here; a budget of LLM tokens saves nothing in the tower."""
    kinds = {"cache_interval": int, "update_ratio": float}
    try:
        return {name: kinds[name](args[name]) for name in kinds if name in args}
    except ValueError as error:
        raise SettingsError(f"--interval and --ratio must be numbers: {error}") from None


ENTRY = TowerCard("qwen2_vl")
