"""Losses and weights that stop being numbers: noticed before they are saved, and told precisely."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from hydra.errors import CompactHydraException
from torch import Tensor

from recap.checkpoint import Checkpoints
from recap.distributed import Ranks


class Diverged(CompactHydraException, ArithmeticError):
    """A loss or a weight that became nan or infinite; names it, the steps, the last checkpoint."""

    outcome = "not finite"


class LossWindow:
    """Mean losses since the last report; summed on the device, so that no step waits for it."""

    def __init__(self, tasks: tuple[str, ...], step: int, ranks: Ranks) -> None:
        self._ranks = ranks
        self._names = ["loss", *(f"loss/{task}" for task in tasks)]
        self._first_step = step
        self._parts: list[Tensor] = []

    def add(self, losses: Tensor) -> None:
        """Counts in a batch's [1 + T] losses."""
        self._parts.append(losses)

    @property
    def is_open(self) -> bool:
        """Whether a batch was counted in since the last report."""
        return bool(self._parts)

    def close(
        self, step: int, rates: dict[str, float], checkpoints: Checkpoints
    ) -> dict[str, float]:
        """The means by name, over all ranks; the next window begins.

        Raises:
            Diverged: one of them is no finite number.
        """
        means = self._ranks.mean(torch.stack(self._parts).mean(0)).tolist()
        losses = dict(zip(self._names, means, strict=True))
        for name, value in losses.items():
            if name != "loss" and not math.isfinite(value):
                task = name.removeprefix("loss/")
                raise Diverged(
                    f"{name} became {value} between steps {self._first_step} and {step}; "
                    f"lr/{task} was {rates[task]:.1e}; {_last_good(checkpoints)}"
                )
        self._first_step, self._parts = step, []
        return losses


def refuse_divergence(
    optimizer: torch.optim.Optimizer, step: int, checkpoints: Checkpoints, ranks: Ranks
) -> None:
    """The last update may have ruined the weights behind a loss that was still finite.

    Raises:
        Diverged: on all ranks, also where only one of them holds the weights.
    """
    groups = optimizer.param_groups
    ruined = (n for n, group in enumerate(groups) if not _finite(group["params"]))
    if number := ranks.most(next(ruined, -1) + 1):
        name, rate = groups[number - 1]["name"], groups[number - 1]["lr"]
        raise Diverged(
            f"weights of {name} became nan or infinite by step {step}; "
            f"lr/{name} was {rate:.1e}; {_last_good(checkpoints)}"
        )


def _finite(parameters: Sequence[Tensor]) -> bool:
    """Whether they all are, by their sums first: a twentieth of the cost, and one wait."""
    if torch.stack([parameter.detach().sum() for parameter in parameters]).isfinite().all():
        return True
    # a sum of finite numbers may be too large for its type
    return all(bool(parameter.isfinite().all()) for parameter in parameters)


def _last_good(checkpoints: Checkpoints) -> str:
    return f"last good checkpoint: {checkpoints.last_good()}"
