"""Moments of a weight that is split over ranks, split in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata
from torch.distributed._shard.sharding_spec import ShardMetadata


def laid_out(moment: Tensor, weight: Tensor) -> Tensor:
    """A moment of this rank's parts of ``weight`` as a part of the whole moment.

    It has the shape of the parts together, or a number for each of their rows. Anything else, and
    moments of weights that every rank has, are left as they are.
    """
    if not isinstance(weight, ShardedTensor):
        return moment
    whole, own = weight.metadata(), [shard.metadata for shard in weight.local_shards()]
    properties = replace(whole.tensor_properties, dtype=moment.dtype, requires_grad=False)
    rowwise = moment.ndim == 1
    parts = _of_rows(own) if rowwise else own
    sizes = [torch.Size(part.shard_sizes).numel() for part in parts]
    if moment.ndim not in (1, len(whole.size)) or moment.numel() != sum(sizes):
        return moment
    starts = [0, *accumulate(sizes)]
    flat = moment.detach().reshape(-1)
    shards = [
        Shard(flat[start : start + size].view(part.shard_sizes), part)
        for part, start, size in zip(parts, starts, sizes, strict=False)
    ]
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        shards,
        ShardedTensorMetadata(
            shards_metadata=_of_rows(whole.shards_metadata) if rowwise else whole.shards_metadata,
            size=whole.size[:1] if rowwise else whole.size,
            tensor_properties=properties,
        ),
        process_group=weight._process_group,
    )


def local_shape(shape: Sequence[int], parameter: Tensor, weight: Tensor) -> torch.Size | None:
    """What a saved moment of ``shape`` has on this rank, which has ``parameter`` of ``weight``.

    None where the rank has no part of the weight.
    """
    if not isinstance(weight, ShardedTensor):
        return torch.Size(shape)
    if not weight.local_shards():
        return None
    whole = weight.metadata().size
    for rank in (len(whole), 1):
        if torch.Size(shape) == whole[:rank]:
            return parameter.shape[:rank]
    return torch.Size(shape)


def _of_rows(parts: Sequence[ShardMetadata]) -> list[ShardMetadata]:
    """The parts of a number for each row."""
    return [
        ShardMetadata(part.shard_offsets[:1], part.shard_sizes[:1], part.placement)
        for part in parts
    ]
