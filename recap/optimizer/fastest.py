"""The fastest form of an algorithm of torch.optim, where its settings leave the form open."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

FUSED_ON = ("cpu", "cuda")  # where torch has fused forms; of Adam, AdamW, SGD and Adagrad


def fastest(
    build: Callable[..., torch.optim.Optimizer], groups: list[dict[str, Any]]
) -> torch.optim.Optimizer:
    """The optimizer that ``build`` makes over ``groups``: fused where torch can, as one kernel.

    A partial of a torch.optim class that gives ``fused``, ``foreach`` or ``differentiable`` keeps
    to it, and any other callable to itself. Without a fused form the choice is torch's: foreach on
    GPUs, parameter by parameter on the CPU.
    """
    open_to_choice = (
        isinstance(build, functools.partial)
        and inspect.isclass(build.func)
        and "fused" in inspect.signature(build.func).parameters
        and not any(build.keywords.get(key) for key in ("foreach", "differentiable"))
        and build.keywords.get("fused") is None
    )
    parameters = [parameter for group in groups for parameter in group["params"]]
    if open_to_choice and all(
        p.is_floating_point() and p.device.type in FUSED_ON for p in parameters
    ):
        return build(groups, fused=True)
    return build(groups)
