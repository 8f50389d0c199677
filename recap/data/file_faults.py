"""Whether a file's columns are what the schema says, from the file's footer alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recap.data.decode import stored_dtype
from recap.nearest import nearest
from recap.schema import DENSE_DTYPES, Dense, Schema, Sparse


def file_faults(file: pa.Schema, schema: Schema, tasks: Sequence[str]) -> Iterator[str]:
    """What keeps a file of these columns from being read as ``schema`` says, for these labels."""
    for name, dense in schema.dense.items():
        for column in dense.stored_in:
            if column not in file.names:
                yield f"column {column!r} of input {name} is missing; {nearest(column, file.names)}"
            elif fault := _dense_fault(file.field(column).type, dense):
                yield f"column {column!r} of input {name} {fault}"
    for name, sparse in schema.sparse.items():
        if sparse.column not in file.names:
            missing = f"column {sparse.column!r} of input {name} is missing"
            yield f"{missing}; {nearest(sparse.column, file.names)}"
        elif fault := _sparse_fault(file.field(sparse.column).type, sparse):
            yield f"column {sparse.column!r} of input {name} {fault}"
    for task in tasks:
        column = schema.labels[task]
        if column not in file.names:
            missing = f"label column {column!r} of task {task} is missing"
            yield f"{missing}; {nearest(column, file.names)}"
        elif not _is_number(file.field(column).type):
            kind = file.field(column).type
            yield f"label column {column!r} of task {task} holds {kind}, not numbers of 0 and 1"


def _dense_fault(held: pa.DataType, dense: Dense) -> str | None:
    said = f"the schema says {dense.width} × {dense.dtype}"
    if dense.columns is not None:
        if not _is_number(held):
            return f"holds {held}, not numbers"
        return _lossy(held, dense)
    if pa.types.is_fixed_size_binary(held):
        fits = stored_dtype(held.byte_width, dense) is not None
        return None if fits else f"holds {held.byte_width} bytes a row; {said}"
    if pa.types.is_fixed_size_list(held) and held.list_size != dense.width:
        return f"holds lists of {held.list_size}; {said}"
    if pa.types.is_fixed_size_list(held) or pa.types.is_list(held):
        if not _is_number(held.value_type):
            return f"holds lists of {held.value_type}; {said}"
        return _lossy(held.value_type, dense)
    if not _is_number(held):
        return f"holds {held}; {said}"
    return f"holds one {held} a row; {said}" if dense.width != 1 else _lossy(held, dense)


def _lossy(held: pa.DataType, dense: Dense) -> str | None:
    """Why numbers would wrap or be cut: any may be read as floats, but not the other way round."""
    dtype, stored = np.dtype(dense.dtype), _numpy_dtype(held)
    if dtype.kind == "f" or np.can_cast(stored, dtype):
        return None
    wide = [name for name in DENSE_DTYPES if np.can_cast(stored, name)]
    return f"holds {held}, which {dense.dtype} does not; state a dtype that does: {', '.join(wide)}"


def _numpy_dtype(held: pa.DataType) -> np.dtype:
    """As ``held.to_pandas_dtype`` says it, which imports pandas."""
    kinds = {"b": pa.types.is_boolean, "f": pa.types.is_floating, "u": pa.types.is_unsigned_integer}
    kind = next((kind for kind, is_of in kinds.items() if is_of(held)), "i")
    return np.dtype(f"{kind}{max(1, held.bit_width // 8)}")


def _sparse_fault(held: pa.DataType, sparse: Sparse) -> str | None:
    if sparse.separator is not None:
        if _is_text(held):
            return None
        return f"holds {held}; a separator={sparse.separator!r} needs strings"
    if pa.types.is_list(held) or pa.types.is_large_list(held):
        held = held.value_type
    if not _is_number(held) and not _is_text(held):
        return f"holds {held}, neither ids nor lists of ids"
    listed = _vocabulary_kind(sparse.vocabulary)
    if listed == "strings" and _is_number(held):
        return f"holds {held}, the vocabulary strings; list its ids as numbers"
    if listed == "numbers" and _is_text(held):
        return f"holds {held}, the vocabulary numbers; list its ids as strings"
    return None


def _vocabulary_kind(vocabulary: int | Sequence[int] | Sequence[str] | str | None) -> str | None:
    """Whether known ids are "strings" or "numbers"; None without any, or where no file tells."""
    if isinstance(vocabulary, str):
        return _kind_in_file(vocabulary)
    if isinstance(vocabulary, int):
        return "numbers"
    return ("strings" if isinstance(vocabulary[0], str) else "numbers") if vocabulary else None


@lru_cache  # asked for once per data file
def _kind_in_file(path: str) -> str | None:
    try:
        held = pq.read_schema(path).field(0).type
    except (OSError, pa.ArrowInvalid, IndexError):
        return None  # refused where the vocabulary is read
    if _is_text(held):
        return "strings"
    return "numbers" if _is_number(held) else None


def _is_text(held: pa.DataType) -> bool:
    return pa.types.is_string(held) or pa.types.is_large_string(held)


def _is_number(held: pa.DataType) -> bool:
    return pa.types.is_integer(held) or pa.types.is_floating(held) or pa.types.is_boolean(held)
