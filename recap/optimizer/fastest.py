"""The fastest form of an algorithm of torch.optim, where its settings leave the form open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

FUSED_ON = ("cpu", "cuda")  # where torch has fused forms; of Adam, AdamW, SGD and Adagrad


def fastest(
    build: Callable[[list[dict[str, Any]]], torch.optim.Optimizer], groups: list[dict[str, Any]]
) -> torch.optim.Optimizer:
    """The optimizer that ``build`` makes of ``groups``: fused where torch can, as one kernel.

    Settings that say ``fused``, ``foreach`` or ``differentiable`` are kept to. What has no fused
    form is as torch chooses: foreach on GPUs, parameter by parameter on the CPU, where foreach
    takes as long and room for another copy of all parameters.
    """
    optimizer = build(groups)
    said = optimizer.defaults
    parameters = [parameter for group in groups for parameter in group["params"]]
    if (
        said.get("fused", False) is None
        and not said.get("foreach")
        and not said.get("differentiable")
        and all(p.is_floating_point() and p.device.type in FUSED_ON for p in parameters)
    ):
        # made again, and not changed: Adagrad lays out its moments as it is made
        return build([{**group, "fused": True} for group in groups])
    return optimizer
