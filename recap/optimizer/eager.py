"""``torch.optim.Adam`` without the import of torch's compiler, and without a kernel per group."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import optim

_LABELS = ("params", "name", "learning_rate")  # of a group; all else says how it is updated
_step = inspect.unwrap(optim.Adam.step)


class Adam(optim.Adam):
    """``torch.optim.Adam``: the same settings, state and numbers.

    Groups that are updated alike are updated as one. A group for every tower and table has its own
    rate; as long as rates are equal, a kernel for each of them takes longer than a small model's
    arithmetic does.

    torch wraps the other methods for the case that torch.compile traces them. The wrappers import
    the compiler as soon as an optimizer is made (torch._dynamo and, with it, sympy and pandas: as
    much again as torch itself), also in a run that compiles nothing. A compiled ranker is not
    concerned: its updates are not traced.
    """

    __module__ = optim.Adam.__module__  # what checkpoints tell of it: the moments are the same

    add_param_group = inspect.unwrap(optim.Adam.add_param_group)
    load_state_dict = inspect.unwrap(optim.Adam.load_state_dict)
    state_dict = inspect.unwrap(optim.Adam.state_dict)
    zero_grad = inspect.unwrap(optim.Adam.zero_grad)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update; returns what ``closure`` returns."""
        groups = self.param_groups
        self.param_groups = _as_few(groups)
        try:
            return _step(self, closure)
        finally:
            self.param_groups = groups


def _as_few(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups, those of equal settings as one; a tensor's rate belongs to its own group."""
    merged: list[dict[str, Any]] = []
    for group in groups:
        settings = {name: value for name, value in group.items() if name not in _LABELS}
        for other in merged:
            if not group["capturable"] and settings.items() <= other.items():
                other["params"] = [*other["params"], *group["params"]]
                break
        else:
            merged.append({**settings, "params": group["params"]})
    return merged
