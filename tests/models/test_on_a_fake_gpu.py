"""Every model, method and memory on a CUDA device that computes nothing: no tensor is on a wrong device, and
the host waits for the device only where it has to know a number, never for what goes to it.
"""

import copy
import dataclasses
from dataclasses import is_dataclass

import numpy as np
import pytest
import torch

from stc_lmms.engine.api import Generation
from stc_lmms.engine.graphs import FrameRunner
from stc_lmms.methods.stc_cacher import STCCacher
from stc_lmms.models.registry import model as registered
from stc_lmms.settings import resolve
from stc_lmms.towers import Patches
from tests.engine.test_graphs import Replayed
from tests.fake_cuda import FakeCuda
from tests.methods.streams import ROWS, row_id
from tests.methods.towers import FAMILIES, IMAGE, drifting_frames, drifting_patches, tiny_tower
from tests.models.dispider_helpers import scene
from training.demo.dispider_checkpoint import build_dispider
from training.demo.streamforest_checkpoint import build_streamforest

pytestmark = pytest.mark.slow

DECODING = {"decoding:greedy"}
ARCHIVE = {"archive:Archive.commit"}
# Without those whose number of tokens depends on their values, which no fake tensor has.
FIXED = [(method, args) for method, args in ROWS if "similarity_threshold" not in args]


def on_gpu(gpu, model):
    """A model like this one with a copy of its networks on the device."""
    parts = [
        copy.deepcopy(p) if isinstance(p, torch.nn.Module) or is_dataclass(p) else p for p in model.parts
    ]
    for part in parts:
        modules = vars(part).values() if is_dataclass(part) else [part]
        gpu.move(*(module for module in modules if isinstance(module, torch.nn.Module)))
    with gpu:
        moved = model.from_parts(dataclasses.replace(model.settings, cuda_graphs=False), *parts)
    assert moved.device.type == "cuda"
    return moved


def waits(model, frames, times_s, prepare=None, new_tokens=2):
    """Where the host waits when frames come in, and when an answer is given."""
    gpu = FakeCuda()
    model = on_gpu(gpu, model)
    if prepare:
        prepare(model)
    half = len(frames) // 2
    with gpu:
        stream = model.open_stream()
        stream.observe(frames[:half], times_s[:half])
        gpu.waits.clear()  # what is made once
        stream.observe(frames[half:], times_s[half:])
        coming, gpu.waits = gpu.waits, set()
        stream.ask("What is it?", Generation(max_new_tokens=new_tokens))
        return coming, gpu.waits


@pytest.mark.parametrize(("method", "args"), FIXED, ids=map(row_id, FIXED))
def test_methods(load, clip, method, args):
    # In the original mode, the host must know how the tokens of a window are shared among its frames.
    shares = {"vidcom2:VidCom2.compress"} if args.get("mode") == "original" else set()
    coming, asked = waits(load(method=method, prefill_frames=3, **args), *clip(6))
    assert coming == shares and asked - ({"vidcom2:VidCom2.pending"} if shares else set()) == DECODING


@pytest.mark.parametrize(
    ("args", "coming", "asked"),
    [
        ({"refresh": "adaptive", "cut_similarity": 0.5}, {"stc_cacher:STCCacher.begin"}, set()),
        ({"selection": "shared"}, set(), set()),
        ({"positions": "original", "prompt": "chat"}, set(), set()),
        ({"memory": "recent", "recent_frames": 3}, set(), set()),
        ({"decode_prune": 0.5, "decode_prune_layer": 1}, set(), {"dycoke_dp:DecodePruning.choose"}),
        ({"memory": "rekv", "n_local": 50, "retrieve_size": 3}, ARCHIVE, {"archive:Archive.scores"}),
        (
            {"memory": "bounded", "active_tokens": 40, "pool_tokens": 20},
            {"bounded:BoundedMemory.append"},
            set(),
        ),
    ],
    ids=lambda value: next(iter(value), "-") if isinstance(value, dict) else "",
)
def test_options_and_memories(load, clip, args, coming, asked):
    model = load(method="stc", token_budget=9, prefill_frames=3, **args)
    found = waits(model, *clip(6), new_tokens=3)  # the third is the first that decode_prune gates
    assert found == (coming, asked | DECODING)


@pytest.mark.parametrize(("method", "memory"), [("none", "full"), ("stc", "recent"), ("dycoke", "full")])
def test_livecc(load_qwen, clip, method, memory):
    args = {} if method == "none" else {"token_budget": 4}
    args |= {"recent_frames": 2} if memory == "recent" else {}
    model = load_qwen("livecc", method=method, memory=memory, prefill_frames=4, **args)

    def patches(resized):
        """The stock processor calculates sizes with tensors, which now have no numbers."""
        count, _, height, width = resized.shape
        grid = (count // 2, height // 4, width // 4)
        return Patches(torch.empty(int(np.prod(grid)), 3 * 2 * 4 * 4, device="cuda"), [grid])

    found = waits(model, *clip(8), lambda on_gpu: setattr(on_gpu, "patches", patches))
    assert found == (set(), DECODING)


def test_streamforest_waits_for_similarities(tmp_path):
    folder = build_streamforest(tmp_path / "forest", image_size=48, patch_size=8)
    args = {"now_tokens": 36, "short_frames": 4, "short_tokens": 12, "event_window": 3, "long_tokens": 6}
    args |= {"long_quota": 36, "pretrained": str(folder), "device": "cpu", "method": "stc_cacher"}
    model = registered("streamforest").load_class()(resolve(args, {}, model="streamforest"))
    coming, asked = waits(model, *scene(24))
    assert (coming, asked) == ({"memory:Forest.append"}, {"memory:Forest.consolidated"} | DECODING)


@pytest.mark.parametrize("layout", ["v1", "v2"])
def test_dispider_waits_for_clips_and_decisions(tmp_path, layout):
    args = {"pretrained": str(build_dispider(tmp_path / layout, layout=layout)), "frames_per_clip": 4}
    args |= {"device": "cpu", "method": "stc_cacher"}
    model = registered("dispider").load_class()(resolve(args, {}, model="dispider"))
    coming, asked = waits(model, *scene(16))
    net = {f"net:DispiderNet.{name}" for name in ("find", "logit", "visual")}
    assert (coming, asked) == ({"memory:ClipMemory.append"}, net | DECODING)


class Watched(Replayed):
    """Nothing of what is recorded may wait for the device, or take values of the host that change."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def record(self, function, pool):
        """See `CudaCapture.record`."""
        self.gpu.waits.clear()
        self.gpu.copies.clear()
        recorded = super().record(function, pool)
        assert not self.gpu.waits and not self.gpu.copies
        return recorded


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "method",
    [
        None,
        STCCacher(cache_interval=2),
        STCCacher(cache_interval=2, selection="shared"),
    ],
    ids=["dense", "stc", "shared"],
)
def test_what_is_recorded_as_a_graph(family, method):
    gpu, tower = FakeCuda(), tiny_tower(family)
    frames = drifting_frames(1) if family in IMAGE else drifting_patches(1)
    _, layout = tower.embed(frames)
    gpu.move(tower.model)
    layout = gpu.like(layout)
    if family in IMAGE:
        frames = gpu.tensor(frames)
    else:
        frames = Patches(gpu.tensor(frames.rows_PC), frames.grid_thw)
        tower._layouts[frames.size, tower.patch_weight.device, torch.float32] = layout
    live = FrameRunner(
        Watched(gpu), tower, method, method and method.open_state(), lambda h_FTD: tower.finish(h_FTD, layout)
    )
    with gpu:
        assert all(live.encode(frames).device.type == "cuda" for _ in range(3))
    assert live.capture.recorded == (1 if method is None else 2)
