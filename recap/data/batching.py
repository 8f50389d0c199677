"""Rows as batches: tensors over their arrays, or copied straight to page-locked memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from recap.batch import Bag, Batch
from recap.data.room import Room
from recap.data.rows import BFLOAT16, Bags, Rows, concatenated_offsets

Together = Callable[[Sequence[np.ndarray]], Tensor]  # arrays, one after the other, as a tensor


def batch_of(parts: Sequence[Rows], room: Room) -> Batch:
    """The rows of ``parts``, one after the other; of a single part without a copy."""
    return _batch([Rows.concatenate(parts, room)], lambda arrays: _tensor(arrays[0]))


def pinned_batch_of(parts: Sequence[Rows]) -> Batch:
    """The rows of ``parts`` in page-locked memory, each copied once.

    Torch's own memory, not a ``Room``'s: it is not used again before copies to a GPU that run
    beside the computation have ended, also if nobody holds the batch any more.
    """
    return _batch(parts, _pinned)


def _batch(parts: Sequence[Rows], together: Together) -> Batch:
    first = parts[0]
    weights = [part.weights for part in parts if part.weights is not None]
    return Batch(
        dense={name: together([part.dense[name] for part in parts]) for name in first.dense},
        sparse={
            name: _bag([part.sparse[name] for part in parts], together) for name in first.sparse
        },
        tasks=first.tasks,
        labels=together([part.labels for part in parts]),
        weights=together(weights) if weights else None,
    )


def _bag(parts: Sequence[Bags], together: Together) -> Bag:
    slots, offsets = [s for s, _ in parts], concatenated_offsets([o for _, o in parts])
    num_slots = sum(map(len, slots))
    one_each = num_slots == len(offsets) - 1 and bool((np.diff(offsets) == 1).all())
    return Bag(together(slots), together([offsets]), one_each)


def _tensor(array: np.ndarray) -> Tensor:
    array = np.ascontiguousarray(array)
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _pinned(arrays: Sequence[np.ndarray]) -> Tensor:
    first = arrays[0]
    like = _tensor(np.empty(0, first.dtype))
    shape = (sum(map(len, arrays)), *first.shape[1:])
    tensor = _page_locked(shape, like.dtype)
    bits = tensor.view(torch.int16) if like.dtype == torch.bfloat16 else tensor
    np.concatenate(arrays, out=bits.numpy().view(first.dtype))
    return tensor


def _page_locked(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, pin_memory=True)
