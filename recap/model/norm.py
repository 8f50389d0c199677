"""Normalisations as settings, built over a width once it is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from recap.model.batch_norm import BatchNorm1d


@dataclass(frozen=True, kw_only=True)
class BatchNorm:
    """Settings of a BatchNorm1d; ``momentum``, 0 to 1, is a batch's share in running statistics."""

    affine: bool = True
    momentum: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.momentum <= 1.0:
            raise ValueError(f"momentum={self.momentum} must be above 0 and at most 1, e.g. 0.1")

    def over(self, num_features: int) -> nn.BatchNorm1d:
        """A batch norm over ``num_features`` columns."""
        return BatchNorm1d(num_features, affine=self.affine, momentum=self.momentum)


@dataclass(frozen=True, kw_only=True)
class LayerNorm:
    """Settings of a layer norm over each row; ``scale`` and ``center`` are learned per column.

    ``axis`` says what a row is: −1 or 1, the columns of [B, D]. Another one would mix examples.
    """

    axis: int = -1
    epsilon: float = 1e-5
    center: bool = True
    scale: bool = True

    def __post_init__(self) -> None:
        faults = []
        if self.axis not in (-1, 1):
            faults.append(f"axis={self.axis} must be -1 or 1, the columns of a row")
        if not 0.0 <= self.epsilon < math.inf:
            faults.append(f"epsilon={self.epsilon} must be 0 or more, e.g. 1e-5")
        if faults:
            raise ValueError("\n".join(faults))

    def over(self, num_features: int) -> RowNorm:
        """A layer norm over rows of ``num_features`` numbers."""
        return RowNorm(num_features, epsilon=self.epsilon, center=self.center, scale=self.scale)


class RowNorm(nn.Module):
    """Layer norm of [B, D] over D. A constant row gives the center alone, with epsilon 0 too."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, num_features: int, *, epsilon: float, center: bool, scale: bool) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.shape = (num_features,)
        self.register_parameter("weight", nn.Parameter(torch.ones(self.shape)) if scale else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(self.shape)) if center else None)

    def forward(self, rows: Tensor) -> Tensor:
        """The normalised rows, [B, D]."""
        if self.epsilon > 0.0:
            return F.layer_norm(rows, self.shape, self.weight, self.bias, self.epsilon)
        # The smallest normal number is lost in the rounding of any variance that matters, so other
        # rows come out as with 0; it keeps the scale of a constant row finite, and `where` then
        # cuts that row off from the gradient: a finite scale times a zero gradient is zero.
        smallest = torch.finfo(rows.dtype).tiny
        normed = F.layer_norm(rows, self.shape, self.weight, self.bias, smallest)
        values = rows.detach()
        # amin and amax are vectorised; aminmax, and a comparison with all(), take ten times longer.
        constant = values.amin(dim=-1, keepdim=True) == values.amax(dim=-1, keepdim=True)
        # `where` is a pass over the rows and two backward; a CPU's numbers can be asked for
        on_cpu = type(rows) is Tensor and rows.device.type == "cpu"
        if on_cpu and not torch.compiler.is_compiling() and not constant.any():
            return normed
        return torch.where(constant, 0.0 if self.bias is None else self.bias, normed)
