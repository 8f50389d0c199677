"""How much memory a run takes, in bytes: its weights, gradients, moments and one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from recap.batch import Batch

# Sizes of the stand-ins for a parameter: a state of the same shape has both, one per row the first.
_ROWS, _COLUMNS = 3, 5


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all elements, each in its own type; storage that is shared counts once."""
    distinct = {(t.data_ptr(), t.shape, t.dtype): t.numel() * t.element_size() for t in tensors}
    return sum(distinct.values())


def weight_bytes(model: nn.Module) -> int:
    """Parameters and buffers."""
    return tensor_bytes([*model.parameters(), *model.buffers()])


def gradient_bytes(model: nn.Module) -> int:
    """One number of its own type for each that is trained; dense, also where few rows are read."""
    return tensor_bytes(p for p in model.parameters() if p.requires_grad)


def state_bytes(build: Callable[..., torch.optim.Optimizer], parameters: Mapping[str, Any]) -> int:
    """What the optimizer holds after its first step, without making it.

    The optimizer is built over small stand-ins and makes a step; each of its states is then taken
    for one of the whole shape, of the rows, of the columns, or of no size that depends on them.

    Args:
        build: called with parameters by kind, as the section ``optimizer`` is.
        parameters: what ``HeavyRanker.parameters_by_kind`` returns.
    """
    stand_ins: dict[Tensor, Tensor] = {}
    optimizer = build(**{kind: _small(held, stand_ins) for kind, held in parameters.items()})
    for small in stand_ins:
        small.grad = torch.zeros_like(small)
    optimizer.step()
    total = 0
    for small, state in optimizer.state.items():
        whole = stand_ins[small]
        sizes = dict(zip(small.shape, whole.shape, strict=True))
        for held in state.values():
            if isinstance(held, Tensor):
                elements = math.prod(sizes.get(size, size) for size in held.shape)
                total += elements * held.element_size()
    return total


def _small(held: Any, stand_ins: dict[Tensor, Tensor]) -> Any:
    """``held`` with every parameter replaced by a small one of as many dimensions."""
    if isinstance(held, Mapping):
        return {name: _small(value, stand_ins) for name, value in held.items()}
    if not isinstance(held, Tensor):
        return held
    shape = [_ROWS, _COLUMNS, *held.shape[2:]][: held.ndim]
    small = nn.Parameter(torch.zeros(shape, dtype=held.dtype, device=held.device))
    stand_ins[small] = held
    return small


def activation_bytes(model: nn.Module, loss: nn.Module, batch: Batch) -> int:
    """What one forward pass over ``batch`` keeps for the backward pass, beside the weights.

    Raises whatever the model raises on the batch. Running statistics of the model change.
    """
    there = [*model.parameters(), *model.buffers(), *batch.tensors()]
    known = {tensor.untyped_storage().data_ptr() for tensor in there}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        # what is kept lives as long as the total does, so that no address is given out twice
        total, _ = loss(model(batch), batch.labels, batch.weights)
    del total
    return sum(kept.values())
