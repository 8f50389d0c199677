"""MaskNet (Wang et al., 2021, arXiv 2102.07619): hidden layers of inputs masked by the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from recap.model.linear import Linear, side_by_side
from recap.model.masked_linear import masked_linear
from recap.model.mlp import MLP


@dataclass(frozen=True, kw_only=True)
class MaskBlockConfig:
    """Settings of a mask block; the mask's hidden layer has one of two widths.

    Either ``aggregation_size``, or ``reduction_factor`` × the width of the mask's input, rounded
    down.
    """

    output_size: int
    reduction_factor: float | None = None
    aggregation_size: int | None = None
    input_layer_norm: bool = False

    def __post_init__(self) -> None:
        if self.output_size < 2:
            raise ValueError(
                f"mask block: output_size={self.output_size} must be 2 or more; the block ends in "
                "a layer norm, which makes a constant of a single number"
            )
        if (self.reduction_factor is None) == (self.aggregation_size is None):
            raise ValueError(
                f"mask block: give exactly one of reduction_factor={self.reduction_factor} and "
                f"aggregation_size={self.aggregation_size}; set the other to null"
            )
        if self.aggregation_size is not None and self.aggregation_size < 1:
            raise ValueError(
                f"mask block: aggregation_size={self.aggregation_size} must be 1 or more"
            )
        if self.reduction_factor is not None and not 0.0 < self.reduction_factor < math.inf:
            raise ValueError(
                f"mask block: reduction_factor={self.reduction_factor} must be above 0 and "
                "finite, e.g. 0.5"
            )

    def mask_width(self, mask_features: int) -> int:
        """Width of the mask's hidden layer over a mask input of ``mask_features``."""
        if self.aggregation_size is not None:
            return self.aggregation_size
        assert self.reduction_factor is not None
        width = int(mask_features * self.reduction_factor)
        if width < 1:
            raise ValueError(
                f"mask block: reduction_factor={self.reduction_factor} of {mask_features} inputs "
                f"leaves no mask; it must be at least 1/{mask_features}"
            )
        return width


class MaskBlock(nn.Module):
    """LayerNorm(hidden(net · mask(mask_input))): [B, net_features] to [B, output_size]."""

    def __init__(self, net_features: int, mask_features: int, config: MaskBlockConfig) -> None:
        super().__init__()
        mask_width = config.mask_width(mask_features)
        self.input_layer_norm = (
            nn.LayerNorm(net_features) if config.input_layer_norm else nn.Identity()
        )
        self.mask_layer = nn.Sequential(
            Linear(mask_features, mask_width),
            nn.ReLU(),
            Linear(mask_width, net_features),
        )
        self.hidden_layer = Linear(net_features, config.output_size)
        self.layer_norm = nn.LayerNorm(config.output_size)

    def forward(self, net: Tensor, mask_input: Tensor) -> Tensor:
        """The block's output, [B, output_size]; ``mask_input`` is [B, mask_features]."""
        first, relu, _ = self.mask_layer
        return self.masked(net, relu(first(mask_input)))

    def masked(self, net: Tensor, hidden: Tensor) -> Tensor:
        """The block's output, [B, output_size], from the mask's hidden layer, [B, mask width]."""
        mask = self.mask_layer[-1](hidden)
        net = masked_linear(self.input_layer_norm(net), mask, self.hidden_layer)
        return self.layer_norm(net)


class MaskNet(nn.Module):
    """Mask blocks and, if given, an MLP on top: [B, in_features] to [B, out_features].

    Parallel blocks all read the input, and their outputs are concatenated. In series, each block
    reads the one before. The mask comes from the input in both. ``mlp`` builds the top from its
    input width. ``embedded`` is not read: every network of a ranker is built by the same call.
    """

    def __init__(
        self,
        in_features: int,
        embedded: Sequence[slice] = (),
        *,
        mask_blocks: Sequence[MaskBlockConfig],
        mlp: Callable[[int], MLP] | None = None,
        use_parallel: bool = True,
    ) -> None:
        super().__init__()
        if not mask_blocks:
            raise ValueError(
                "mask_net: mask_blocks=[] must list at least one block; "
                "a backbone without masks is model/backbone=mlp"
            )
        self.use_parallel = use_parallel
        self.mask_blocks = nn.ModuleList()
        width = in_features
        for config in mask_blocks:
            self.mask_blocks.append(MaskBlock(width, in_features, config))
            if not use_parallel:
                width = config.output_size
        if use_parallel:
            width = sum(config.output_size for config in mask_blocks)
        self.mlp = None if mlp is None else mlp(width)
        self.out_features = width if self.mlp is None else self.mlp.out_features

    def forward(self, features: Tensor) -> Tensor:
        """The top's output, [B, out_features]."""
        if self.use_parallel:
            blocks = cast("list[MaskBlock]", list(self.mask_blocks))
            first = [cast("Linear", block.mask_layer[0]) for block in blocks]
            hidden = side_by_side(features, first).relu_()
            parts = hidden.split([layer.out_features for layer in first], dim=1)
            outs = [block.masked(features, part) for block, part in zip(blocks, parts, strict=True)]
            net = torch.cat(outs, dim=1)
        else:
            net = features
            for block in self.mask_blocks:
                net = block(net, features)
        return net if self.mlp is None else self.mlp(net)
