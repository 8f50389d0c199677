"""Optimizers of embedding tables that work within the backward pass, on the rows that were read.

Gradients of a table are never kept, so that it costs its weights and moments alone. torchrec and
fbgemm do it, see ``recap.model.sharded_tables``; here are their settings, their rates and moments.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor


class FusedTables(torch.optim.Optimizer):
    """What is an optimizer to whoever holds one, for tables that are updated in backward.

    Its ``state`` are the moments themselves, under the names that torch.optim gives them. Rates
    written into its groups take effect by ``take_rates``.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], algorithm: InBackward) -> None:
        self.algorithm = algorithm
        super().__init__([dict(group) for group in groups], defaults={})
        self.state.update(self._moments())

    def take_rates(self) -> None:
        """Has the rates of the groups used by the next backward pass."""
        for group in self.param_groups:
            for parameter in group["params"]:
                for inner in parameter._in_backward_optimizers:
                    for inner_group in inner.param_groups:
                        inner_group["lr"] = group["lr"]
                    inner.zero_grad()  # hands the rate over; there are no gradients

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Does nothing: the backward pass has done it. Returns what ``closure`` returns.

        Over tables that are not split nothing updates them; their moments are made, so that
        ``recap.footprint`` can tell their size.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                if not hasattr(parameter, "_in_backward_optimizers"):
                    self.state[parameter] = self.algorithm.moments(parameter)
        return None if closure is None else closure()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # load_state_dict ends here: what it brings is copied to where fbgemm has it
        super().__setstate__(state)
        loaded, own = self.state, self._moments()
        for parameter, moments in own.items():
            for name, moment in moments.items():
                if name in loaded.get(parameter, {}):
                    moment.copy_(loaded[parameter][name].reshape(moment.shape))
        self.state = defaultdict(dict, own)

    def _moments(self) -> dict[Tensor, dict[str, Tensor]]:
        return {
            parameter: moments
            for group in self.param_groups
            for parameter in group["params"]
            if (moments := _live_moments(parameter, self.algorithm.names))
        }


@dataclass(frozen=True, kw_only=True)
class InBackward:
    """An algorithm for ``optimizer.table_algorithm``; called with groups, gives ``FusedTables``.

    Raises:
        ValueError: every number that is out of range.
    """

    kind: ClassVar[Literal["sgd", "adagrad", "rowwise_adagrad", "adam"]]
    names: ClassVar[Sequence[str]]  # of its moments, as torch.optim has them
    devices: ClassVar[Sequence[str]] = ("cpu", "cuda")  # that fbgemm has it for

    def __post_init__(self) -> None:
        faults = []
        for name, value in asdict(self).items():
            if name.startswith("beta") and not 0.0 <= value < 1.0:
                faults.append(f"{name}={value} must lie in [0, 1)")
            elif not (value >= 0.0 and math.isfinite(value)):
                faults.append(f"{name}={value} must be a finite number, 0 or more")
        if faults:
            raise ValueError("\n".join(faults))

    @property
    def settings(self) -> dict[str, float]:
        """The settings by their names in fbgemm."""
        return {name.replace("_", ""): value for name, value in asdict(self).items()}

    def moments(self, weight: Tensor) -> dict[str, Tensor]:
        """Zeros of the shapes of a table's moments."""
        return {name: torch.zeros_like(weight) for name in self.names}

    def __call__(self, groups: Sequence[dict[str, Any]]) -> FusedTables:
        """The optimizer over ``groups``."""
        return FusedTables(groups, self)


@dataclass(frozen=True, kw_only=True)
class FusedSGD(InBackward):
    """Plain gradient descent."""

    kind = "sgd"
    names = ()


@dataclass(frozen=True, kw_only=True)
class FusedAdagrad(InBackward):
    """Adagrad (Duchi, Hazan and Singer, JMLR 2011)."""

    kind = "adagrad"
    names = ("sum",)

    eps: float = 1e-8


@dataclass(frozen=True, kw_only=True)
class FusedRowWiseAdagrad(InBackward):
    """Adagrad with one sum for a row: of the mean squares of its gradients."""

    kind = "rowwise_adagrad"
    names = ("sum",)

    eps: float = 1e-8

    def moments(self, weight: Tensor) -> dict[str, Tensor]:
        """Zeros for every row."""
        return {"sum": torch.zeros_like(weight[:, 0])}


@dataclass(frozen=True, kw_only=True)
class FusedAdam(InBackward):
    """Adam (Kingma and Ba, arXiv 1412.6980) of the rows that were read; for GPUs only."""

    kind = "adam"
    names = ("exp_avg", "exp_avg_sq")
    devices = ("cuda",)

    beta_1: float = 0.9
    beta_2: float = 0.999
    eps: float = 1e-8


def _live_moments(parameter: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """What fbgemm holds for a table's parts on this rank, as tensors on the same memory."""
    found = {}
    for inner in getattr(parameter, "_in_backward_optimizers", ()):
        for held in inner.state.values():
            for name, moment in zip(names, held.values(), strict=True):
                parts = [shard.tensor for shard in moment.local_shards()]
                size = sum(part.numel() for part in parts)
                # several parts of a table lie behind each other, as their weights do
                flat = parts[0].as_strided((size,), (1,), parts[0].storage_offset())
                rowwise = parts[0].ndim == 1
                found[name] = flat if rowwise else flat.view(-1, parameter.shape[1])
            if names[:1] == ("exp_avg",):
                found["step"] = inner._emb_module.iter
    return found
