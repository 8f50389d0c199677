"""Whether a file's columns are what the schema says, from the file's footer alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

import pyarrow as pa

from recap.data.decode import stored_dtype
from recap.schema import Dense, Schema


def file_faults(file: pa.Schema, schema: Schema, tasks: Sequence[str]) -> Iterator[str]:
    """What keeps a file of these columns from being read as ``schema`` says, for these labels."""
    for name, dense in schema.dense.items():
        for column in dense.stored_in:
            if column not in file.names:
                yield f"column {column!r} of input {name} is missing{_close(column, file)}"
            elif fault := _dense_fault(file.field(column).type, dense):
                yield f"column {column!r} of input {name} {fault}"
    for name, sparse in schema.sparse.items():
        if sparse.column not in file.names:
            missing = f"column {sparse.column!r} of input {name} is missing"
            yield f"{missing}{_close(sparse.column, file)}"
        elif fault := _sparse_fault(file.field(sparse.column).type, sparse.separator):
            yield f"column {sparse.column!r} of input {name} {fault}"
    for task in tasks:
        column = schema.labels[task]
        if column not in file.names:
            yield f"label column {column!r} of task {task} is missing{_close(column, file)}"
        elif not _is_number(file.field(column).type):
            kind = file.field(column).type
            yield f"label column {column!r} of task {task} holds {kind}, not numbers of 0 and 1"


def _dense_fault(held: pa.DataType, dense: Dense) -> str | None:
    if dense.columns is not None:
        return None if _is_number(held) else f"holds {held}, not numbers"
    said = f"the schema says {dense.width} × {dense.dtype}"
    if pa.types.is_fixed_size_binary(held):
        fits = stored_dtype(held.byte_width, dense) is not None
        return None if fits else f"holds {held.byte_width} bytes a row; {said}"
    if pa.types.is_fixed_size_list(held):
        if held.list_size != dense.width:
            return f"holds lists of {held.list_size}; {said}"
        return None if _is_number(held.value_type) else f"holds lists of {held.value_type}; {said}"
    if pa.types.is_list(held):
        return None if _is_number(held.value_type) else f"holds lists of {held.value_type}; {said}"
    if not _is_number(held):
        return f"holds {held}; {said}"
    return None if dense.width == 1 else f"holds one {held} a row; {said}"


def _sparse_fault(held: pa.DataType, separator: str | None) -> str | None:
    if separator is not None:
        text = pa.types.is_string(held) or pa.types.is_large_string(held)
        return None if text else f"holds {held}; a separator={separator!r} needs strings"
    if pa.types.is_list(held) or pa.types.is_large_list(held):
        held = held.value_type
    fits = _is_number(held) or pa.types.is_string(held) or pa.types.is_large_string(held)
    return None if fits else f"holds {held}, neither ids nor lists of ids"


def _is_number(held: pa.DataType) -> bool:
    return pa.types.is_integer(held) or pa.types.is_floating(held) or pa.types.is_boolean(held)


def _close(column: str, file: pa.Schema) -> str:
    close = get_close_matches(column, file.names, n=1)
    return f"; close: {close[0]!r}" if close else f"; the file has {len(file.names)} columns"
