"""Record batches of a table in a file, by kind of file: the seam for further kinds of input."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv, fs

from recap.data.files import DataError

CSV_BLOCK_BYTES = 8 << 20  # a column whose type is not stated gets that of the first block
PARQUET_BATCH_ROWS = 1024

Types = Mapping[str, str]


def read_batches(
    filesystem: fs.FileSystem, path: str, types: Types, wanted: Callable[[str], bool]
) -> Iterator[pa.RecordBatch]:
    """The table's rows in order, in bounded memory, of the columns that are ``wanted`` by name.

    ``types`` gives columns a type by its Arrow name (int64, string, float, date32 …). Raises
    DataError with file and column for a value that does not fit its column's type.
    """
    return _reader(path)(filesystem, path, types, wanted)


def name_of(path: str) -> str:
    """The file's name without folder and endings: ``log`` of ``data/log.csv.gz``."""
    _reader(path)
    return re.sub(_ENDING, "", path.rsplit("/", 1)[-1])


def _csv_batches(
    filesystem: fs.FileSystem, path: str, types: Types, wanted: Callable[[str], bool]
) -> Iterator[pa.RecordBatch]:
    stated = {column: pa.type_for_alias(kind) for column, kind in types.items()}
    options = csv.ConvertOptions(column_types=stated, null_values=[""], strings_can_be_null=True)
    try:
        with filesystem.open_input_stream(path) as file:  # inflates .gz by its name
            reader = csv.open_csv(
                file,
                read_options=csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
                convert_options=options,
            )
            names = reader.schema.names
            if twice := [name for name in names if names.count(name) > 1]:
                raise DataError(f"{path}: two columns are named {twice[0]!r}")
            kept = [name for name in names if wanted(name)]
            for batch in reader:
                yield batch.select(kept)
    except pa.ArrowInvalid as error:
        header = _csv_header(filesystem, path)
        raise DataError(f"{path}: {_explained(str(error), header)}") from error


def _csv_header(filesystem: fs.FileSystem, path: str) -> list[str]:
    with filesystem.open_input_stream(path) as file:
        line = file.read(CSV_BLOCK_BYTES).split(b"\n")[0]
    return csv.read_csv(pa.BufferReader(line + b"\n")).column_names if line else []


def _explained(message: str, names: list[str]) -> str:
    """The parser's message with the column's name and the way out."""
    number = re.search(r"CSV column #(\d+)", message)
    if number is None or int(number[1]) >= len(names):
        return message
    column = names[int(number[1])]
    return (
        f"column {column!r}: {message}; the type was guessed from the first rows unless stated: "
        f"state it, e.g. types.{column}=double or types.{column}=string"
    )


def _parquet_batches(
    filesystem: fs.FileSystem, path: str, types: Types, wanted: Callable[[str], bool]
) -> Iterator[pa.RecordBatch]:
    try:
        with filesystem.open_input_file(path) as file:
            # the buffer would keep every row group that has been read
            parquet = pq.ParquetFile(file, pre_buffer=False)
            names = [name for name in parquet.schema_arrow.names if wanted(name)]
            for batch in parquet.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=names):
                for name in batch.schema.names:
                    if name in types:
                        place = batch.schema.get_field_index(name)
                        column = batch.column(place).cast(pa.type_for_alias(types[name]))
                        batch = batch.set_column(place, name, column)
                yield batch
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: {error}") from error


_READERS = {".csv": _csv_batches, ".csv.gz": _csv_batches, ".parquet": _parquet_batches}
_ENDING = re.compile(r"(\.csv|\.csv\.gz|\.parquet)$")


def _reader(path: str):
    ending = _ENDING.search(path)
    if ending is None:
        raise DataError(f"{path}: the name ends in none of {', '.join(_READERS)}")
    return _READERS[ending[0]]
