"""Pooled vectors of sparse ids: from tables that are whole, and from those split over ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

from recap.batch import Bag


def from_whole(weights: Sequence[Tensor], bags: Iterable[Bag], poolings: Sequence[str]) -> Tensor:
    """The vectors [B, sum of widths] of bags, each pooled to the "sum" or "mean" of its weight's.

    As a torchrec collection on one device has them, whose Python and whose gradients of bags cost
    several times the lookups themselves where tables are small and a row has one id.
    """
    found = [
        _rows(weight, bag.slots)
        if bag.one_each
        else embedding_bag(bag.slots, weight, bag.offsets, mode=pooling, include_last_offset=True)
        for weight, bag, pooling in zip(weights, bags, poolings, strict=True)
    ]
    return torch.cat(found, dim=1)


def _rows(weight: Tensor, slots: Tensor) -> Tensor:
    """[B, D]; a selection's gradient takes a third of an embedding's time where tables are small.

    But on a GPU it is added up in another order each time.
    """
    return weight.index_select(0, slots) if weight.is_cpu else embedding(slots, weight)


def from_split(collection: nn.Module, bags: Mapping[str, Bag], poolings: Sequence[str]) -> Tensor:
    """The same from a torchrec collection of sums, whose features ``bags`` names.

    All ranks that the tables are split over must call this together.
    """
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    trains = torch.is_grad_enabled()
    # torchrec takes no batch without rows, which a rank's part may be: an empty bag stands in
    stands_in = all(len(bag.offsets) == 1 for bag in bags.values())
    lengths = [
        bag.offsets.new_zeros(1) if stands_in else bag.offsets.diff() for bag in bags.values()
    ]
    # inference mode lacks the lookups of fbgemm that update tables in backward
    with torch.inference_mode(False), torch.set_grad_enabled(trains):
        # length_per_key is known here; torchrec would sum it up and wait for the device
        found = collection(
            KeyedJaggedTensor(
                keys=[*bags],
                values=torch.cat([bag.slots for bag in bags.values()]),
                lengths=torch.cat(lengths),
                length_per_key=[len(bag.slots) for bag in bags.values()],
            )
        )
        if "mean" not in poolings and found.keys() == [
            *bags
        ]:  # tables that are split come in another order
            return found.values()[:0] if stands_in else found.values()
        # torchrec's own means are wrong where some tables are split by rows and others are not
        pooled = torch.cat(
            [
                found[key] / length.clamp(min=1).unsqueeze(1) if pooling == "mean" else found[key]
                for key, length, pooling in zip(bags, lengths, poolings, strict=True)
            ],
            dim=1,
        )
        return pooled[:0] if stands_in else pooled
