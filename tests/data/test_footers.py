"""Footers that are parsed once, not for each row group."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recap.data import files
from recap.data.files import DataError, Footers
from recap.data.parquet import ParquetData
from recap.schema import Dense, Schema

SCHEMA = Schema(labels={"like": "is_like"}, dense={"row": Dense(column="row", length=1)})


def write(path: Path, first: int = 0, rows: int = 20) -> None:
    """Rows numbered from ``first``, in row groups of two."""
    number = [float(first + i) for i in range(rows)]
    pq.write_table(pa.table({"row": number, "is_like": [0] * rows}), path, row_group_size=2)


def rows_of(data: ParquetData, epochs: int = 1) -> list[float]:
    batches = data.batches(tasks=["like"], shuffle_seed=None, epochs=epochs)
    return [row for batch, _ in batches for row in batch.dense["row"][:, 0].tolist()]


def data_of(folder: Path) -> ParquetData:
    return ParquetData(inputs=str(folder), seg_dense_schema=SCHEMA, global_batch_size=2)


def test_a_stream_parses_a_files_footer_once(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", first=20)
    data = data_of(tmp_path)
    assert len(data.sources) == 2
    given: list[bool] = []
    one = pq.ParquetFile

    def opened(*args, metadata, **settings):
        given.append(metadata is not None)
        return one(*args, metadata=metadata, **settings)

    monkeypatch.setattr(files.pq, "ParquetFile", opened)
    assert rows_of(data, epochs=2) == [*range(40)] * 2
    assert len(given) == 40  # row groups
    assert given.count(False) == 2


def test_a_file_of_another_size_than_was_found_is_looked_at_anew(tmp_path):
    write(tmp_path / "a.parquet")
    data = data_of(tmp_path)
    assert data.num_rows == 20
    batches = data.batches(tasks=["like"], shuffle_seed=None, epochs=None)
    next(batches)
    write(tmp_path / "a.parquet", rows=2)
    with pytest.raises(DataError, match=r"a\.parquet, row group"):
        list(batches)


def footer(rows: int) -> pq.FileMetaData:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [0] * rows}), sink, row_group_size=1)
    return pq.read_metadata(pa.BufferReader(sink.getvalue()))


def test_only_so_many_bytes_of_footers_are_kept(monkeypatch):
    small, large = footer(1), footer(50)
    monkeypatch.setattr(files, "FOOTER_BYTES", 2 * small.serialized_size)
    footers = Footers()
    names = [("local", path) for path in "abc"]
    for name in names:
        footers.keep(name, small)
    assert [footers.of(name) is not None for name in names] == [False, True, True]
    footers.keep(names[1], small)  # asked for again: c is the one to go
    footers.keep(names[0], small)
    assert [footers.of(name) is not None for name in names] == [True, True, False]
    footers.keep(names[2], large)
    assert [footers.of(name) is not None for name in names] == [False, False, True]
