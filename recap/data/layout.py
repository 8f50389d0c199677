"""Writes tables in recap's layout: dense groups as raw little-endian numbers, whole files only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recap.data.files import DataError
from recap.schema import Dense

COMPRESSIONS = ("lz4", "zstd", "none")
FLOATS = ("float16", "float32", "float64")
PAGE_BYTES = 256 << 10  # what is compressed at a time: a reader's pass over it stays in its cache


def storage_dtype(name: str, dense: Dense, stored: str | None = None) -> np.dtype:
    """The little-endian type that group ``name`` is stored in: ``stored``, or its own dtype.

    A reader knows the width of raw numbers and the kind from the schema, so floats can be stored as
    any float and integers as narrower ones of their kind.
    """
    allowed: tuple[str, ...] = (dense.dtype,)
    if dense.dtype in FLOATS:
        allowed = FLOATS
    elif dense.dtype != "bool":
        kind, bits = dense.dtype.split("int")
        allowed = tuple(f"{kind}int{n}" for n in (8, 16, 32, 64) if n <= int(bits))
    if stored is not None and stored not in allowed:
        raise ValueError(
            f"stored.{name}={stored!r}: a {dense.dtype} group can be stored as {', '.join(allowed)}"
        )
    return np.dtype(stored or dense.dtype).newbyteorder("<")


def raw_field(name: str, dtype: np.dtype, length: int) -> pa.Field:
    """The field of ``length`` raw numbers a row; its metadata tells other readers their type."""
    metadata = {"dtype": dtype.newbyteorder("=").name, "length": str(length), "byteorder": "little"}
    return pa.field(name, pa.binary(length * dtype.itemsize), nullable=False, metadata=metadata)


def raw_array(numbers: np.ndarray) -> pa.Array:
    """The rows of ``numbers`` [B, length] as FixedSizeBinary; no copy if they lie in one piece."""
    numbers = np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<"))
    rows, length = numbers.shape
    # The bytes themselves: not every reader of the buffer protocol knows float16.
    buffer = pa.py_buffer(numbers.reshape(-1).view(np.uint8))
    return pa.Array.from_buffers(pa.binary(length * numbers.itemsize), rows, [None, buffer])


class LayoutWriter:
    """Writes batches of one Arrow schema to a Parquet file that takes its name when complete.

    Rows are gathered into row groups of ``row_group_rows``. FixedSizeBinary columns and ``plain``
    columns get no dictionary and no statistics: both cost time on wide numbers and save nothing.
    Pages hold ``PAGE_BYTES``, a quarter of what Arrow writes by itself.
    Leaving the ``with`` block by an exception leaves no file.
    """

    def __init__(
        self,
        path: str | Path,
        schema: pa.Schema,
        *,
        plain: Collection[str] = (),
        row_group_rows: int = 4096,
        compression: str = "lz4",
    ):
        if compression not in COMPRESSIONS:
            raise ValueError(f"compression={compression!r} is not one of {', '.join(COMPRESSIONS)}")
        if row_group_rows < 1:
            raise ValueError(f"row_group_rows={row_group_rows} must be 1 or more")
        self.path = Path(path)
        self.rows = 0
        self._schema = schema
        self._row_group_rows = row_group_rows
        self._temporary = self.path.with_name(self.path.name + ".incomplete")
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._expected_rows: int | None = None
        indexed = [
            leaf
            for column in schema
            if column.name not in plain and not pa.types.is_fixed_size_binary(column.type)
            for leaf in (column.name, f"{column.name}.list.element")
        ]
        widths = [c.type.byte_width for c in schema if pa.types.is_fixed_size_binary(c.type)]
        self._file = pq.ParquetWriter(
            self._temporary,
            schema,
            compression=compression,
            data_page_size=PAGE_BYTES,
            # pages end only where so many rows do
            write_batch_size=max(16, min(1024, PAGE_BYTES // max(widths, default=1))),
            use_dictionary=indexed or False,  # pyright: ignore[reportArgumentType]
            write_statistics=indexed or False,  # pyright: ignore[reportArgumentType]
        )

    def write(self, batch: pa.RecordBatch) -> None:
        """Takes the rows of ``batch``; full row groups go to the file."""
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        if self._pending_rows >= self._row_group_rows:
            table = pa.Table.from_batches(self._pending, self._schema)
            full = self._pending_rows - self._pending_rows % self._row_group_rows
            self._write(table.slice(0, full))
            self._pending = table.slice(full).to_batches()
            self._pending_rows -= full

    def describe(self, metadata: Mapping[bytes, bytes], *, rows: int) -> None:
        """Adds to the file's metadata; on leaving, DataError unless the footer counts ``rows``."""
        self._file.add_key_value_metadata(metadata)
        self._expected_rows = rows

    def _write(self, table: pa.Table) -> None:
        self._file.write_table(table, row_group_size=self._row_group_rows)
        self.rows += table.num_rows

    def __enter__(self) -> LayoutWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._pending_rows:
                self._write(pa.Table.from_batches(self._pending, self._schema))
            self._file.close()
            if kind is None:
                self._count()
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _count(self) -> None:
        if self._expected_rows is None:
            return
        held = pq.read_metadata(self._temporary).num_rows
        if held != self._expected_rows:
            raise DataError(f"{self.path}: {self._expected_rows} rows were read, {held} written")


def unwritable(folder: Path) -> str | None:
    """Why files cannot be made in ``folder``, which need not exist yet; leaves no trace."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return f"cannot be written ({error.strerror}); name a folder that can"
    return None
