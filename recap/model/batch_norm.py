"""Batch norm whose statistics are those of the whole batch, whatever number of ranks shares it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class BatchNorm1d(nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d``, in training over the rows [B, D] of all ranks together.

    torch's SyncBatchNorm does the same on GPUs only. Sums go over the ranks in float64, so that the
    statistics do not depend on how rows are shared out; a rank may have none. Alone, and in
    evaluation, it is torch's own.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The normalised rows, [B, D]."""
        if not self.training or _world_size() == 1:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        normed, mean, variance, rows = _Normed.apply(input, self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            # as in torch: running statistics estimate the variance without bias
            unbiased = variance * (rows / (rows - 1).clamp(min=1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        if not self.affine:
            return normed
        return torch.addcmul(self.bias, normed, self.weight).to(normed.dtype)


class _Normed(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) over all ranks' rows; with mean, variance, their number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.double()
        # a float32's square is far from the end of float64: no need for a second pass
        sums = torch.cat([wide.sum(0), wide.square().sum(0), wide.new_full((1,), len(x))])
        dist.all_reduce(sums)
        rows = sums[-1]
        mean, square = sums[:-1].view(2, -1) / rows
        variance = (square - mean.square()).clamp(min=0)
        scale = (variance + eps).rsqrt()
        normed = ((wide - mean) * scale).to(x.dtype)
        ctx.save_for_backward(normed, scale, rows)
        ctx.mark_non_differentiable(mean, variance, rows)
        return normed, mean, variance, rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        normed, scale, rows = ctx.saved_tensors
        grad, wide = grads[0].double(), normed.double()
        sums = torch.stack([grad.sum(0), (grad * wide).sum(0)])
        dist.all_reduce(sums)
        of_mean, of_scale = sums / rows
        return ((grad - of_mean - wide * of_scale) * scale).to(normed.dtype), None


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
