"""Multi-layer perceptron: towers, and the dense layers on top of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from recap.model.linear import Linear
from recap.model.norm import BatchNorm


class MLP(nn.Module):
    """Maps [B, in_features] to [B, layer_sizes[-1]].

    Every hidden layer is Linear → BatchNorm1d (if any) → ReLU → Dropout (if any). The last layer is
    a bare Linear; ``final_layer_activation`` puts a ReLU behind it, never a batch norm or a
    dropout. Biases start at 0, weights as ``init`` says: "xavier_uniform" (Glorot and Bengio, 2010)
    or "fan_in_uniform", U(−1/√in, 1/√in), which starts a narrow last layer nearer to 0 (LeCun et
    al., Efficient BackProp, 1998, up to a factor √3). ``embedded`` is not read: every network of a
    ranker is built by the same call.
    """

    def __init__(
        self,
        in_features: int,
        embedded: Sequence[slice] = (),
        *,
        layer_sizes: Sequence[int],
        batch_norm: BatchNorm | None = None,
        dropout: float | None = None,
        final_layer_activation: bool = False,
        init: Literal["xavier_uniform", "fan_in_uniform"] = "xavier_uniform",
    ) -> None:
        super().__init__()
        if not layer_sizes or min(layer_sizes) < 1:
            raise ValueError(
                f"layer_sizes={list(layer_sizes)} must list widths of 1 or more, e.g. [256, 1]"
            )
        if dropout is not None and not 0.0 < dropout < 1.0:
            raise ValueError(
                f"dropout={dropout} must be a fraction between 0 and 1; null means none"
            )
        if init not in ("xavier_uniform", "fan_in_uniform"):
            raise ValueError(f"init={init!r} must be xavier_uniform or fan_in_uniform")
        linear = Linear if init == "xavier_uniform" else fan_in_linear
        self.out_features = layer_sizes[-1]
        self.layers = nn.Sequential()
        width = in_features
        for size in layer_sizes[:-1]:
            self.layers.append(linear(width, size))
            if batch_norm is not None:
                self.layers.append(batch_norm.over(size))
            self.layers.append(nn.ReLU())
            if dropout is not None:
                self.layers.append(nn.Dropout(dropout))
            width = size
        self.layers.append(linear(width, self.out_features))
        if final_layer_activation:
            self.layers.append(nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        """The last layer's output, [B, out_features]."""
        return self.layers(features)


def fan_in_linear(in_features: int, out_features: int) -> Linear:
    """A linear layer with weights from U(−1/√in, 1/√in) and zero biases."""
    linear = Linear(in_features, out_features)
    bound = in_features**-0.5
    nn.init.uniform_(linear.weight, -bound, bound)
    return linear
