"""What an answer costs: the stage clock and the efficiency record, the same for every model.

Stage times cover the work since the previous answer of the stream, so the records of a stream sum to its
totals. Units are milliseconds; on a GPU they are device times between events.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stc_lmms import __version__
from stc_lmms.lazy import torch

STAGES = ("decode_ms", "preprocess_ms", "vit_ms", "project_ms", "method_ms", "prefill_ms")
_PENDING = 1000  # unread event pairs; a camera may be asked only at its end


@dataclass
class Efficiency:
    """Cost of one answer.

    Attributes:
        frames_seen: frames of the stream so far.
        frames_encoded: frames encoded since the previous answer.
        frames_graphed: how many of them ran as captured graphs; the others were launched eagerly.
        tower_tokens: tower tokens of those frames.
        tower_tokens_recomputed: how many of them were computed, not reused.
        llm_tokens_mean: LLM tokens kept per frame, mean over the stream.
        llm_tokens_max: the most kept for any one frame.
        decode_ms: reading and decoding video.
        preprocess_ms: resize, normalisation, and copy to the device.
        vit_ms: vision tower with the in-tower method; for captured frames also projector and pooling, but
            not the recording of the graph.
        project_ms: projector and pooling.
        method_ms: token method, or a memory of visual tokens.
        prefill_ms: prefill of visual tokens, and of the text before the video (once per stream).
        ttft_ms: from the question to its first answer token: encoding for this question alone, question
            prefill and one decoding step.
        per_token_ms: mean time of each further token; None for one-token answers.
        new_tokens: answer tokens.
        context_tokens: tokens in the KV cache when the answer began, the question included.
        kv_bytes: the stream's memory on the compute device, without the question.
        archive_bytes: the stream's memory in host memory or on disk.
        state_bytes: all state of the stream on the device: KV, tower references, method state.
        peak_memory_bytes: peak of the device so far; without a GPU, of the process.
    """

    frames_seen: int = 0
    frames_encoded: int = 0
    frames_graphed: int = 0
    tower_tokens: int = 0
    tower_tokens_recomputed: int = 0
    llm_tokens_mean: float = 0.0
    llm_tokens_max: int = 0
    decode_ms: float = 0.0
    preprocess_ms: float = 0.0
    vit_ms: float = 0.0
    project_ms: float = 0.0
    method_ms: float = 0.0
    prefill_ms: float = 0.0
    ttft_ms: float = 0.0
    per_token_ms: float | None = None
    new_tokens: int = 0
    context_tokens: int = 0
    kv_bytes: int = 0
    archive_bytes: int = 0
    state_bytes: int = 0
    peak_memory_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, times rounded to a microsecond."""
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in dataclasses.asdict(self).items()
        }


class StageClock:
    """Sums the time spent in named stages."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._device = device
        self._events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._spent = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body. On a GPU this only records events: nothing waits here."""
        if self._cuda:
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record(torch.cuda.current_stream(self._device))
            yield
            events[1].record(torch.cuda.current_stream(self._device))
            self._events.append((name, *events))
            if len(self._events) >= _PENDING:
                while self._events and self._events[0][2].query():  # later ones would have to be waited for
                    self._read_oldest()
        else:
            start = time.perf_counter()
            yield
            self._spent[name] += (time.perf_counter() - start) * 1e3

    def wait(self) -> None:
        """Let the device finish queued work, so that its time is not counted in what follows."""
        if self._events:
            torch.cuda.synchronize(self._device)
        while self._events:
            self._read_oldest()

    def _read_oldest(self) -> None:
        name, start, end = self._events.popleft()
        self._spent[name] += start.elapsed_time(end)

    def take(self) -> dict[str, float]:
        """Milliseconds of every stage since the last call."""
        self.wait()
        spent, self._spent = self._spent, dict.fromkeys(STAGES, 0.0)
        return spent


def peak_memory_bytes(device: torch.device) -> int:
    """Peak allocation of the device, or peak resident size of this process without a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def environment(device: torch.device) -> dict[str, str]:
    """Device and versions, for every record that holds measurements."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"
    versions = {p: importlib.metadata.version(p) for p in ("torch", "transformers")}
    return {
        "device": name,
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "stc-lmms": __version__,  # of the source tree, which may not be installed
    } | versions
