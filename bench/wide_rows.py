"""Rows as wide as local_prod's once they are cut to what it reads, written in several layouts.

A row is 2117 + 3 × 200 float32, 72 int8, 320 + 3 int64 and ten labels: 13.5 kB. The floats are
standard normal, so that no codec but zstd gains anything on them (by their exponents); the 72 are 1
in 3 of 10 places; of the 320 a fifth are drawn from 0 … 999 and the others 0; the three are ids of
60 bits. So a row takes 11.3 kB with lz4.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recap.data.layout import LayoutWriter, raw_array, raw_field
from recap.schema import Dense, Schema

STORED = {
    "continuous": (np.dtype(np.float32), 2117),
    "author_embedding": (np.dtype(np.float32), 200),
    "user_embedding": (np.dtype(np.float32), 200),
    "user_eng_embedding": (np.dtype(np.float32), 200),
    "binary": (np.dtype(np.int8), 72),
    "discrete": (np.dtype(np.int64), 320),
    "ids": (np.dtype(np.int64), 3),
}
ROW_BYTES = sum(dtype.itemsize * width for dtype, width in STORED.values())
READ_BY_LOCAL_PROD = [name for name in STORED if name not in ("discrete", "ids")]
LABELS = tuple(f"label_{t}" for t in range(10))
LAYOUTS = ("binary", "lists", "scalars")
PART_ROWS = 2048  # that are drawn at a time


def schema(layout: str) -> Schema:
    """What a data set of such rows holds, its columns being of ``layout``."""
    dense = {}
    for name, (dtype, width) in STORED.items():
        kind = "int64" if dtype.kind == "i" else dtype.name
        if layout == "scalars":
            dense[name] = Dense(columns=_scalars(name, width), dtype=kind)
        else:
            dense[name] = Dense(column=name, length=width, dtype=kind)
    return Schema(labels={label: label for label in LABELS}, dense=dense)


def write(path: Path, *, layout: str, codec: str, rows: int, row_group_rows: int) -> None:
    """Writes a file: raw bytes as recap writes them, or lists or scalars as others might."""
    parts = (_arrow(layout, rows_of_part) for rows_of_part in drawn(rows))
    if layout == "binary":
        first = next(parts)
        settings = {"row_group_rows": row_group_rows, "compression": codec}
        with LayoutWriter(path, first.schema, **settings) as writer:
            writer.write(first)
            for part in parts:
                writer.write(part)
        return
    table = pa.Table.from_batches(list(parts))
    pq.write_table(
        table, path, row_group_size=row_group_rows, compression=codec, use_dictionary=False
    )


def drawn(rows: int) -> Iterator[dict[str, np.ndarray]]:
    """The numbers by name [n, width], labels among them, always the same ones."""
    random = np.random.default_rng(0)
    for start in range(0, rows, PART_ROWS):
        n = min(PART_ROWS, rows - start)
        numbers: dict[str, np.ndarray] = {}
        for name, (dtype, width) in STORED.items():
            shape = (n, width)
            if dtype.kind == "f":
                numbers[name] = random.standard_normal(shape, np.float32)
            elif name == "binary":
                numbers[name] = (random.random(shape) < 0.3).astype(np.int8)
            elif name == "discrete":
                numbers[name] = random.integers(1000, size=shape) * (random.random(shape) < 0.2)
            else:
                numbers[name] = random.integers(1 << 60, size=shape)
        for label in LABELS:
            numbers[label] = (random.random((n, 1)) < 0.3).astype(np.int8)
        yield numbers


def _arrow(layout: str, numbers: dict[str, np.ndarray]) -> pa.RecordBatch:
    columns: list[pa.Array] = []
    fields: list[pa.Field] = []
    for name, array in numbers.items():
        if name in LABELS:
            columns.append(pa.array(array[:, 0]))
            fields.append(pa.field(name, pa.int8()))
        elif layout == "binary":
            columns.append(raw_array(array))
            fields.append(raw_field(name, array.dtype, array.shape[1]))
        elif layout == "lists":
            columns.append(pa.FixedSizeListArray.from_arrays(array.reshape(-1), array.shape[1]))
            fields.append(pa.field(name, columns[-1].type))
        else:
            for j, scalar in enumerate(_scalars(name, array.shape[1])):
                columns.append(pa.array(np.ascontiguousarray(array[:, j])))
                fields.append(pa.field(scalar, columns[-1].type))
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def _scalars(name: str, width: int) -> list[str]:
    return [f"{name}_{j}" for j in range(width)]
