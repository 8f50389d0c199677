"""Readers that fail: the consumer is told where and why, nothing hangs, no thread stays behind."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recap.data.files import DataError
from recap.data.parquet import ParquetData
from recap.data.rows import Rows
from recap.schema import Dense, Schema

SCHEMA = Schema(labels={"like": "is_like"}, dense={"row": Dense(columns=["row"], dtype="int64")})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four files of four row groups of 500 rows, which do not compress."""
    for part in range(4):
        number = np.arange(2000 * part, 2000 * part + 2000)
        table = pa.table({"row": number, "is_like": (number % 2).astype(np.int8)})
        path = tmp_path / f"part-{part}.parquet"
        pq.write_table(table, path, row_group_size=500, compression="none", use_dictionary=False)
    return tmp_path


def data_of(folder: Path, **settings) -> ParquetData:
    settings = {
        "global_batch_size": 100,
        "examples_shuffle_buffer_size": 500,
        "interleave_num_parallel_calls": 2,
        **settings,
    }
    return ParquetData(inputs=f"{folder}/*.parquet", seg_dense_schema=SCHEMA, **settings)


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not [thread.name for thread in left if thread.name.startswith("recap")]


def outcome(data: ParquetData, **rank: Any) -> BaseException | int:
    """How many rows came, or what was raised; a failure of this test if neither is within 60 s."""
    came: queue.SimpleQueue[BaseException | int] = queue.SimpleQueue()

    def consume() -> None:
        batches = data.batches(tasks=["like"], shuffle_seed=1, epochs=1, **rank)
        try:
            with closing(batches):
                came.put(sum(len(batch) for batch, _ in batches))
        except BaseException as error:
            came.put(error)

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    found = came.get(timeout=60)
    consumer.join()
    return found


class Failing:
    """A step that raises a ``kind`` of error where a row is ``at`` or beyond it."""

    reads = ("row",)

    def __init__(self, kind: type[Exception], at: int) -> None:
        self.kind, self.at = kind, at

    def schema(self, schema: Schema) -> Schema:
        return schema

    def __call__(self, rows: Rows) -> Rows:
        if (rows.dense["row"] >= self.at).any():
            raise self.kind("it is full")
        return rows


@pytest.mark.parametrize("how", ["cut in the middle", "gone", "empty"])
@pytest.mark.parametrize("threads", [None, 1, 8])
def test_a_file_that_is_damaged_after_the_start_stops_the_reader_with_its_name(
    folder, how, threads
):
    data = data_of(folder, map_num_parallel_calls=threads)
    assert data.num_rows == 8000  # footers are read
    path = folder / "part-2.parquet"
    content = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes(content[: len(content) // 2] if how == "cut in the middle" else b"")
    error = outcome(data)
    assert isinstance(error, DataError)
    assert f"{path}, row group " in str(error)


def test_on_ranks_those_that_read_the_file_are_told_and_the_others_end(folder):
    data = data_of(folder, interleave_num_parallel_calls=4)
    assert data.num_rows == 8000
    path = folder / "part-2.parquet"
    path.write_bytes(path.read_bytes()[:100])
    found = [outcome(data, rank=rank, world_size=4) for rank in range(4)]
    failed = [error for error in found if isinstance(error, DataError)]
    assert failed
    assert all("part-2.parquet, row group " in str(error) for error in failed)
    assert {rows for rows in found if isinstance(rows, int)} <= {2000}


@pytest.mark.parametrize("kind", [MemoryError, pa.ArrowMemoryError])
@pytest.mark.parametrize("ignore", [False, True])
def test_memory_that_is_full_stops_and_is_no_damage_of_the_file(folder, kind, ignore):
    step = Failing(kind, at=6000)
    data = data_of(
        folder, preprocess={"step": step}, ignore_data_errors=ignore, ignored_rows_limit=1.0
    )
    found = outcome(data)
    assert isinstance(found, kind)
    assert str(found) == "it is full"
    assert isinstance(found, Exception)
    (note,) = found.__notes__
    assert note.startswith(f"while reading {folder}/part-3.parquet, row group ")
    assert data.ignored is None or data.ignored.rows == 0


def test_what_a_step_raises_is_raised_as_it_is(folder):
    found = outcome(data_of(folder, preprocess={"step": Failing(ZeroDivisionError, at=0)}))
    assert isinstance(found, ZeroDivisionError)
    assert isinstance(found, Exception)
    (note,) = found.__notes__
    assert note.startswith(f"while reading {folder}/part-")


def test_a_reader_that_fails_ahead_lets_what_comes_before_it_be_read(folder):
    data = data_of(
        folder,
        interleave_num_parallel_calls=1,
        preprocess={"step": Failing(OSError, at=500)},
        map_num_parallel_calls=8,
    )
    batches = data.batches(tasks=["like"], shuffle_seed=None, epochs=1)
    assert sum(len(next(batches)[0]) for _ in range(5)) == 500
    with pytest.raises(DataError, match=r"part-0\.parquet, row group 1: it is full"):
        next(batches)
    with pytest.raises(StopIteration):  # it has ended
        next(batches)


def test_a_consumer_that_leaves_waits_for_no_reader_that_failed(folder):
    data = data_of(folder, preprocess={"step": Failing(MemoryError, at=500)})
    batches = data.batches(tasks=["like"], shuffle_seed=None, epochs=None)
    batches.close()
    batches = data.batches(tasks=["like"], shuffle_seed=None, epochs=None, position=0)
    with closing(batches), pytest.raises(MemoryError, match="it is full"):
        for _ in batches:
            pass
