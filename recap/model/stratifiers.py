"""Slices of the examples that are measured by themselves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from recap.batch import Batch
from recap.model.dense import column, column_faults
from recap.schema import Schema


@dataclass(frozen=True, kw_only=True)
class Stratifier:
    """The examples whose discrete feature number ``index`` has a certain ``value``.

    ``feature_name`` is the dense input that holds the discrete features; ``index`` counts its
    columns from 0, after preprocessing.
    """

    index: int
    value: int
    feature_name: str = "discrete"

    @property
    def reads(self) -> Collection[str]:
        """The schema's inputs that it looks at."""
        return (self.feature_name,)

    def faults(self, schema: Schema) -> list[str]:
        """Why it cannot be told from inputs of ``schema``."""
        return column_faults(self.feature_name, {"index": self.index}, schema)

    def rows(self, batch: Batch) -> Tensor:
        """The numbers of the examples in the slice, [up to B] int64."""
        numbers = column(batch, self.feature_name, self.index)
        return torch.nonzero(numbers == self.value).squeeze(1)
