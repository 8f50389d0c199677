"""What a ranker asks of its inputs, its backbone and its towers, and what they tell it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn


def network(module: nn.Module) -> nn.Module:
    """The module itself, which says its ``out_features``.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(getattr(module, "out_features", None), int):
        raise ValueError(
            f"{type(module).__name__} has no out_features; a module of a ranker says its width"
        )
    return module


def tower_network(tower: nn.Module) -> nn.Module:
    """The tower itself, which ends in one output.

    Raises:
        ValueError: it does not.
    """
    if out_width(network(tower)) != 1:
        raise ValueError(
            f"the tower ends in {tower.out_features} outputs and must end in 1, the logit; "
            "set the last of its layer_sizes, or those of its last MLP, to 1"
        )
    return tower


def input_layer(layer: nn.Module) -> nn.Module:
    """The input itself, which says its ``out_features`` and what of the schema it ``reads``.

    Raises:
        ValueError: it does not, or has ``embedding_dims`` of another sum than its width.
    """
    dims = getattr(network(layer), "embedding_dims", None)
    if dims is not None and sum(dims) != layer.out_features:
        raise ValueError(
            f"{type(layer).__name__} has embedding_dims={list(dims)}, which must add up to its "
            f"out_features={layer.out_features}; an input of other columns too is two inputs"
        )
    if not read_by(layer):
        raise ValueError(
            f"{type(layer).__name__} says of no input that it reads it; an input of a ranker, "
            "or a layer in it, names those of the schema that it takes from a batch as `reads`"
        )
    return layer


def out_width(module: nn.Module) -> int:
    """The ``out_features`` of a checked module."""
    width = module.out_features
    assert isinstance(width, int)
    return width


def read_by(module: nn.Module) -> set[str]:
    """What of the schema the module and the layers in it say that they read."""
    return set().union(*(getattr(layer, "reads", ()) for layer in module.modules()))


def embedded_columns(inputs: Iterable[nn.Module]) -> tuple[slice, ...]:
    """Where each embedding vector lies in the concatenated outputs of the inputs."""
    found, start = [], 0
    for layer in inputs:
        stop = start
        for dim in getattr(layer, "embedding_dims", ()):
            found.append(slice(stop, stop + dim))
            stop += dim
        start += out_width(layer)
    return tuple(found)


def start_at(rate: float, tower: nn.Module) -> None:
    """Sets the bias of a tower's last layer so that a logit of 0 becomes the logit of ``rate``.

    Raises:
        ValueError: the tower does not end in a linear layer with a bias.
    """
    last = [layer for layer in tower.modules() if next(layer.children(), None) is None][-1]
    if not isinstance(last, nn.Linear) or last.bias is None:
        raise ValueError(
            f"initial_rate={rate} is where the bias of a last linear layer starts, and the tower "
            f"ends in {type(last).__name__}; let it end in an MLP without final_layer_activation"
        )
    nn.init.constant_(last.bias, math.log(rate / (1 - rate)))
