"""All towers of a ranker at once: towers of one shape are computed side by side."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from recap.model import batch_norm
from recap.model.linear import Linear, side_by_side
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
    dropouts = _dropouts(towers, shared)
    rows, depth = shared, 0
    kept = [[layer for layer in t.layers if not isinstance(layer, nn.Dropout)] for t in towers]
    for layers in zip(*kept, strict=True):
        if isinstance(layers[0], Linear):
            rows = side_by_side(rows, layers) if depth == 0 else _each_its_own(rows, layers)
            depth += 1
        elif isinstance(layers[0], batch_norm.BatchNorm1d):
            rows = batch_norm.side_by_side(rows, layers)
        else:
            rows = layers[0](rows)
            if depth in dropouts:
                rows = rows * dropouts[depth].to(rows.dtype)
    return rows


def _each_its_own(rows: Tensor, layers: Sequence[Linear]) -> Tensor:
    """Outputs [B, T · N] of T linear layers, each of its own D columns of the rows [B, T · D]."""
    each = rows.unflatten(1, (len(layers), -1)).transpose(0, 1)
    weights = torch.stack([layer.weight.t() for layer in layers])
    biases = torch.stack([layer.bias for layer in layers]).unsqueeze(1)
    return torch.baddbmm(biases, each, weights).transpose(0, 1).flatten(1)


def _dropouts(towers: Sequence[MLP], shared: Tensor) -> dict[int, Tensor]:
    """What the hidden units [B, T · N] behind the n-th linear layer are multiplied by, by n.

    Drawn tower after tower, as towers by themselves would.
    """
    drawn: dict[int, dict[int, Tensor]] = {}
    widths: dict[int, int] = {}
    for number, tower in enumerate(towers):
        depth = 0
        for layer in tower.layers:
            if isinstance(layer, Linear):
                depth += 1
                widths[depth] = layer.out_features
            elif isinstance(layer, nn.Dropout) and layer.training:
                ones = shared.new_ones(len(shared), widths[depth])
                drawn.setdefault(depth, {})[number] = layer(ones)
    return {
        depth: torch.cat(
            [
                found[number] if number in found else shared.new_ones(len(shared), widths[depth])
                for number in range(len(towers))
            ],
            dim=1,
        )
        for depth, found in drawn.items()
    }
