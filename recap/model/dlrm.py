"""DLRM (Naumov et al., 2019, arXiv 1906.00091): dot products between embedding vectors."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from recap.model.linear import Linear
from recap.model.mlp import MLP

logger = logging.getLogger(__name__)


class DLRM(nn.Module):
    """An MLP over the dot products of all pairs of vectors: [B, in_features] to [B, out_features].

    The vectors are ``embedded``, columns of the features, and the output of ``bottom_mlp`` over all
    other columns. ``top_mlp`` reads the bottom's output, then the dot product of every two
    different vectors, the bottom's being the first: of 1 and 0, 2 and 0, 2 and 1, 3 and 0, …. An
    embedding vector of another width than the bottom's output is brought to it by a linear layer
    without bias, learned with the rest; the paper has one width for all.

    Where every column is embedded, ``bottom_mlp`` is None, and the width is that of the widest
    vector. Where none is, as in a tower that reads a backbone alone, top follows on bottom, and a
    warning is logged once. MLPs are given as builders from their input width.

    Raises:
        ValueError: ``bottom_mlp`` without a column to read or the other way round, or a single
            vector, which makes no pair.
    """

    pairs: Tensor  # [P] int64: where the pairs stand among the products of all with all

    def __init__(
        self,
        in_features: int,
        embedded: Sequence[slice] = (),
        *,
        bottom_mlp: Callable[[int], MLP] | None,
        top_mlp: Callable[[int], MLP],
    ) -> None:
        super().__init__()
        self.embedded = tuple(embedded)
        self.others = tuple(_between(self.embedded, in_features))
        others = sum(map(_width, self.others))
        if others and bottom_mlp is None:
            raise ValueError(
                f"bottom_mlp=null leaves {others} of the {in_features} features unread, those "
                "that are no embedding vectors; give an MLP"
            )
        if not others and bottom_mlp is not None:
            raise ValueError(
                f"bottom_mlp has nothing to read, all {in_features} features are of embedding "
                "vectors; set it to null"
            )
        if not others and len(self.embedded) < 2:
            raise ValueError(
                "one embedding vector and no other features make no pair for a dot product; "
                "add an input, or choose an mlp"
            )
        if not self.embedded:
            _warn_that_there_are_no_vectors()
        self.bottom_mlp = None if bottom_mlp is None else bottom_mlp(others)
        widths = [_width(columns) for columns in self.embedded]
        width = max(widths) if self.bottom_mlp is None else self.bottom_mlp.out_features
        self.projections = nn.ModuleList(
            nn.Identity() if own == width else Linear(own, width, bias=False) for own in widths
        )
        vectors = len(widths) + (self.bottom_mlp is not None)
        first, second = torch.tril_indices(vectors, vectors, offset=-1)
        self.register_buffer("pairs", first * vectors + second, persistent=False)
        bottom = 0 if self.bottom_mlp is None else width
        self.top_mlp = top_mlp(bottom + vectors * (vectors - 1) // 2)
        self.out_features = self.top_mlp.out_features

    def forward(self, features: Tensor) -> Tensor:
        """The top's output, [B, out_features]."""
        bottom = []
        if self.bottom_mlp is not None:
            others = [features[:, columns] for columns in self.others]
            bottom = [self.bottom_mlp(torch.cat(others, dim=1))]
        if not self.embedded:
            return self.top_mlp(bottom[0])
        projected = [
            project(features[:, columns])
            for columns, project in zip(self.embedded, self.projections, strict=True)
        ]
        vectors = torch.stack([*bottom, *projected], dim=1)  # [B, F, D]
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)  # [B, F · F]
        return self.top_mlp(torch.cat([*bottom, products.index_select(1, self.pairs)], dim=1))


def _between(columns: Sequence[slice], stop: int) -> Iterator[slice]:
    """The columns from 0 to ``stop`` that are in none of ``columns``."""
    start = 0
    for taken in [*sorted(columns, key=lambda taken: taken.start), slice(stop, stop)]:
        if start < taken.start:
            yield slice(start, taken.start)
        start = taken.stop


def _width(columns: slice) -> int:
    return columns.stop - columns.start


@functools.cache  # every tower would say the same
def _warn_that_there_are_no_vectors() -> None:
    logger.warning(
        "dlrm: no embedding vectors among the features, as in a tower under share_all; "
        "there are no dot products, and top_mlp follows on bottom_mlp"
    )
