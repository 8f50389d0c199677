"""Which files a data set reads: patterns, days or hours, and the first few of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recap.data.dates import ExplicitDateInputs, ExplicitDatetimeInputs
from recap.data.files import DataError
from recap.data.parquet import ParquetData
from recap.schema import Dense, Schema

SCHEMA = Schema(labels={"like": "is_like"}, dense={"row": Dense(column="row", length=1)})


def write(path: Path, first: int, rows: int = 4) -> Path:
    """Rows numbered from ``first``, in row groups of two."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = np.arange(first, first + rows)
    table = pa.table({"row": pa.array(number.astype(np.float32)), "is_like": number % 2})
    pq.write_table(table, path, row_group_size=2)
    return path


def rows_of(data: ParquetData, seed: int | None = None, epochs: int = 1) -> list[int]:
    """The numbers of the rows, in the order in which they come."""
    batches = data.batches(tasks=["like"], shuffle_seed=seed, epochs=epochs)
    return [int(row) for batch, _ in batches for row in batch.dense["row"][:, 0]]


def data_of(**settings) -> ParquetData:
    return ParquetData(seg_dense_schema=SCHEMA, **{"global_batch_size": 2, **settings})


@pytest.fixture
def days(tmp_path: Path) -> Path:
    """Three days of four rows, of which the last has three hours of one row."""
    for i in range(3):
        write(tmp_path / f"2023/01/0{i + 1}/part.parquet", 4 * i)
        write(tmp_path / f"2023/01/03/0{i}/part.parquet", 100 + i, rows=1)
    return tmp_path


def test_a_data_set_is_read_by_days_or_by_hours(days: Path):
    root = str(days)
    by_days = ExplicitDateInputs(data_root=root, end_date="2023-01-02", days=2)
    assert rows_of(data_of(explicit_date_inputs=by_days)) == list(range(8))
    by_hours = ExplicitDatetimeInputs(data_root=root, end_datetime="2023-01-03T02", hours=2)
    assert rows_of(data_of(explicit_datetime_inputs=by_hours)) == [101, 102]


def test_files_named_in_no_way_or_in_two_ways_are_refused(days: Path):
    keys = "inputs, explicit_date_inputs, explicit_datetime_inputs"
    with pytest.raises(ValueError, match=f"^inputs=null: exactly one of {keys} must name the"):
        data_of()
    by_days = ExplicitDateInputs(data_root=str(days), end_date="2023-01-02", days=2)
    with pytest.raises(ValueError, match=f"^inputs='x': explicit_date_inputs given too; .*{keys}"):
        data_of(inputs="x", explicit_date_inputs=by_days)


def test_all_that_is_wrong_with_the_numbers_is_told_at_once():
    with pytest.raises(ValueError, match=r"^inputs=null: ") as error:
        data_of(num_files_to_keep=0, file_batch_size=-1, global_batch_size=0)
    assert [line.split(" must")[0] for line in str(error.value).splitlines()[1:]] == [
        "global_batch_size=0",
        "num_files_to_keep=0",
        "file_batch_size=-1",
    ]


def test_the_first_files_by_name_are_kept(days: Path):
    write(days / "a.parquet", 50)
    inputs = [f"{days}/2023/01/*/part.parquet", f"{days}/a.parquet"]
    assert rows_of(data_of(inputs=inputs, num_files_to_keep=2)) == list(range(8))
    assert rows_of(data_of(inputs=inputs[::-1], num_files_to_keep=2)) == list(range(8))
    assert len(data_of(inputs=inputs).sources) == 4
    by_days = ExplicitDateInputs(data_root=str(days), end_date="2023-01-03", days=2)
    kept = data_of(explicit_date_inputs=by_days, num_files_to_keep=1)
    assert rows_of(kept) == list(range(4, 8))  # the oldest day


def test_files_that_are_not_kept_are_not_opened(days: Path):
    (days / "2023/01/02/part.parquet").write_bytes(b"")
    inputs = f"{days}/2023/01/*/part.parquet"
    assert rows_of(data_of(inputs=inputs, num_files_to_keep=1)) == list(range(4))


def test_every_pattern_that_matches_nothing_is_named(days: Path):
    with pytest.raises(DataError) as error:
        _ = data_of(inputs=[f"{days}/x*", str(days / "2023/01/01"), f"{days}/y"]).sources
    assert str(error.value).splitlines() == [
        f"{days}/x*: no file matches",
        f"{days}/y: no such file or folder",
    ]


def test_a_batch_of_files_is_read_before_the_next_one(days: Path):
    inputs = f"{days}/2023/01/*/part.parquet"
    data = data_of(inputs=inputs, file_batch_size=1, examples_shuffle_buffer_size=1)
    for seed in range(5):
        files = [row // 4 for row in rows_of(data, seed)]
        assert [len(set(files[i : i + 4])) for i in (0, 4, 8)] == [1, 1, 1]
    mixed = data_of(inputs=inputs, examples_shuffle_buffer_size=1)
    assert any(len({row // 4 for row in rows_of(mixed, seed)[:4]}) > 1 for seed in range(5))
