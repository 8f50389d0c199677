"""Deep & Cross Network, version 2 (Wang et al., 2021, arXiv 2008.13535): products of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from recap.model.linear import Linear
from recap.model.mlp import MLP


class CrossLayer(nn.Module):
    """x0 · (W x + b) + x, the product elementwise: two [B, D] to one (equation 1 of the paper).

    W is [D, D], or with ``projection_dim`` U V, U [D, projection_dim] and V [projection_dim, D]
    (equation 2).
    """

    def __init__(self, width: int, projection_dim: int | None = None) -> None:
        super().__init__()
        self.project: nn.Module = nn.Identity()
        if projection_dim is not None:
            self.project = Linear(width, projection_dim, bias=False)
        self.linear = Linear(width if projection_dim is None else projection_dim, width)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """The next x, [B, D]."""
        return x0 * self.linear(self.project(x)) + x


class DCN(nn.Module):
    """Cross layers and, if given, MLPs: [B, in_features] to [B, out_features].

    ``poly_degree`` cross layers, each over the input and the layer before; their output holds the
    products of up to poly_degree + 1 inputs. ``parallel_mlp``, the deep part, reads the input, and
    its output is concatenated behind the cross layers' (figure 1b); without ``use_parallel`` it is
    stacked on them instead (figure 1a). ``output_mlp`` reads the result. MLPs are given as builders
    from their input width. ``embedded`` is not read: every network of a ranker is built by the same
    call.

    Args:
        poly_degree: number of cross layers.
        projection_dim: rank of their weights; None: full rank.
        parallel_mlp: the deep part; None: there is none.
        use_parallel: whether the deep part stands beside the cross layers or on top of them.
        output_mlp: the top; None: there is none.
    """

    def __init__(
        self,
        in_features: int,
        embedded: Sequence[slice] = (),
        *,
        poly_degree: int,
        projection_dim: int | None = None,
        parallel_mlp: Callable[[int], MLP] | None = None,
        use_parallel: bool = True,
        output_mlp: Callable[[int], MLP] | None = None,
    ) -> None:
        super().__init__()
        faults = []
        if poly_degree < 1:
            faults.append(
                f"poly_degree={poly_degree} must be 1 or more; without cross layers it is an MLP"
            )
        if projection_dim is not None and projection_dim < 1:
            faults.append(
                f"projection_dim={projection_dim} must be 1 or more; null is the full rank"
            )
        if not use_parallel and parallel_mlp is None:
            faults.append(
                "use_parallel=False stacks parallel_mlp on the cross layers, and there is none; "
                "give one, or set use_parallel to true"
            )
        if faults:
            raise ValueError("; ".join(faults))
        self.use_parallel = use_parallel
        self.cross_layers = nn.ModuleList(
            CrossLayer(in_features, projection_dim) for _ in range(poly_degree)
        )
        width = in_features
        self.parallel_mlp = None if parallel_mlp is None else parallel_mlp(in_features)
        if self.parallel_mlp is not None:
            width = self.parallel_mlp.out_features + (in_features if use_parallel else 0)
        self.output_mlp = None if output_mlp is None else output_mlp(width)
        self.out_features = width if self.output_mlp is None else self.output_mlp.out_features

    def forward(self, features: Tensor) -> Tensor:
        """The top's output, [B, out_features]."""
        net = features
        for layer in self.cross_layers:
            net = layer(features, net)
        if self.parallel_mlp is not None and self.use_parallel:
            net = torch.cat([net, self.parallel_mlp(features)], dim=-1)
        elif self.parallel_mlp is not None:
            net = self.parallel_mlp(net)
        return net if self.output_mlp is None else self.output_mlp(net)
