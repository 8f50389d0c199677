"""Dense inputs as the model's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recap.batch import Batch
from recap.nearest import nearest
from recap.schema import Schema


class DenseInputs(nn.Module):
    """The dense inputs ``names``, concatenated in that order, in the model's precision, all finite.

    Integers and bools become floats; a NaN (which a null is) and an infinity become 0.
    """

    precision: Tensor

    def __init__(self, schema: Schema, names: Sequence[str]) -> None:
        super().__init__()
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"dense inputs listed twice: {', '.join(twice)}; list each once")
        if faults := [missing(name, schema) for name in names if name not in schema.dense]:
            raise ValueError("; ".join(faults))
        self.reads = tuple(names)
        self.out_features = sum(schema.dense[name].width for name in names)
        # Follows the model through .to() and .double(), also in a model without a single weight.
        self.register_buffer("precision", torch.empty(0), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """The columns, [B, out_features]."""
        columns = [batch.dense[name].to(self.precision.dtype) for name in self.reads]
        if not columns:
            return self.precision.new_empty(len(batch), 0)
        joined = columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)
        return joined.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def missing(name: str, schema: Schema) -> str:
    """Why a dense input is not to be had from ``schema``, with the nearest name that is."""
    if name in schema.sparse:
        return f"input {name!r} is sparse and belongs in embedding tables; a dense one is needed"
    return f"dense input {name!r} is not in the schema; {nearest(name, schema.dense)}"


def column_faults(feature_name: str, indices: Mapping[str, int], schema: Schema) -> list[str]:
    """Why columns of the dense input ``feature_name`` are not to be had from ``schema``.

    ``indices`` maps the key that states a column's number, from 0, to that number.
    """
    if feature_name not in schema.dense:
        return [f"feature_name: {missing(feature_name, schema)}"]
    width = schema.dense[feature_name].width
    return [
        f"{key}={index} must lie in 0 … {width - 1}, the columns of {feature_name}"
        for key, index in indices.items()
        if not 0 <= index < width
    ]


def column(batch: Batch, feature_name: str, index: int) -> Tensor:
    """[B] one column of a dense input: int64, or float32 and float64 where it may hold NaN.

    Files may store an input in a narrower type, which numbers to compare it with need not fit.
    """
    numbers = batch.dense[feature_name][:, index]
    if numbers.is_floating_point():
        return numbers.to(torch.promote_types(numbers.dtype, torch.float32))
    return numbers.long()
