"""What a stream has to do, stage by stage: FLOPs and the fewest bytes that must pass through memory.

The fewest bytes: the weights once per forward call, every input of a stage read once, every output written
once. From them a `Machine` gives the least time; no version runs much faster than that.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from stc_lmms.bench.cost import DecoderShape, TowerShape, prefill_macs, projector_macs, tower_macs
from stc_lmms.methods.base import TowerMethod
from stc_lmms.methods.registry import Method
from stc_lmms.methods.stc_cacher import STCCacher


@dataclass(frozen=True)
class Work:
    """FLOPs and bytes of one call, or of calls that run one after the other.

    Attributes:
        calls: the calls of a sum; empty for one call. One may wait for arithmetic, another for memory, so
            each has a least time of its own.
    """

    flops: int = 0
    bytes: int = 0
    calls: tuple["Work", ...] = field(default=(), repr=False)

    def __add__(self, other: "Work") -> "Work":
        calls = (self.calls or (self,)) + (other.calls or (other,))
        return Work(self.flops + other.flops, self.bytes + other.bytes, calls)


@dataclass(frozen=True)
class ModelShape:
    """Shapes of a video LLM, and the bytes of one element of its weights and activations."""

    tower: TowerShape
    decoder: DecoderShape
    tokens_per_frame: int
    itemsize: int


@dataclass(frozen=True)
class Workload:
    """What is measured: so many frames in groups of `group`, then one question.

    Attributes:
        frames: frames of the stream.
        group: frames encoded and prefilled together.
        prefix_tokens: prompt before the video; a prefill call of its own.
        question_tokens: prompt behind the video.
    """

    frames: int
    group: int
    prefix_tokens: int
    question_tokens: int

    @property
    def groups(self) -> list[range]:
        """Frame numbers of every call."""
        return [
            range(start, min(start + self.group, self.frames)) for start in range(0, self.frames, self.group)
        ]


def stages(shape: ModelShape, method: Method, job: Workload) -> dict[str, Work] | None:
    """Work of every stage that has a cost model; None if the method has none.

    `per_token_ms` is the first token after the one that `ttft_ms` ends with.
    """
    if method.tower is not None and not isinstance(method.tower, STCCacher):
        return None
    kept = getattr(method.token, "token_budget", shape.tokens_per_frame)
    before = job.prefix_tokens + job.frames * kept
    vit, project = Work(), Work()
    decoder, size = shape.decoder, shape.itemsize
    prefill = decoder_work(decoder, size, job.prefix_tokens) if job.prefix_tokens else Work()
    for group in job.groups:
        vit += tower_work(shape, method.tower, group)
        tower_tokens, llm_tokens = (len(group) * n for n in (shape.tower.tokens, shape.tokens_per_frame))
        project += projector_work(tower_tokens, shape.tower.width, decoder.width, size, llm_tokens)
        prefill += decoder_work(decoder, size, len(group) * kept, job.prefix_tokens + group.start * kept)
    return {
        "vit_ms": vit,
        "project_ms": project,
        "prefill_ms": prefill,
        "ttft_ms": decoder_work(decoder, size, job.question_tokens, before, head=True),
        "per_token_ms": decoder_work(decoder, size, 1, before + job.question_tokens, head=True),
    }


def bounds(
    dense: dict[str, Work], method: dict[str, Work], cost: Callable[[Work], float]
) -> dict[str, float]:
    """Method over dense in `cost`, for every stage that both have and that costs dense anything.

    With `Machine.floor_ms` it is the ratio that a perfect implementation would show on that machine. With
    FLOPs it is the arithmetic bound: of calls large enough that memory does not count.
    """
    costs = {stage: cost(work) for stage, work in dense.items() if stage in method}
    return {stage: cost(method[stage]) / whole for stage, whole in costs.items() if whole}


def captured(work: dict[str, Work]) -> dict[str, Work]:
    """The same work as captured frames are timed: `vit_ms` has projector and pooling in it."""
    rest = {stage: one for stage, one in work.items() if stage != "project_ms"}
    return rest | {"vit_ms": work["vit_ms"] + work.get("project_ms", Work())}


def reference_bytes(shape: ModelShape, cacher: TowerMethod | None) -> int:
    """What STC-Cacher keeps of one reference frame: V and U of every block, K of those that score."""
    if not isinstance(cacher, STCCacher):
        return 0
    kept = sum(3 if cacher.scores(depth) else 2 for depth in range(shape.tower.layers))
    return kept * shape.tower.tokens * shape.tower.width * shape.itemsize


def kv_bytes_per_token(shape: ModelShape) -> int:
    """Keys and values of one token in every layer."""
    return shape.decoder.kv_per_token * shape.itemsize


def tower_work(shape: ModelShape, cacher: STCCacher | None, group: range) -> Work:
    """One call of the tower on the frames with these numbers."""
    tower = shape.tower
    dense, selective, selected = len(group), 0, 0
    if cacher is not None:
        refresh = [(i // cacher.chunk_frames) % cacher.cache_interval == 0 for i in group]
        dense, selective = sum(refresh), len(group) - sum(refresh)
        selected = cacher.selected(tower.tokens)
    pixels = 3 * tower.tokens * tower.patch**2
    moved = len(group) * (pixels + tower.tokens * tower.width) + tower.weights
    # Each selective frame reads its reference; the newest reference is written once per call.
    references = selective + (1 if cacher is not None and dense else 0)
    return Work(
        2 * tower_macs(tower, dense, selective, selected),
        moved * shape.itemsize + references * reference_bytes(shape, cacher),
    )


def decoder_work(
    decoder: DecoderShape, itemsize: int, new: int, past: int = 0, *, head: bool = False
) -> Work:
    """One call of a decoder: its weights, the cache read and extended, the embeddings."""
    macs, weights = prefill_macs(decoder, new, past), decoder.token_macs
    if head:
        macs, weights = macs + decoder.head_macs, weights + decoder.head_macs
    moved = weights + (past + new) * decoder.kv_per_token + 2 * new * decoder.width
    return Work(2 * macs, moved * itemsize)


def projector_work(tokens: int, width: int, out: int, itemsize: int, pooled: int | None = None) -> Work:
    """One call of a two-layer projector, of whose output `pooled` tokens are left."""
    moved = tokens * width + (tokens if pooled is None else pooled) * out + width * out + out**2
    return Work(2 * projector_macs(tokens, width, out), moved * itemsize)
