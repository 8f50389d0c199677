"""Threads that decode ahead: how many, how far, and always the same batches."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recap.data.order import Block
from recap.data.parquet import ParquetData
from recap.data.rows import Rows
from recap.data.stream import Stream
from recap.schema import Dense, Schema

SCHEMA = Schema(labels={"like": "is_like"}, dense={"row": Dense(column="row", length=1)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file of 40 row groups of two rows."""
    number = np.arange(80)
    table = pa.table({"row": pa.array(number.astype(np.float32)), "is_like": number % 2})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    return tmp_path


def data_of(folder: Path, **settings) -> ParquetData:
    settings = {"global_batch_size": 4, "examples_shuffle_buffer_size": 2, **settings}
    return ParquetData(inputs=f"{folder}/*.parquet", seg_dense_schema=SCHEMA, **settings)


def rows_of(data: ParquetData, **how) -> list[list[int]]:
    """The rows of each batch."""
    how = {"tasks": ["like"], "shuffle_seed": 1, "epochs": 2, **how}
    return [batch.dense["row"][:, 0].tolist() for batch, _ in data.batches(**how)]


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("threads", [1, 2, 7, 100])
def test_any_number_of_threads_gives_the_same_batches(folder, lanes, threads):
    settings = {"interleave_num_parallel_calls": lanes}
    expected = rows_of(data_of(folder, **settings))
    data = data_of(folder, map_num_parallel_calls=threads, **settings)
    assert rows_of(data) == expected
    assert rows_of(data, position=12) == expected[3:]
    for rank in (0, 1):  # of two in one lane: whole blocks lie between a rank's rows
        part = rows_of(data_of(folder, map_num_parallel_calls=threads), rank=rank, world_size=2)
        whole = rows_of(data_of(folder))
        assert part == [rows[2 * rank : 2 * rank + 2] for rows in whole]


class Meeting:
    """A step that waits until so many threads are in it, then lets all pass from there on."""

    reads = ()

    def __init__(self, threads: int) -> None:
        self.barrier = threading.Barrier(threads)
        self.met = threading.Event()

    def schema(self, schema: Schema) -> Schema:
        return schema

    def __call__(self, rows: Rows) -> Rows:
        if not self.met.is_set():
            self.barrier.wait(timeout=60)
            self.met.set()
        return rows


def test_so_many_threads_decode_at_once(folder):
    for lanes, threads in ((1, 3), (4, 4), (2, 6)):
        step = Meeting(threads)
        data = data_of(
            folder,
            preprocess={"meeting": step},
            map_num_parallel_calls=threads,
            interleave_num_parallel_calls=lanes,
        )
        assert len(rows_of(data)) == 40
        assert step.met.is_set()


@pytest.mark.parametrize(
    ("lanes", "threads", "most"),
    [(1, None, 2), (1, 1, 2), (1, 5, 6), (4, None, 8), (4, 4, 8), (4, 6, 12), (2, 1, 4)],
)
def test_no_more_blocks_are_held_than_the_setting_says(folder, lanes, threads, most, monkeypatch):
    begun: list[Block] = []
    load = Stream._load
    monkeypatch.setattr(
        Stream, "_load", lambda self, block: begun.append(block) or load(self, block)
    )
    data = data_of(
        folder,
        map_num_parallel_calls=threads,
        interleave_num_parallel_calls=lanes,
        global_batch_size=lanes,
        prefetch_batches=1,
    )
    batches = data.batches(tasks=["like"], shuffle_seed=1, epochs=1)
    for _ in range(2):  # of a row of each lane: the first block of two rows is still in use
        next(batches)
    batches.close()
    assert len(begun) <= most + lanes  # a batch is prefetched beyond those that were asked for


def test_a_number_below_one_is_refused(folder):
    with pytest.raises(ValueError, match="map_num_parallel_calls=0 must be 1 or more, or null"):
        data_of(folder, map_num_parallel_calls=0)
