"""The files as one rank finds them and all ranks read them; what a data set is known by."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recap.data import parquet
from recap.data.files import DataError
from recap.data.parquet import ParquetData
from recap.schema import Dense, Schema

SCHEMA = Schema(labels={"like": "is_like"}, dense={"row": Dense(columns=["row"], dtype="int64")})


def write(path: Path, first: int, *, row_group_size: int = 8, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    number = np.arange(first, first + 20)
    table = pa.table({"row": number, "is_like": (number % 2).astype(np.int8), **columns})
    # as pandas does, a note that differs from file to file
    table = table.replace_schema_metadata({"first": str(first)})
    pq.write_table(table, path, row_group_size=row_group_size)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        write(tmp_path / "data" / f"part-{i}.parquet", 20 * i)
    return tmp_path / "data"


def data_of(folder: Path, **settings) -> ParquetData:
    settings = {"inputs": str(folder), "global_batch_size": 6, **settings}
    return ParquetData(seg_dense_schema=SCHEMA, **settings)


def rows_of(data: ParquetData, **how) -> list[int]:
    how = {"tasks": ["like"], "shuffle_seed": 1, "epochs": 1, **how}
    return [n for batch, _ in data.batches(**how) for n in batch.dense["row"][:, 0].tolist()]


def sent(data: ParquetData, other: ParquetData) -> ParquetData:
    """``other``, with the files that ``data`` found, as a broadcast brings them."""
    other.adopt(pickle.loads(pickle.dumps(data.listing)))
    return other


def test_a_rank_reads_the_files_that_another_found_and_looks_for_none(folder, monkeypatch):
    first = data_of(folder)
    expected = rows_of(first)
    write(folder / "part-3.parquet", 60)  # while ranks start
    monkeypatch.setattr(parquet, "matching_files", None)
    monkeypatch.setattr(parquet, "open_sources", None)
    other = sent(first, data_of(folder))
    assert other.num_rows == 60
    assert other.fingerprint == first.fingerprint
    assert other.faults(["like"]) == []
    assert rows_of(other) == expected
    assert rows_of(other.opening(), shuffle_seed=None) == list(range(20))


def test_why_files_are_not_found_is_told_on_every_rank(folder):
    first = data_of(folder, inputs=[str(folder), str(folder / "nope"), str(folder / "x*")])
    for data in (first, sent(first, data_of(folder)), sent(first, data_of(folder))):
        for _ in range(2):
            with pytest.raises(DataError, match=r"nope: no such file or folder\n.*x\*: no file ma"):
                _ = data.sources


def test_files_that_are_left_out_are_told_by_the_rank_that_looked(folder, caplog):
    (folder / "part-1.parquet").write_bytes(b"no footer")
    settings = {"ignore_data_errors": True, "ignored_rows_limit": 0.5}
    first = data_of(folder, **settings)
    other = sent(first, data_of(folder, **settings))
    assert rows_of(first) == rows_of(other)
    assert len([m for m in caplog.messages if "part-1" in m]) == 1
    assert [len(data.listing.left_out) for data in (first, other)] == [1, 1]


def test_files_with_the_same_columns_share_a_schema_and_travel_light(tmp_path):
    columns: dict[str, Any] = {f"feature_{i}": np.zeros(20, np.float32) for i in range(200)}
    for i in range(20):
        write(tmp_path / f"part-{i:02}.parquet", 20 * i, **columns)
    write(tmp_path / "part-20.parquet", 400)  # without the features
    data = data_of(tmp_path, inputs=[str(tmp_path), *map(str, sorted(tmp_path.iterdir()))])
    assert len({id(source.schema) for source in data.sources}) == 2
    assert len({id(source.filesystem) for source in data.sources}) == 1
    size = len(pickle.dumps(data.listing))
    assert size < 2 * len(pickle.dumps(data.sources[0].schema)) + 21 * 300
    again = pickle.loads(pickle.dumps(data.listing))
    assert len({id(source.schema) for source in again.sources}) == 2
    assert again == data.listing


def test_a_fault_of_files_that_share_a_schema_names_one_and_counts_the_others(folder):
    write(folder / "part-9.parquet", 60, x=np.zeros(20))
    data = data_of(folder)
    schema = Schema(labels=SCHEMA.labels, dense={"x": Dense(column="x", length=1)})
    (fault,) = replace(data, seg_dense_schema=schema).faults(["like"])
    assert fault.startswith(f"{folder}/part-0.parquet and 2 more files: ")


def test_a_fingerprint_stays_with_a_copy_and_with_what_does_not_move_rows(folder, tmp_path):
    known = data_of(folder).fingerprint
    assert len(known) == 16
    assert set(known) <= set("0123456789abcdef")
    for i in range(3):
        write(tmp_path / "else" / "where" / f"part-{i}.parquet", 20 * i)
    assert data_of(tmp_path / "else" / "where").fingerprint == known
    for settings in (
        {"global_batch_size": 12},
        {"prefetch_batches": 9, "map_num_parallel_calls": 3},
        {"inputs": f"file://{folder}/*.parquet"},
    ):
        assert data_of(folder, **settings).fingerprint == known


def test_a_fingerprint_changes_with_all_that_gives_rows_other_places(folder):
    prints = [data_of(folder).fingerprint]
    for settings in (
        {"interleave_num_parallel_calls": 2},
        {"examples_shuffle_buffer_size": 7},
        {"file_batch_size": 2},
        {"num_files_to_keep": 2},
        {"inputs": [f"{folder}/part-{i}.parquet" for i in (1, 0, 2)]},
    ):
        prints.append(data_of(folder, **settings).fingerprint)
    (folder / "part-0.parquet").rename(folder / "part-00.parquet")
    prints.append(data_of(folder).fingerprint)
    write(folder / "part-2.parquet", 40, row_group_size=4)
    prints.append(data_of(folder).fingerprint)
    write(folder / "part-3.parquet", 60)
    prints.append(data_of(folder).fingerprint)
    assert len(set(prints)) == 9


def test_a_fingerprint_knows_folders_apart_below_the_one_that_files_share(tmp_path):
    for day in ("01", "02"):
        write(tmp_path / "2023/01" / day / "part-0.parquet", 0)
    one_file = data_of(tmp_path / "2023/01/01")
    assert one_file.fingerprint == data_of(tmp_path / "2023/01/02").fingerprint
    both = data_of(tmp_path, inputs=f"{tmp_path}/**/*.parquet").fingerprint
    (tmp_path / "2023/01/02").rename(tmp_path / "2023/01/03")
    assert data_of(tmp_path, inputs=f"{tmp_path}/**/*.parquet").fingerprint != both


def test_a_pattern_within_a_folder_does_not_look_below_it(folder):
    write(folder / "deeper" / "part-7.parquet", 0)
    (folder / "deeper").chmod(0)
    try:
        assert data_of(folder, inputs=f"{folder}/*.parquet").num_rows == 60
        assert data_of(folder).num_rows == 60
    finally:
        (folder / "deeper").chmod(0o755)
    assert data_of(folder, inputs=f"{folder}/**/*.parquet").num_rows == 80
    assert data_of(folder, inputs=f"{folder.parent}/d*/*.parquet").num_rows == 60
