"""Parameter groups by name, and the one place where learning rates are written into them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from recap.optimizer.fused import FusedTables


def named_groups(
    *,
    towers: Mapping[str, Mapping[str, Parameter]],
    backbone: Mapping[str, Parameter],
    tables: Mapping[str, Mapping[str, Parameter]],
    embeddings: Collection[str] = (),
    curve: Callable[[str, str], Callable[[int], float]],
    table_settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer, each with ``name``, ``learning_rate`` and ``lr``.

    Biases, norms and the parameters that ``embeddings`` names form groups of the same name with
    ``weight_decay`` 0; what groups of tables say besides are ``table_settings``.

    Raises:
        ValueError: a group catches nothing, a parameter is in two groups, or a table is called as a
            tower or the backbone is.
    """
    if twice := sorted({"backbone", *towers} & set(tables)):
        raise ValueError(
            f"embedding table {', '.join(twice)}: a tower or the backbone has this name, by which "
            "rates are given and logged; rename the table"
        )
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
        rate = curve(name, kind)
        common = {"name": name, "learning_rate": rate, "lr": rate(0)}
        if kind == "table":
            groups.append({"params": [*trainable.values()], **common, **table_settings})
            continue
        exempt = {key: p for key, p in trainable.items() if p.ndim <= 1 or key in embeddings}
        if decayed := [p for key, p in trainable.items() if key not in exempt]:
            groups.append({"params": decayed, **common})
        if exempt:
            groups.append({"params": [*exempt.values()], **common, "weight_decay": 0.0})
    return groups


def set_learning_rates(optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
    """Writes every group's rate at ``step`` into the optimizer; returns them by group name.

    Where a group is ``capturable`` its rate is a tensor on the parameters' device, always the same
    one: a captured or compiled update reads the new rate there, and the host does not wait.
    """
    rates = {}
    for group in optimizer.param_groups:
        rate = rates[group["name"]] = group["learning_rate"](step)
        if not group.get("capturable"):
            group["lr"] = rate
        elif isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = torch.full((), rate, device=group["params"][0].device)
    for part in getattr(optimizer, "parts", (optimizer,)):
        if isinstance(part, FusedTables):
            part.take_rates()
    return rates
