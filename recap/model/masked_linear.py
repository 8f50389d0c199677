"""A linear layer of masked rows that does not keep their product for backward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.function import once_differentiable

from recap.model import linear
from recap.model.linear import Linear, add_gradient


def masked_linear(rows: Tensor, mask: Tensor, layer: Linear) -> Tensor:
    """``layer(rows · mask)`` of rows and a mask of the same shape [B, D]: [B, N]."""
    if linear.writes_in_place(rows):
        return _MaskedLinear.apply(rows, mask, layer.weight, layer.bias, layer)
    return layer(rows * mask)


class _MaskedLinear(torch.autograd.Function):
    """The product is computed twice: that takes less time than the memory to keep it does."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, layer: Linear
    ) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(rows, mask, weight)
        return F.linear(rows * mask, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, mask, weight = ctx.saved_tensors
        (grad,) = grads
        of_rows, of_mask, of_weight, of_bias, _ = ctx.needs_input_grad
        product = rows * mask
        weight_grad = add_gradient(ctx.layer, weight, grad, product) if of_weight else None
        of_product = torch.mm(grad, weight, out=product)
        return (
            of_product * mask if of_rows else None,
            of_product.mul_(rows) if of_mask else None,
            weight_grad,
            grad.sum(0) if of_bias else None,
            None,
        )
