"""A table as a schema describes it → the layout that reads fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from recap.data.convert.reshape import require
from recap.data.decode import Decoder, one_batch
from recap.data.file_faults import file_faults
from recap.data.files import DataError
from recap.data.layout import raw_array, raw_field, storage_dtype
from recap.nearest import nearest
from recap.schema import Schema


class Pack:
    """Turns a table as ``schema`` describes it into the layout; ``result`` describes that.

    Columns ``besides`` those of the schema stay as they are.
    """

    def __init__(self, schema: Schema, stored: Mapping[str, str], besides: Sequence[str]) -> None:
        if unknown := [name for name in stored if name not in schema.dense]:
            raise ValueError(
                f"stored: no dense group is named {unknown[0]!r}; "
                f"{nearest(unknown[0], schema.dense)}"
            )
        self._schema, self._besides = schema, tuple(besides)
        self._stored = {
            name: storage_dtype(name, dense, stored.get(name))
            for name, dense in schema.dense.items()
        }
        packed = {
            name: replace(dense, column=dense.column or name, columns=None)
            for name, dense in schema.dense.items()
        }
        self.result = replace(schema, dense=packed)
        others = [*(s.column for s in schema.sparse.values()), *schema.labels.values(), *besides]
        names = [str(dense.column) for dense in packed.values()]
        for name in names:
            if name in others or names.count(name) > 1:
                raise ValueError(f"schema: two columns of the result would be named {name!r}")
        self._checked: pa.Schema | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that a table must have."""
        stored = [column for dense in self._schema.dense.values() for column in dense.stored_in]
        ids = [sparse.column for sparse in self._schema.sparse.values()]
        return [*stored, *ids, *self._schema.labels.values(), *self._besides]

    def __call__(self, table: pa.Table) -> pa.RecordBatch:
        """The table's rows, groups first, then ids and labels; DataError for what does not fit."""
        self._check(table)
        rows = self._decode(one_batch(table))
        fields, arrays = [], []
        for name, dense in self.result.dense.items():
            numbers = _narrowed(name, rows.dense[name], self._stored[name])
            fields.append(raw_field(str(dense.column), self._stored[name], dense.width))
            arrays.append(raw_array(numbers))
        as_they_are = [sparse.column for sparse in self._schema.sparse.values()]
        for column in dict.fromkeys([*as_they_are, *self._besides]):
            fields.append(table.schema.field(column))
            arrays.append(table.column(column).combine_chunks())
        places = {column: place for place, column in enumerate(self._schema.labels.values())}
        for column, place in places.items():
            if column not in self._besides:
                fields.append(pa.field(column, pa.int8(), nullable=False))
                arrays.append(pa.array(rows.labels[:, place].astype(np.int8)))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def _check(self, table: pa.Table) -> None:
        if table.schema == self._checked:
            return
        if faults := list(file_faults(table.schema, self._schema, tuple(self._schema.labels))):
            raise DataError("\n".join(faults))
        require(self._besides, table, "columns")
        dense_and_labels = Schema(labels=self._schema.labels, dense=self._schema.dense)  # ids stay
        self._decode = Decoder(dense_and_labels, tuple(self._schema.labels), [table.schema])
        self._checked = table.schema


def _narrowed(name: str, numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if numbers.dtype == dtype:
        return numbers
    with np.errstate(over="ignore"):
        result = numbers.astype(dtype)
    lost = result != numbers if dtype.kind in "iu" else np.isfinite(numbers) & ~np.isfinite(result)
    if lost.any():
        raise DataError(f"group {name}: {numbers[lost][0]} does not fit its type {dtype.name}")
    return result
