"""Moments of a weight that is split over ranks: shards of a whole, as the weight's own are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensor, ShardedTensorBase
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata, TensorProperties
from torch.distributed._shard.sharded_tensor.shard import Shard
from torch.distributed._shard.sharding_spec.api import EnumerableShardingSpec


def whole_shape(tensor: Tensor) -> list[int]:
    """Of all parts together; a ShardedTensor's own attribute is deprecated, and warns."""
    return list(tensor.metadata().size if isinstance(tensor, ShardedTensor) else tensor.shape)


def data_type(tensor: Tensor) -> torch.dtype:
    """Of a tensor or its parts."""
    if isinstance(tensor, ShardedTensor):
        return tensor.metadata().tensor_properties.dtype
    return tensor.dtype


def as_sharded(moment: Tensor, weight: Tensor | None) -> Tensor:
    """This rank's shards of a moment, on the same memory; the moment itself of a whole weight.

    ``weight`` is the state dict's. Where it is a ShardedTensor [N, D], an optimizer works on this
    rank's parts of it, which lie behind each other, and so do those of the moment: [n, D], or [n]
    with a number for every row. As a whole that is [N, D] or [N]; where rows are split, too, every
    part of a row has its own number, [N, parts]. A moment of another shape is no shard.
    """
    if not isinstance(weight, ShardedTensor) or not moment.is_floating_point():
        return moment
    whole = list(weight.metadata().size)
    places = [_copy(place) for place in weight.metadata().shards_metadata]
    own = [_copy(shard.metadata) for shard in weight.local_shards()]
    if moment.ndim == 1:
        columns = sorted({place.shard_offsets[1] for place in places})
        places = [_of_rows(place, columns) for place in places]
        own = [_of_rows(place, columns) for place in own]
        whole = whole[:1] if len(columns) == 1 else [whole[0], len(columns)]
    numbers = [torch.Size(place.shard_sizes).numel() for place in own]
    if moment.ndim == 0 or moment.numel() != sum(numbers):
        return moment
    parts = moment.view(-1).split(numbers)
    shards = [Shard(t.view(p.shard_sizes), p) for t, p in zip(parts, own, strict=True)]
    # ranks know of each other's shards already, so nothing need be agreed on
    made = ShardedTensorBase._init_from_local_shards_and_global_metadata(
        shards,
        ShardedTensorMetadata(places, torch.Size(whole), TensorProperties(dtype=moment.dtype)),
        sharding_spec=EnumerableShardingSpec(places),
    )
    made._process_group = weight._process_group  # type: ignore[attr-defined]
    return made


def local_shape(entry: Sequence[int], parameter: Tensor, weight: Tensor) -> torch.Size | None:
    """The shape of what a rank has of a moment whose whole has the shape ``entry``.

    ``parameter`` is what the rank has of ``weight``; None where that is nothing.
    """
    shape = torch.Size(entry)
    if not isinstance(weight, ShardedTensor):
        return shape
    if not weight.local_shards():
        return None
    if shape == weight.metadata().size:
        return parameter.shape
    if len(shape) and shape[0] == weight.metadata().size[0]:
        return torch.Size([sum(shard.metadata.shard_sizes[0] for shard in weight.local_shards())])
    return shape


def _of_rows(place: ShardMetadata, columns: Sequence[int]) -> ShardMetadata:
    """Where the numbers for the rows of a shard lie, ``columns`` being where parts begin."""
    row, column = place.shard_offsets
    number = place.shard_sizes[0]
    if len(columns) == 1:
        return ShardMetadata([row], [number], place.placement)
    return ShardMetadata([row, columns.index(column)], [number, 1], place.placement)


def _copy(place: ShardMetadata) -> ShardMetadata:
    return ShardMetadata(list(place.shard_offsets), list(place.shard_sizes), place.placement)
