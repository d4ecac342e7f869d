"""Work of a stream, stage by stage: FLOPs, and the fewest bytes that have to pass through memory.

Fewest bytes: weights once per forward call, every input of a stage read once, every output written once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from stc_lmms.bench.cost import prefill_macs, projector_macs, tower_macs
from stc_lmms.bench.shapes import DecoderShape, ModelShape
from stc_lmms.methods.base import TowerMethod
from stc_lmms.methods.spec import Method
from stc_lmms.methods.stc_cacher import STCCacher


@dataclass(frozen=True)
class Work:
    """FLOPs and bytes of one call, or of several `calls` in sequence.

    The calls of a sum are kept, because one may be bound by arithmetic and another by memory.
    """

    flops: int = 0
    bytes: int = 0
    calls: tuple["Work", ...] = field(default=(), repr=False)

    def __add__(self, other: "Work") -> "Work":
        calls = (self.calls or (self,)) + (other.calls or (other,))
        return Work(self.flops + other.flops, self.bytes + other.bytes, calls)


@dataclass(frozen=True)
class Workload:
    """What is measured: a number of frames, then one question."""

    frames: int
    group: int  # frames encoded and prefilled together
    prefix_tokens: int  # prompt before the video, prefilled in a call of its own
    question_tokens: int  # prompt after the video

    @property
    def groups(self) -> list[range]:
        """Frame numbers of every call."""
        starts = range(0, self.frames, self.group)
        return [range(start, min(start + self.group, self.frames)) for start in starts]


def stages(shape: ModelShape, method: Method, workload: Workload) -> dict[str, Work] | None:
    """Work of every stage; None if the method has no cost model.

    `per_token_ms` is for the token after the first one, with which `ttft_ms` ends.
    """
    if method.tower is not None and not isinstance(method.tower, STCCacher):
        return None
    kept = getattr(method.token, "token_budget", shape.tokens_per_frame)
    prefix = workload.prefix_tokens
    past = prefix + workload.frames * kept
    vit, project = Work(), Work()
    decoder, size = shape.decoder, shape.itemsize
    prefill = decoder_work(decoder, size, prefix) if prefix else Work()
    for group in workload.groups:
        vit += tower_work(shape, method.tower, group)
        tower_tokens, llm_tokens = (len(group) * n for n in (shape.tower.tokens, shape.tokens_per_frame))
        project += projector_work(tower_tokens, shape.tower.width, decoder.width, size, llm_tokens)
        prefill += decoder_work(decoder, size, len(group) * kept, prefix + group.start * kept)
    return {
        "vit_ms": vit,
        "project_ms": project,
        "prefill_ms": prefill,
        "ttft_ms": decoder_work(decoder, size, workload.question_tokens, past, head=True),
        "per_token_ms": decoder_work(decoder, size, 1, past + workload.question_tokens, head=True),
    }


def bounds(
    dense: dict[str, Work], method: dict[str, Work], cost: Callable[[Work], float]
) -> dict[str, float]:
    """Cost of the method over cost of dense, for every stage that both have and that costs dense anything.

    With `Machine.floor_ms` as `cost` this is the ratio of a perfect implementation on that machine; with
    FLOPs it is the arithmetic bound, reached when calls are large enough not to wait for memory.
    """
    costs = {stage: cost(work) for stage, work in dense.items() if stage in method}
    return {stage: cost(method[stage]) / whole for stage, whole in costs.items() if whole}


def captured(work: dict[str, Work]) -> dict[str, Work]:
    """The same work as captured graphs are timed: `vit_ms` includes projector and pooling."""
    rest = {stage: one for stage, one in work.items() if stage != "project_ms"}
    return rest | {"vit_ms": work["vit_ms"] + work.get("project_ms", Work())}


def reference_bytes(shape: ModelShape, cacher: TowerMethod | None) -> int:
    """What STC-Cacher keeps of one reference frame: V and U of every block, K of blocks that score tokens."""
    if not isinstance(cacher, STCCacher):
        return 0
    kept = sum(3 if cacher.scores(depth) else 2 for depth in range(shape.tower.layers))
    return kept * shape.tower.tokens * shape.tower.width * shape.itemsize


def kv_bytes_per_token(shape: ModelShape) -> int:
    """Keys and values of one token in all layers."""
    return shape.decoder.kv_per_token * shape.itemsize


def tower_work(shape: ModelShape, cacher: STCCacher | None, group: range) -> Work:
    """One call of the tower on the frames with these numbers."""
    tower = shape.tower
    dense = sum(cacher is None or i % cacher.cache_interval == 0 for i in group)
    selective, selected = len(group) - dense, cacher.selected(tower.tokens) if cacher else 0
    pixels = 3 * tower.tokens * tower.patch**2
    moved = len(group) * (pixels + tower.tokens * tower.width) + tower.weights
    # Each selective frame reads its reference; the newest reference is written once per call.
    references = selective + (1 if cacher is not None and dense else 0)
    n_bytes = moved * shape.itemsize + references * reference_bytes(shape, cacher)
    return Work(2 * tower_macs(tower, dense, selective, selected), n_bytes)


def decoder_work(decoder: DecoderShape, itemsize: int, new: int, past: int = 0, head: bool = False) -> Work:
    """One call of a decoder: its weights, the KV cache read and extended, embeddings in and out."""
    macs, weights = prefill_macs(decoder, new, past), decoder.token_macs
    if head:
        macs, weights = macs + decoder.head_macs, weights + decoder.head_macs
    moved = weights + (past + new) * decoder.kv_per_token + 2 * new * decoder.width
    return Work(2 * macs, moved * itemsize)


def projector_work(tokens: int, width: int, out: int, itemsize: int, pooled: int | None = None) -> Work:
    """One call of a two-layer projector; `pooled` tokens of its output remain (default: all)."""
    moved = tokens * width + (tokens if pooled is None else pooled) * out + width * out + out**2
    return Work(2 * projector_macs(tokens, width, out), moved * itemsize)
