"""Parameter groups by name, and the one place where learning rates are written into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import Parameter


def named_groups(
    *,
    towers: Mapping[str, Mapping[str, Parameter]],
    backbone: Mapping[str, Parameter],
    tables: Mapping[str, Mapping[str, Parameter]],
    curve: Callable[[str, str], Callable[[int], float]],
    table_settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer, each with ``name``, ``learning_rate`` and ``lr``.

    Biases, norms and embedding tables form groups of the same name with ``weight_decay`` 0; tables
    have the algorithm's ``table_settings`` besides.

    Raises:
        ValueError: a group catches nothing, or a parameter is in two groups.
    """
    rows = [(name, "tower", parameters) for name, parameters in towers.items()]
    rows += [("backbone", "backbone", backbone)] if backbone else []
    rows += [(name, "table", parameters) for name, parameters in tables.items()]
    groups: list[dict[str, Any]] = []
    owner: dict[Parameter, str] = {}
    for name, kind, named in rows:
        trainable = {key: parameter for key, parameter in named.items() if parameter.requires_grad}
        if not trainable:
            raise ValueError(f"parameter group {name} catches no trainable parameter")
        for key, parameter in trainable.items():
            if parameter in owner:
                raise ValueError(f"parameter {key} is in the groups {owner[parameter]} and {name}")
            owner[parameter] = name
        decayed = [p for p in trainable.values() if p.ndim > 1 and kind != "table"]
        exempt = [p for p in trainable.values() if p.ndim <= 1 or kind == "table"]
        rate = curve(name, kind)
        common = {"name": name, "learning_rate": rate, "lr": rate(0)}
        if decayed:
            groups.append({"params": decayed, **common})
        if exempt:
            own = table_settings if kind == "table" else {}
            groups.append({"params": exempt, **common, "weight_decay": 0.0, **own})
    return groups


def set_learning_rates(optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
    """Writes every group's rate at ``step`` into the optimizer; returns them by group name."""
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = rates[group["name"]] = group["learning_rate"](step)
    return rates
