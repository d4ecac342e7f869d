"""The KV of old blocks, in slabs in host memory or in files, up to a number of bytes.

A slab holds a few thousand tokens of all layers, layer after layer, so that neighbouring blocks of one layer
are contiguous; PyTorch copies anything else through pageable memory, and the host waits. In host memory,
slabs are pinned if the model is on a GPU, and filled on a side stream. In a folder, each is a memory-mapped
file (not pinned, so the host does wait), allocated in advance so that a full disk is an error message here
and not a crash later. Under a cap, the oldest slab is dropped with its blocks when another one is needed.

Shapes: L layers, G key heads, T tokens of a slab, M tokens, B blocks, d head width.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from stc_lmms.errors import StcError
from stc_lmms.lazy import Tensor, torch
from stc_lmms.memory.kv import KV

logger = logging.getLogger(__name__)

SLAB_TOKENS = 2048
_MERGED_MEANS = 1024


class BlockPosition(NamedTuple):
    """Position of a block: `length` tokens from `start` on in a slab."""

    slab: int
    start: int
    length: int


class Archive:
    """Blocks of one stream, numbered from 0 in order of arrival.

    Args:
        layers, kv_heads, head_dim, dtype, device: of the model's keys and values.
        folder: keep them in files below this folder, deleted on `close`; None: in host memory.
        cap_bytes: upper limit of the slabs' bytes; None: no limit.

    Raises:
        StcError: the folder cannot be written to.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        folder: str | None = None,
        cap_bytes: int | None = None,
    ):
        self._shape = (layers, 2, kv_heads, head_dim)
        self._dtype, self._device = dtype, device
        self.token_nbytes = math.prod(self._shape) * dtype.itemsize
        self._cap_tokens = None if cap_bytes is None else cap_bytes // self.token_nbytes
        self._slab_tokens = SLAB_TOKENS
        if self._cap_tokens is not None:
            self._slab_tokens = max(1, min(SLAB_TOKENS, self._cap_tokens // 8))
        self._slabs: dict[int, Tensor] = {}  # [L,T,2,G,d]
        self._blocks: list[BlockPosition] = []  # including forgotten ones
        self._means: list[Tensor] = []  # [L,B,G*d] pieces, oldest first, from block _means_start on
        self._means_start = 0
        self.first = 0  # the oldest block that is not forgotten
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._folder: Path | None = None
        if folder is not None:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                self._folder = Path(tempfile.mkdtemp(prefix="stc-archive-", dir=folder))
            except OSError as error:
                raise StcError(f"archive_dir={folder!r} cannot be written to: {error.strerror}") from error
            self._cleanup = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    @property
    def count(self) -> int:
        """Blocks ever committed; `first` to `count - 1` are held."""
        return len(self._blocks)

    @property
    def nbytes(self) -> int:
        tokens = sum(block.length for block in self._blocks[self.first :])
        mean_nbytes = math.prod(self._shape) // 2 * (8 if self._dtype == torch.float64 else 4)
        return tokens * self.token_nbytes + (self.count - self.first) * mean_nbytes

    def reserve(self, lengths: Sequence[int]) -> list[BlockPosition]:
        """Reserve space for the next blocks, which become part of the archive with `commit`.

        Raises:
            StcError: the disk is full, or the blocks together do not fit under the cap.
        """
        last = self._blocks[-1] if self._blocks else BlockPosition(0, 0, 0)
        slab, end = last.slab, last.start + last.length
        if self._blocks and slab not in self._slabs:  # all forgotten
            slab, end = slab + 1, 0
        blocks: list[BlockPosition] = []
        for length in lengths:
            if slab in self._slabs and end + length > self._slabs[slab].shape[1]:
                slab, end = slab + 1, 0
            if slab not in self._slabs:
                oldest_needed = blocks[0].slab if blocks else slab
                self._make_slab(slab, max(length, self._slab_tokens), oldest_needed)
            blocks.append(BlockPosition(slab, end, length))
            end += length
        return blocks

    def write(self, layer: int, blocks: Sequence[BlockPosition], k_GMd: Tensor, v_GMd: Tensor) -> None:
        """Copy the keys and values of reserved blocks, M tokens in all, to their positions."""
        packed_M2Gd = torch.stack((k_GMd, v_GMd)).permute(2, 0, 1, 3)
        if self._copies is not None:
            packed_M2Gd = packed_M2Gd.contiguous()
            packed_M2Gd.record_stream(self._copies)
            self._copies.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._copies) if self._copies else nullcontext():
            for tokens, rows_T2Gd in self._rows(layer, blocks):
                rows_T2Gd.copy_(packed_M2Gd[tokens], non_blocking=True)

    def commit(self, blocks: Sequence[BlockPosition], means_LBC: Tensor) -> None:
        """Add reserved blocks, with all layers written, and their mean keys [L,B,G*d]."""
        if not blocks:
            return
        self._blocks += blocks
        self._means.append(means_LBC.to("cpu"))
        # Neighbours of equal size are merged, like bits of a counter: few pieces, each copied few times.
        while len(self._means) > 1:
            old, new = self._means[-2:]
            if not old.shape[1] <= new.shape[1] < _MERGED_MEANS:
                break
            self._means[-2:] = [torch.cat((old, new), dim=1)]

    def scores(self, layer: int, query_C: Tensor) -> Tensor:
        """Dot products [count - first] of a query [G*d] with the mean keys, computed on the CPU."""
        query_C = query_C.to("cpu")
        scores = [piece[layer] @ query_C for piece in self._means]
        return torch.cat(scores)[self.first - self._means_start :] if scores else query_C[:0]

    def load(self, layer: int, blocks: Sequence[int]) -> KV:
        """Keys and values of these blocks, concatenated, on the device."""
        positions = [self._blocks[block] for block in blocks]
        tokens = sum(position.length for position in positions)
        out_M2Gd = torch.empty(tokens, *self._shape[1:], dtype=self._dtype, device=self._device)
        if self._copies is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._copies)
        for part, rows_T2Gd in self._rows(layer, positions):
            out_M2Gd[part].copy_(rows_T2Gd, non_blocking=True)
        return KV(*out_M2Gd.permute(1, 2, 0, 3).unbind(0))

    def _rows(self, layer: int, blocks: Sequence[BlockPosition]) -> Iterator[tuple[slice, Tensor]]:
        """The slab rows of blocks, contiguous ones joined, and which of the blocks' tokens they are."""
        runs: list[BlockPosition] = []
        for block in blocks:
            if runs and block[:2] == (runs[-1].slab, runs[-1].start + runs[-1].length):
                runs[-1] = runs[-1]._replace(length=runs[-1].length + block.length)
            else:
                runs.append(block)
        at = 0
        for slab, start, length in runs:
            yield slice(at, at + length), self._slabs[slab][layer, start : start + length]
            at += length

    def snapshot(self) -> tuple[int, tuple[Tensor, ...], int]:
        """The current blocks, for `restore`."""
        return len(self._blocks), tuple(self._means), self._means_start

    def restore(self, snapshot: tuple[int, tuple[Tensor, ...], int]) -> None:
        """Forget the blocks after `snapshot`; what the cap has dropped since is not brought back."""
        count, means, self._means_start = snapshot
        del self._blocks[count:]
        self._means = list(means)
        self.first = min(self.first, count)
        last = self._blocks[-1].slab if self._blocks else -1
        for slab in [number for number in self._slabs if number > last]:
            self._drop(slab)
        self._trim_means()

    def close(self) -> None:
        """Release memory and files."""
        for slab in list(self._slabs):
            self._drop(slab)
        self._blocks, self._means, self._means_start, self.first = [], [], 0, 0
        if self._folder is not None:
            self._cleanup()

    def _make_slab(self, number: int, tokens: int, oldest_needed: int) -> None:
        if self._cap_tokens is not None:
            have = sum(slab.shape[1] for slab in self._slabs.values())
            while have + tokens > self._cap_tokens:
                oldest = min(self._slabs, default=oldest_needed)
                if oldest >= oldest_needed:
                    raise StcError(
                        f"archive_cap_gib allows {self._cap_tokens} tokens, fewer than one call adds; "
                        "raise it or lower prefill_frames"
                    )
                have -= self._slabs[oldest].shape[1]
                self._forget(oldest)
        shape = (self._shape[0], tokens, *self._shape[1:])
        if self._folder is None:
            pinned = self._copies is not None
            self._slabs[number] = torch.empty(shape, dtype=self._dtype, pin_memory=pinned)
            return
        path = self._folder / f"slab-{number}"
        size = tokens * self.token_nbytes
        try:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise StcError(
                f"archive_dir={str(self._folder.parent)!r}: no room for {size / 2**20:.0f} MiB more "
                f"({error.strerror}); set archive_cap_gib"
            ) from error
        raw = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
        self._slabs[number] = raw.view(self._dtype).view(shape)

    def _forget(self, number: int) -> None:
        if self.first == 0:
            logger.warning("the archive is at its cap: the oldest frames of the stream are being forgotten")
        self._drop(number)
        while self.first < len(self._blocks) and self._blocks[self.first].slab <= number:
            self.first += 1
        self._trim_means()

    def _trim_means(self) -> None:
        while self._means and self._means_start + self._means[0].shape[1] <= self.first:
            self._means_start += self._means.pop(0).shape[1]

    def _drop(self, number: int) -> None:
        if self._copies is not None:
            self._copies.synchronize()
        del self._slabs[number]
        if self._folder is not None:
            (self._folder / f"slab-{number}").unlink(missing_ok=True)
