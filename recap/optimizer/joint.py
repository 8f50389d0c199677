"""Several optimizers as one: another algorithm for embedding tables than for the dense part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class JointOptimizer(torch.optim.Optimizer):
    """One optimizer whose step is a step of each of ``parts``, over their groups in that order.

    It is what a single optimizer is to everything that holds one: rates written into its
    ``param_groups`` are the parts', its ``state`` holds every parameter's moments, ``state_dict``
    and ``load_state_dict`` carry all of them.

    Raises:
        ValueError: a parameter is in two parts; a group is added, which would be in none of them.
    """

    parts: Sequence[torch.optim.Optimizer] = ()

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], defaults={})
        self.parts = tuple(parts)
        self._share_state()

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update of every part; returns what ``closure``, called once, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuses: the group would belong to no algorithm."""
        if self.parts:
            raise ValueError("parameter groups belong to the optimizers that are joined; give all")
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # load_state_dict ends here with new groups and a new state: each part takes its own
        super().__setstate__(state)
        groups = iter(self.param_groups)
        for part in self.parts:
            own = [next(groups) for _ in part.param_groups]
            held: defaultdict[Tensor, Any] = defaultdict(dict)
            held |= {p: self.state[p] for g in own for p in g["params"] if p in self.state}
            part.__setstate__({"state": held, "param_groups": own})
        self._share_state()

    def _share_state(self) -> None:
        """Makes the moments that a part holds, now or from its first step on, those of the whole.

        An algorithm goes over the moments of others only in ``__setstate__``, where it would miss
        its own names in them.
        """
        for part in self.parts:
            self.state.update(part.state)
        for part in self.parts:
            part.state = self.state
