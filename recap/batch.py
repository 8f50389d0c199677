"""A batch of impressions as named tensors.

Shape legend, used everywhere: B examples, T tasks, C continuous, N binary, D width of a layer or
embedding, V ids in all bags of a feature together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bag:
    """The ids of one sparse feature: row b holds ``slots[offsets[b]:offsets[b + 1]]``.

    ``one_each`` is set where every row is known to hold exactly one id, row b ``slots[b]``: a
    lookup needs no pooling then. It is known on the host, so that nobody asks the device for it.
    """

    slots: Tensor  # [V] int64
    offsets: Tensor  # [B + 1] int64
    one_each: bool = False


@dataclass(frozen=True)
class Batch:
    """Inputs by name and, per task of ``tasks``, labels and the examples' weights in the loss."""

    dense: Mapping[str, Tensor]  # name → [B, width], the schema's dtype
    sparse: Mapping[str, Bag]
    tasks: tuple[str, ...]
    labels: Tensor  # [B, T] float32, columns in the order of tasks
    weights: Tensor | None = None  # [B, T] float32; None is a weight of 1 for every example

    def __len__(self) -> int:
        return self.labels.shape[0]

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of the batch."""
        yield from self.dense.values()
        for bag in self.sparse.values():
            yield bag.slots
            yield bag.offsets
        yield self.labels
        if self.weights is not None:
            yield self.weights

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The batch on ``device``; copies only what is elsewhere."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, whose copies to a GPU run beside the computation."""
        return self._map(Tensor.pin_memory)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keeps the tensors' memory from being reused before ``stream`` is done with them."""
        for tensor in self.tensors():
            tensor.record_stream(stream)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            dense={name: function(tensor) for name, tensor in self.dense.items()},
            sparse={
                name: Bag(function(bag.slots), function(bag.offsets), bag.one_each)
                for name, bag in self.sparse.items()
            },
            labels=function(self.labels),
            weights=None if self.weights is None else function(self.weights),
        )
