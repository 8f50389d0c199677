"""Arrow columns of one row group into numpy arrays, as the schema names them; no Python per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from recap.data.files import DataError
from recap.data.hashing import hashed
from recap.data.rows import Rows
from recap.schema import Dense, Schema, Sparse

Columns = Mapping[str, pa.Array]  # of one batch, by name

pc: Any = pyarrow.compute  # its functions are made at run time: type checkers see none


def columns_of(schema: Schema, tasks: Sequence[str]) -> list[str]:
    """The file's columns that the schema's inputs and the labels of ``tasks`` are read from."""
    columns = [name for dense in schema.dense.values() for name in dense.stored_in]
    columns += [sparse.column for sparse in schema.sparse.values()]
    columns += [schema.labels[task] for task in tasks]
    return list(dict.fromkeys(columns))


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """The rows of a table, in one piece."""
    columns = [column.combine_chunks() for column in table.columns]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


class Decoder:
    """Turns Arrow batches of the columns of a schema into ``Rows``; holds the vocabularies.

    All batches of ``files`` give a dense input the same type: the schema's, or the narrowest one
    that holds what every file stores as raw bytes.
    """

    def __init__(self, schema: Schema, tasks: Sequence[str], files: Sequence[pa.Schema]) -> None:
        self.schema, self.tasks = schema, tuple(tasks)
        self._dtypes = dense_dtypes(schema, files)
        self._vocabularies = {
            name: vocabulary_array(sparse)
            for name, sparse in schema.sparse.items()
            if sparse.vocabulary is not None and not isinstance(sparse.vocabulary, int)
        }

    def __call__(self, batch: pa.RecordBatch, first_row: int = 0) -> Rows:
        """``batch`` decoded; it begins with row ``first_row`` of its row group.

        Raises:
            DataError: a label that is neither 0 nor 1, a list of another length than the schema's,
                an id that is no whole number; the message names the column and the row.
        """
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        labels = [self.schema.labels[task] for task in self.tasks]
        return Rows(
            {name: self._dense(columns, name, first_row) for name in self.schema.dense},
            {name: self._bags(columns, name) for name in self.schema.sparse},
            self.tasks,
            _labels(columns, labels, batch.num_rows, first_row),
        )

    def _dense(self, columns: Columns, name: str, first_row: int) -> np.ndarray:
        numbers = _dense(columns, self.schema.dense[name], first_row)
        numbers = numbers.astype(self._dtypes[name], copy=False)
        bits = self.schema.mask_mantissa_features.get(name)
        return numbers if bits is None else mantissa_masked(numbers, bits)

    def _bags(self, columns: Columns, name: str) -> tuple[np.ndarray, np.ndarray]:
        sparse = self.schema.sparse[name]
        ids, offsets = _ids(columns[sparse.column], sparse)
        if sparse.num_buckets is not None:
            return (hashed(ids) % np.uint64(sparse.num_buckets)).astype(np.int64), offsets
        if isinstance(sparse.vocabulary, int):
            numbers = _whole_numbers(ids, sparse.column)
            known = (numbers >= 0) & (numbers < sparse.vocabulary)
            return np.where(known, numbers + 1, 0), offsets
        vocabulary = self._vocabularies[name]
        if ids.type != vocabulary.type:
            ids = _cast_ids(ids, vocabulary.type, sparse.column)
        return _numpy(pc.fill_null(pc.index_in(ids, vocabulary), -1)).astype(np.int64) + 1, offsets


def mantissa_masked(numbers: np.ndarray, bits: int) -> np.ndarray:
    """As float32, with the low ``bits`` of the mantissas 0; what is not finite stays as it is."""
    with np.errstate(over="ignore"):  # a file may hold float64
        single = np.ascontiguousarray(numbers, np.float32)
    kept = single.view(np.uint32) & np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)
    masked = kept.view(np.float32)
    if (nan := np.isnan(single)).any():  # with its mantissa zeroed it would be an infinity
        masked[nan] = single[nan]
    return masked


def num_slots(sparse: Sparse) -> int:
    """Slots that ids of ``sparse`` are mapped to: the rows its embedding table needs."""
    return sparse.num_slots or len(vocabulary_array(sparse)) + 1


def vocabulary_array(sparse: Sparse) -> pa.Array:
    """The known ids in the order of their slots, as int64 or strings.

    Raises:
        DataError: the vocabulary's file cannot be read, lists an id twice or a null.
    """
    if not isinstance(sparse.vocabulary, str):
        assert not isinstance(sparse.vocabulary, int | None)
        return pa.array(sparse.vocabulary)
    import pyarrow.parquet as pq

    try:
        column = pq.read_table(sparse.vocabulary).column(0).combine_chunks()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"vocabulary {sparse.vocabulary}: {error}") from error
    if column.null_count or pc.count_distinct(column).as_py() != len(column):
        raise DataError(f"vocabulary {sparse.vocabulary}: an id stands there twice or is null")
    return column.cast(pa.int64()) if pa.types.is_integer(column.type) else column


def _dense(columns: Columns, dense: Dense, first_row: int) -> np.ndarray:
    """[n, width] in the schema's dtype, or a narrower one where the file stores raw bytes."""
    dtype = np.dtype(dense.dtype)
    if dense.columns is not None:
        out = np.empty((len(columns[dense.columns[0]]), dense.width), dtype)
        for j, name in enumerate(dense.columns):
            out[:, j] = _scalars(columns[name], dtype)
        return out
    column = columns[str(dense.column)]
    if pa.types.is_fixed_size_binary(column.type):
        return _raw(column, dense, dtype)
    if pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type):
        return _lists(column, dense, dtype, first_row)
    return _scalars(column, dtype).reshape(-1, 1)


def dense_dtypes(schema: Schema, files: Sequence[pa.Schema]) -> dict[str, np.dtype]:
    """The type of each dense input that holds what all ``files`` store, without loss."""
    files = list({id(file): file for file in files}.values())  # of many files most share theirs
    return {
        name: np.result_type(*(_decoded_dtype(file, dense) for file in files))
        if files and dense.column is not None
        else np.dtype(dense.dtype)
        for name, dense in schema.dense.items()
    }


def _decoded_dtype(file: pa.Schema, dense: Dense) -> np.dtype:
    dtype = np.dtype(dense.dtype)
    held = file.field(str(dense.column)).type
    if not pa.types.is_fixed_size_binary(held):
        return dtype
    return stored_dtype(held.byte_width, dense) or dtype


def stored_dtype(byte_width: int, dense: Dense) -> np.dtype | None:
    """The type of raw numbers that take ``byte_width`` bytes a row; None where none fits."""
    size, rest = divmod(byte_width, dense.width)
    dtype = np.dtype(dense.dtype)
    if rest or size not in (1, 2, 4, 8):
        return None
    if size == dtype.itemsize:
        return dtype
    if dtype.kind in "iu" and size < dtype.itemsize:
        return np.dtype(f"{dtype.kind}{size}")
    if dtype.kind == "f" and size in (2, 4, 8):
        return np.dtype(f"f{size}")
    return None


def _raw(column: pa.Array, dense: Dense, dtype: np.dtype) -> np.ndarray:
    stored = stored_dtype(column.type.byte_width, dense)
    assert stored is not None, "checked when the files were opened"
    width = column.type.byte_width
    numbers = np.frombuffer(
        column.buffers()[1], stored, count=len(column) * dense.width, offset=column.offset * width
    ).reshape(-1, dense.width)
    if column.null_count:
        numbers = numbers.copy()
        numbers[_numpy(column.is_null())] = _null_of(dtype)
    return numbers


def _lists(column: pa.Array, dense: Dense, dtype: np.dtype, first_row: int) -> np.ndarray:
    null = _numpy(column.is_null())
    if pa.types.is_list(column.type):
        lengths = _numpy(pc.fill_null(pc.list_value_length(column), dense.width))
        if (wrong := lengths != dense.width).any():
            row = int(wrong.argmax())
            raise DataError(
                f"column {dense.column!r}, row {first_row + row}: a list of {lengths[row]}, "
                f"the schema says {dense.width}"
            )
    values = _scalars(column.flatten(), dtype)  # the items of null lists are left out
    if not null.any():
        return values.reshape(-1, dense.width)
    out = np.full((len(column), dense.width), _null_of(dtype), dtype)
    out[~null] = values.reshape(-1, dense.width)
    return out


def _scalars(column: pa.Array, dtype: np.dtype) -> np.ndarray:
    """[n] numbers; a null is NaN in a float type and 0 in any other."""
    if column.null_count and dtype.kind != "f":
        column = pc.fill_null(column, False if pa.types.is_boolean(column.type) else 0)
    return _numpy(column).astype(dtype, copy=False)


def _null_of(dtype: np.dtype) -> float:
    return float("nan") if dtype.kind == "f" else 0


def _labels(columns: Columns, names: Sequence[str], rows: int, first_row: int) -> np.ndarray:
    """[n, T] float32, checked to be 0 or 1: together, for a check of each column takes longer."""
    values = [_numpy(columns[name]) for name in names]  # a null is NaN, or None among booleans
    labels = np.empty((rows, len(names)), np.float32)
    if all(each.dtype.kind in "iu" for each in values):
        for t, each in enumerate(values):
            labels[:, t] = each
        if not ((labels != 0) & (labels != 1)).any():  # other integers become neither
            return labels
    for t, (name, each) in enumerate(zip(names, values, strict=True)):
        if each.dtype != bool and (wrong := (each != 0) & (each != 1)).any():
            row = int(wrong.argmax())
            raise DataError(
                f"label column {name!r}, row {first_row + row}: "
                f"{columns[name][row].as_py()} is neither 0 nor 1"
            )
        labels[:, t] = each
    return labels


def _ids(column: pa.Array, sparse: Sparse) -> tuple[pa.Array, np.ndarray]:
    """All ids of a column without nulls [V], and the offsets [n + 1] of each row's."""
    if sparse.separator is not None:
        column = pc.split_pattern(
            pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column),
            sparse.separator,
        )
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lengths = _numpy(pc.fill_null(pc.list_value_length(column), 0))
        ids = column.flatten()
        if ids.null_count:
            row_of = np.repeat(np.arange(len(column)), lengths)
            lengths = np.bincount(row_of[_numpy(ids.is_valid())], minlength=len(column))
    else:
        ids, lengths = column, _numpy(column.is_valid())
    offsets = np.zeros(len(column) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return ids.drop_null(), offsets


def _whole_numbers(ids: pa.Array, column: str) -> np.ndarray:
    return _numpy(_cast_ids(ids, pa.int64(), column))


def _cast_ids(ids: pa.Array, to: pa.DataType, column: str) -> pa.Array:
    try:
        return ids.cast(to)
    except pa.ArrowInvalid as error:
        raise DataError(f"column {column!r}: ids cannot be read as {to}: {error}") from error


def _numpy(array: pa.Array) -> np.ndarray:
    if array.null_count or not pa.types.is_primitive(array.type):
        return array.to_numpy(zero_copy_only=False)
    if pa.types.is_boolean(array.type):
        return np.from_dlpack(array.cast(pa.uint8())).view(bool)
    return np.from_dlpack(array)  # as to_numpy does it, which first imports pandas
