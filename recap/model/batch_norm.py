"""Batch norm whose statistics are those of the whole batch, whatever number of ranks shares it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
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
        return side_by_side(input, [self])


def side_by_side(rows: Tensor, norms: Sequence[BatchNorm1d]) -> Tensor:
    """Rows [B, ΣD] of several norms, each of its own columns, normalised at once."""
    first = norms[0]
    assert first.momentum is not None
    means = torch.cat([_told(norm.running_mean) for norm in norms])
    variances = torch.cat([_told(norm.running_var) for norm in norms])
    weight = bias = None
    if first.affine:
        weight = torch.cat([norm.weight for norm in norms])
        bias = torch.cat([norm.bias for norm in norms])
    alone = not first.training or _world_size() == 1
    normed = (F.batch_norm if alone else _over_all_ranks)(
        rows, means, variances, weight, bias, first.training, first.momentum, first.eps
    )
    if first.training:
        widths = [norm.num_features for norm in norms]
        held = [
            *[_told(norm.running_mean) for norm in norms],
            *[_told(norm.running_var) for norm in norms],
        ]
        found = [*means.split(widths), *variances.split(widths)]
        torch._foreach_copy_(held, found)  # pyright: ignore[reportPrivateImportUsage]
        counts = [_told(norm.num_batches_tracked) for norm in norms]
        torch._foreach_add_(counts, 1)  # pyright: ignore[reportPrivateImportUsage]
    return normed


def _told(statistic: Tensor | None) -> Tensor:
    assert statistic is not None  # all norms here track them
    return statistic


def _over_all_ranks(
    rows: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """``F.batch_norm`` in training over the rows of all ranks."""
    normed, mean, variance, number = _Normed.apply(rows, eps)
    with torch.no_grad():
        # as in torch: running statistics estimate the variance without bias
        unbiased = variance * (number / (number - 1).clamp(min=1))
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    if weight is None or bias is None:
        return normed
    return torch.addcmul(bias, normed, weight).to(normed.dtype)


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
