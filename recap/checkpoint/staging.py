"""Staging memory: a copy of what is saved, so that training goes on while it is written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from torch import Tensor

K = TypeVar("K")

_PIECE = 1 << 22  # values; a large table is shared out over the threads, too
_THREADS = 4  # a few fill the memory's bandwidth


class Staging(Generic[K]):
    """Buffers in main memory that are used again at every save; pinned for tensors of a GPU."""

    def __init__(self) -> None:
        self.buffers: dict[K, Tensor] = {}

    def reserve(self, tensors: Mapping[K, Tensor]) -> None:
        """Makes buffers for ``tensors`` and touches them: new memory costs more than a copy."""
        kept = {key: self.buffers[key] for key in tensors if key in self.buffers}
        self.buffers = {}  # lets go of the others before more is taken
        for key, tensor in tensors.items():
            buffer = kept.get(key)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                size, pinned = tensor.shape, tensor.is_cuda
                buffer = torch.zeros(size, dtype=tensor.dtype, pin_memory=pinned)
            self.buffers[key] = buffer

    def copy(self, tensors: Mapping[K, Tensor]) -> None:
        """Copies ``tensors`` into their buffers; afterwards they may change."""
        self.reserve(tensors)
        pairs = [(self.buffers[key], tensor.detach()) for key, tensor in tensors.items()]
        for buffer, tensor in pairs:
            if tensor.is_cuda:
                buffer.copy_(tensor, non_blocking=True)
        pieces = [piece for pair in pairs if not pair[1].is_cuda for piece in _pieces(*pair)]
        threads = min(_THREADS, len(os.sched_getaffinity(0)), max(1, len(pieces)))
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda piece: piece[0].copy_(piece[1]), pieces):
                pass
        for device in {tensor.device for _, tensor in pairs if tensor.is_cuda}:
            torch.cuda.synchronize(device)


def _pieces(buffer: Tensor, tensor: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    if tensor.numel() <= _PIECE or not tensor.is_contiguous():
        yield buffer, tensor
        return
    yield from zip(buffer.view(-1).split(_PIECE), tensor.view(-1).split(_PIECE), strict=True)
