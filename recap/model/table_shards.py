"""What the ranks hold of embedding tables that are split: norms and gradients over all of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor


def table_norms(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The L2 norm of a table's weight and the mean L2 norm of its rows, [] float32 each.

    ``weight`` is [slots, embedding_dim], or its parts on all ranks, which then must all call this.
    """
    if not isinstance(weight, ShardedTensor):
        rows = torch.linalg.vector_norm(weight.detach(), dim=1)
        return torch.linalg.vector_norm(rows), rows.mean()
    metadata = weight.metadata()
    num_rows, width = metadata.size
    shards = [(s.metadata, s.tensor.detach()) for s in weight.local_shards()]
    if all(part.shard_sizes[1] == width for part in metadata.shards_metadata):
        sums = torch.zeros(2, device=_device(weight))
        for _, part in shards:
            rows = torch.linalg.vector_norm(part, dim=1)
            sums += torch.stack([rows.square().sum(), rows.sum()])
        dist.all_reduce(sums, group=_group(weight))
        return sums[0].sqrt(), sums[1] / num_rows
    squares = torch.zeros(num_rows, device=_device(weight))  # a row has parts on several ranks
    for place, part in shards:
        first, number = place.shard_offsets[0], place.shard_sizes[0]
        squares[first : first + number] += part.square().sum(dim=1)
    dist.all_reduce(squares, group=_group(weight))
    return squares.sum().sqrt(), squares.sqrt().mean()


def clip_gradients(
    replicated: Iterable[nn.Parameter], split: Iterable[nn.Parameter], limit: float
) -> Tensor:
    """Scales gradients so that their norm is at most ``limit``; returns the norm before, [].

    Args:
        replicated: parameters whose gradients are the same on all ranks.
        split: parts of tables that this rank alone holds; where there are ranks, all call this.
        limit: above 0.
    """
    replicated, split = list(replicated), list(split)
    norm = _norm(replicated)
    if dist.is_initialized():
        parts = _norm(split).to(norm.device).square()
        dist.all_reduce(parts)
        norm = (norm.square() + parts).sqrt()
    nn.utils.clip_grads_with_norm_([*replicated, *split], limit, norm)
    return norm


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _device(weight: ShardedTensor) -> torch.device:
    """Where this rank's parts lie, or would lie."""
    placement = weight.metadata().shards_metadata[0].placement
    assert placement is not None
    kind = placement.device().type
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)


def _group(weight: ShardedTensor) -> dist.ProcessGroup | None:
    return weight._process_group
