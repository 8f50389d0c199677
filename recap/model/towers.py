"""All towers of a ranker at once: towers of one shape are computed side by side."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recap.model import batch_norm
from recap.model.linear import Linear, side_by_side, writes_in_place
from recap.model.mlp import MLP


class Towers(nn.ModuleDict):
    """Towers by the module names of their tasks: [B, D] to a logit each, [B, T].

    MLPs whose layers are the same but for their dropout are computed together: the first layer is
    one pass over the rows that all of them read, each further layer one batched product. Their
    draws are those of one tower after the other.
    """

    def forward(self, shared: Tensor) -> Tensor:
        """The logits, columns in the order of the towers."""
        together: dict[Hashable, list[int]] = {}
        towers = cast("list[MLP]", list(self.values()))
        for number, tower in enumerate(towers):
            together.setdefault(_shape(tower) or number, []).append(number)
        if len(together) == 1 and len(towers) > 1:
            return _side_by_side(towers, shared)
        logits: list[Tensor] = [shared] * len(towers)
        for numbers in together.values():
            alike = [towers[number] for number in numbers]
            found = _side_by_side(alike, shared) if len(alike) > 1 else alike[0](shared)
            for number, logit in zip(numbers, found.split(1, dim=1), strict=True):
                logits[number] = logit
        return torch.cat(logits, dim=1)


def _shape(tower: nn.Module) -> Hashable | None:
    """Equal for towers that can be computed side by side, None for one that cannot."""
    if type(tower) is not MLP:
        return None
    return tuple(str(layer) for layer in tower.layers if not isinstance(layer, nn.Dropout))


def _side_by_side(towers: Sequence[MLP], shared: Tensor) -> Tensor:
    """The towers' outputs [B, T · N], those of each behind each other."""
    drawn = _dropouts(towers, shared)
    rows, depth = shared, 0
    kept = [[layer for layer in t.layers if not isinstance(layer, nn.Dropout)] for t in towers]
    for layers in zip(*kept, strict=True):
        if isinstance(layers[0], Linear):
            rows = side_by_side(rows, layers) if depth == 0 else _each_its_own(rows, layers)
            depth += 1
        elif isinstance(layers[0], batch_norm.BatchNorm1d):
            rows = batch_norm.side_by_side(rows, layers)
        else:
            rows = _dropped_relu(rows, drawn.get(depth, {}), len(towers))
    return rows


def _each_its_own(rows: Tensor, layers: Sequence[Linear]) -> Tensor:
    """Outputs [B, T · N] of T linear layers, each of its own D columns of the rows [B, T · D]."""
    each = rows.unflatten(1, (len(layers), -1)).transpose(0, 1)
    weights = torch.stack([layer.weight.t() for layer in layers])
    biases = torch.stack([layer.bias for layer in layers]).unsqueeze(1)
    return torch.baddbmm(biases, each, weights).transpose(0, 1).flatten(1)


def _dropped_relu(rows: Tensor, drawn: Mapping[int, Tensor], num_towers: int) -> Tensor:
    """relu(rows), [B, T · N]; the columns of tower t times ``drawn[t]`` [B, N], if it is there."""
    if not drawn:
        return rows.relu()
    width = rows.shape[1] // num_towers
    if writes_in_place(rows):
        columns = [slice(number * width, (number + 1) * width) for number in drawn]
        return _DroppedRelu.apply(rows, columns, *drawn.values())
    ones = rows.new_ones(len(rows), width)
    factors = torch.cat([drawn.get(number, ones) for number in range(num_towers)], dim=1)
    return rows.relu() * factors.to(rows.dtype)


class _DroppedRelu(torch.autograd.Function):
    """relu(rows), some of its columns multiplied by what a dropout has drawn for them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Sequence[slice], *drawn: Tensor) -> Tensor:
        out = rows.relu()
        _multiply(out, columns, drawn)
        ctx.columns = columns
        ctx.save_for_backward(out, *drawn)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        out, *drawn = ctx.saved_tensors
        of_rows = torch.ops.aten.threshold_backward(grads[0], out, 0)
        _multiply(of_rows, ctx.columns, drawn)
        return of_rows, None, *[None for _ in drawn]


def _multiply(rows: Tensor, columns: Sequence[slice], factors: Sequence[Tensor]) -> None:
    for each, factor in zip(columns, factors, strict=True):
        rows[:, each].mul_(factor)


def _dropouts(towers: Sequence[MLP], shared: Tensor) -> dict[int, dict[int, Tensor]]:
    """What hidden units [B, N] are multiplied by: those behind the n-th linear layer, of tower t.

    Drawn tower after tower, as towers by themselves would.
    """
    drawn: dict[int, dict[int, Tensor]] = {}
    for number, tower in enumerate(towers):
        depth, width = 0, 0
        for layer in tower.layers:
            if isinstance(layer, Linear):
                depth, width = depth + 1, layer.out_features
            elif isinstance(layer, nn.Dropout) and layer.training:
                drawn.setdefault(depth, {})[number] = layer(shared.new_ones(len(shared), width))
    return drawn
