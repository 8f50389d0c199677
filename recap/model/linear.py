"""Linear layers whose weights' gradients are written where those of the step before lay.

The gradients of the published model are 192 MB: as new memory they cost a small batch more than the
multiplication does. So on a CPU a layer keeps the memory of its weight's gradient when an optimizer
drops it, and multiplies straight into it; a further micro-batch is added by the multiplication.
``weight.grad`` holds what it always holds: None, or the sum of the gradients since. Under autocast,
for the compiler, and on GPUs, whose allocator keeps memory itself, a layer is torch's own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge


class Linear(nn.Linear):
    """``torch.nn.Linear`` of rows [B, in_features]; its weight's gradient as the module says.

    It starts with Xavier-uniform weights (Glorot and Bengio, 2010) and a bias of 0, drawn once:
    torch's own values would take as long as these, only to be written over.
    """

    kept: Tensor | None = None  # the last gradient's memory, see room; no part of the state

    def reset_parameters(self) -> None:
        """Draws the weights anew, and sets the bias to 0."""
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """The outputs, [B, out_features]."""
        if writes_in_place(input):
            return _SideBySide.apply(input, [self], self.weight, self.bias)
        return super().forward(input)

    def room(self, outputs: int) -> Tensor:
        """Memory [outputs, D] for the gradient of the weight, or of those side by side with it."""
        if self.kept is None or not _is_free(self.kept, self.weight, outputs):
            self.kept = self.weight.new_empty(outputs, self.in_features)
        return self.kept

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "kept"}


def side_by_side(rows: Tensor, layers: Sequence[Linear]) -> Tensor:
    """Outputs [B, ΣN] of linear layers of the same rows [B, D], in one pass over them.

    On a CPU each layer writes its columns of the result, and adds to the same gradient of the rows;
    elsewhere it is one multiplication by all weights together.
    """
    if writes_in_place(rows):
        parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
        return _SideBySide.apply(rows, layers, *parameters)
    if rows.device.type == "cpu":
        return torch.cat([layer(rows) for layer in layers], dim=1)
    weights = torch.cat([layer.weight for layer in layers])
    return F.linear(rows, weights, torch.cat([layer.bias for layer in layers]))


def writes_in_place(rows: Tensor) -> bool:
    """Whether weights of layers over ``rows`` [B, D] take their gradients in place."""
    return (
        type(rows) is Tensor  # real numbers, not a tracer's or a shard
        and rows.device.type == "cpu"
        and rows.ndim == 2
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


class _SideBySide(torch.autograd.Function):
    """rows · weightᵀ + bias of each layer, in columns behind each other."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, layers: Sequence[Linear], *parameters: Tensor | None
    ) -> Tensor:
        ctx.layers = layers
        ctx.save_for_backward(rows, *parameters[::2])
        if len(layers) == 1:
            return F.linear(rows, layers[0].weight, layers[0].bias)
        widths = [layer.out_features for layer in layers]
        out = rows.new_empty(len(rows), sum(widths))
        for columns, layer in zip(out.split(widths, dim=1), layers, strict=True):
            if layer.bias is None:
                torch.mm(rows, layer.weight.t(), out=columns)
            else:
                torch.addmm(layer.bias, rows, layer.weight.t(), out=columns)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, *weights = ctx.saved_tensors
        of_rows: Tensor | None = None
        columns = grads[0].split([len(weight) for weight in weights], dim=1)
        if ctx.needs_input_grad[0]:
            for weight, grad in zip(weights, columns, strict=True):
                of_rows = grad @ weight if of_rows is None else of_rows.addmm_(grad, weight)
        needed = ctx.needs_input_grad[2:]
        each_once = len({id(weight) for weight in weights}) == len(weights)
        if each_once and all(needed[::2]) and all(map(_begins, weights)):
            first = ctx.layers[0]
            joint = torch.mm(grads[0].t(), rows, out=first.room(sum(map(len, weights))))
            parts = joint.split([len(weight) for weight in weights])
            for weight, part in zip(weights, parts, strict=True):
                weight.grad = part
            needed = [needs and number % 2 for number, needs in enumerate(needed)]
        found: list[Tensor | None] = []
        for number, (layer, weight, grad) in enumerate(
            zip(ctx.layers, weights, columns, strict=True)
        ):
            of_weight, of_bias = needed[2 * number : 2 * number + 2]
            found.append(add_gradient(layer, weight, grad, rows) if of_weight else None)
            found.append(grad.sum(0) if of_bias else None)
        return of_rows, None, *found


def add_gradient(layer: Linear, weight: Tensor, grad: Tensor, rows: Tensor) -> Tensor | None:
    """Adds gradᵀ · rows [N, D] to ``weight.grad``; or returns it for autograd to deliver.

    To be called within backward, with the ``weight`` that the layer had in forward, ``grad`` [B, N]
    of its outputs and its inputs ``rows`` [B, D]. Autograd delivers where someone else takes the
    gradient: a hook, or ``torch.autograd.grad``.
    """
    if not _accumulated(weight):
        return grad.t() @ rows
    if weight.grad is not None:
        weight.grad.addmm_(grad.t(), rows)
        return None
    weight.grad = torch.mm(grad.t(), rows, out=layer.room(len(weight)))
    return None


def _begins(weight: Tensor) -> bool:
    """Whether this backward pass only adds up the weight's gradient, and there is none yet."""
    return weight.grad is None and _accumulated(weight)


def _accumulated(weight: Tensor) -> bool:
    """Whether this backward pass does nothing with the weight's gradient but add it up."""
    if weight._backward_hooks or weight._post_accumulate_grad_hooks:
        return False
    try:
        return torch._C._will_engine_execute_node(get_gradient_edge(weight).node)
    except RuntimeError:  # torch.autograd.grad is asked for this very gradient
        return False


def _is_free(kept: Tensor, weight: Tensor, outputs: int) -> bool:
    """Whether the memory fits so many rows of the weight, and nobody holds on to what lay in it."""
    # references: the layer's, this function's, getrefcount's; the tensor's and the storage object's
    held = sys.getrefcount(kept) > 3
    held |= torch._C._storage_Use_Count(kept.untyped_storage()._cdata) > 2
    fits = kept.shape == (outputs, weight.shape[1]) and kept.dtype == weight.dtype
    return fits and kept.device == weight.device and not held
