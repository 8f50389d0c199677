"""The promise to many ranks: every row of an epoch once, however many ranks come and go."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recap.batch import Batch
from recap.data.parquet import ParquetData
from recap.data.preprocess import DownsampleNegatives
from recap.schema import Dense, Schema, Sparse

SCHEMA = Schema(
    labels={"like": "is_like"},
    dense={"row": Dense(columns=["row"], dtype="int64")},
    sparse={"tag": Sparse(column="tag", vocabulary=5)},
)
RANKS = (1, 2, 3, 4)  # all of them divide the batches of 12 and 24

Parts = list[tuple[Batch, int]]  # what one rank yields


def write(folder: Path, files: list[list[int]]) -> None:
    """``files[f]`` are the rows of the row groups of file f; rows are numbered through."""
    first = 0
    schema = pa.schema([("row", pa.int64()), ("tag", pa.list_(pa.int64())), ("is_like", pa.int8())])
    for f, groups in enumerate(files):
        with pq.ParquetWriter(folder / f"part-{f}.parquet", schema) as writer:
            for rows in groups:
                number = np.arange(first, first + rows)
                columns = {
                    "row": pa.array(number),
                    "tag": pa.array([[int(n) % 5] * (int(n) % 3) for n in number], schema[1].type),
                    "is_like": pa.array((number % 3 == 0).astype(np.int8)),
                }
                writer.write_table(pa.table(columns), row_group_size=rows)
                first += rows


def numbers(batch: Batch) -> list[int]:
    """The numbers of a batch's rows, of which labels and bags follow."""
    found = batch.dense["row"][:, 0]
    assert batch.labels[:, 0].tolist() == (found % 3 == 0).tolist()
    bag = batch.sparse["tag"]
    assert (bag.offsets[1:] - bag.offsets[:-1]).tolist() == (found % 3).tolist()
    return found.tolist()


def from_(data: ParquetData, position: int, epochs: int, **rank: Any) -> Parts:
    batches = data.batches(tasks=["like"], shuffle_seed=5, epochs=epochs, position=position, **rank)
    return list(batches)


def by_ranks(data: ParquetData, world_size: int, *, position: int = 0, epochs: int) -> list[Parts]:
    """What each rank yields; all of them at the same positions."""
    ranks = [
        from_(data, position, epochs, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    places = [[place for _, place in parts] for parts in ranks]
    assert places == places[:1] * world_size
    return ranks


files_of_row_groups = st.lists(
    st.lists(st.integers(1, 30), min_size=1, max_size=5), min_size=1, max_size=4
)


@settings(max_examples=25, deadline=None)
@given(
    files=files_of_row_groups,
    batch=st.sampled_from([12, 24]),
    lanes=st.sampled_from([1, 2, 3, 4, 6, 12]),
    buffer=st.integers(1, 60),
    file_batch_size=st.none() | st.integers(1, 3),
    epochs=st.integers(1, 3),
    stops=st.lists(st.tuples(st.sampled_from(RANKS), st.integers(0, 6)), max_size=4),
    last=st.sampled_from(RANKS),
)
def test_a_run_that_stops_anywhere_and_goes_on_with_other_ranks_sees_every_row_once_an_epoch(
    tmp_path_factory, files, batch, lanes, buffer, file_batch_size, epochs, stops, last
):
    folder = tmp_path_factory.mktemp("data")
    write(folder, files)
    data = ParquetData(
        inputs=str(folder),
        seg_dense_schema=SCHEMA,
        global_batch_size=batch,
        examples_shuffle_buffer_size=buffer,
        interleave_num_parallel_calls=lanes,
        file_batch_size=file_batch_size,
    )
    alone = from_(data, 0, epochs)
    position, seen = 0, []
    for world_size, steps in [*stops, (last, len(alone))]:
        ranks = by_ranks(data, world_size, position=position, epochs=epochs)
        for parts in list(zip(*ranks, strict=True))[:steps]:  # killed behind so many steps
            seen.append([n for part, _ in parts for n in numbers(part)])
            position = parts[0][1]
    assert seen == [numbers(whole) for whole, _ in alone]  # and each batch in one rank's order
    rows = sum(map(sum, files))
    assert Counter(n for batch in seen for n in batch) == dict.fromkeys(range(rows), epochs)


@settings(max_examples=15, deadline=None)
@given(
    files=files_of_row_groups,
    multiplier=st.integers(1, 4),
    lanes=st.sampled_from([1, 3, 4]),
    epochs=st.integers(1, 2),
    stops=st.lists(st.tuples(st.sampled_from(RANKS), st.integers(0, 3)), max_size=3),
    last=st.sampled_from(RANKS),
)
def test_with_negatives_left_out_all_ranks_together_make_the_batches_of_one(
    tmp_path_factory, files, multiplier, lanes, epochs, stops, last
):
    folder = tmp_path_factory.mktemp("data")
    write(folder, files)
    step = DownsampleNegatives(batch_multiplier=multiplier, engagements_list=["like"])
    data = ParquetData(
        inputs=str(folder),
        seg_dense_schema=SCHEMA,
        global_batch_size=12,
        examples_shuffle_buffer_size=20,
        interleave_num_parallel_calls=lanes,
        preprocess={"downsample_negatives": step},
    )
    alone = from_(data, 0, epochs)
    position = done = 0
    for world_size, steps in [*stops, (last, len(alone))]:
        ranks = by_ranks(data, world_size, position=position, epochs=epochs)
        for parts in list(zip(*ranks, strict=True))[:steps]:
            whole, position = alone[done]
            assert {place for _, place in parts} == {position}
            for rank, (part, _) in enumerate(parts):
                assert numbers(part) == numbers(whole)[rank::world_size]
                if whole.weights is not None:
                    assert part.weights is not None
                    assert torch.equal(part.weights, whole.weights[rank::world_size])
            done += 1
    assert done == len(alone)
    if multiplier == 1:  # nothing is left out
        rows = Counter(n for batch, _ in alone for n in numbers(batch))
        assert rows == dict.fromkeys(range(sum(map(sum, files))), epochs)


@pytest.mark.parametrize("lanes", [1, 2, 12])
def test_an_uneven_end_leaves_some_ranks_without_rows_and_none_without_the_batch(tmp_path, lanes):
    write(tmp_path, [[9, 4]])  # 13 rows: a batch of 12 and one of a single row
    data = ParquetData(
        inputs=str(tmp_path),
        seg_dense_schema=SCHEMA,
        global_batch_size=12,
        interleave_num_parallel_calls=lanes,
    )
    ranks = by_ranks(data, 4, epochs=1)
    assert [[len(part) for part, _ in parts] for parts in ranks].count([3, 0]) == 3
    assert sum(len(parts[1][0]) for parts in ranks) == 1
    assert {place for parts in ranks for _, place in parts} == {12, 24}


def test_without_end_all_ranks_go_on_as_one_through_epochs_of_any_length(tmp_path):
    write(tmp_path, [[5, 6], [9]])  # 20 rows: batches of 12 run from one epoch into the next
    data = ParquetData(
        inputs=str(tmp_path),
        seg_dense_schema=SCHEMA,
        global_batch_size=12,
        interleave_num_parallel_calls=4,
        examples_shuffle_buffer_size=4,
    )

    def taken(**rank: Any) -> list[list[int]]:
        stream = data.batches(tasks=["like"], shuffle_seed=5, epochs=None, **rank)
        with closing(stream) as batches:
            return [numbers(batch) for batch, _ in islice(batches, 25)]

    alone = taken()
    assert {len(batch) for batch in alone} == {12}
    ranks = [taken(rank=rank, world_size=3) for rank in range(3)]
    assert [[*chain(*parts)] for parts in zip(*ranks, strict=True)] == alone
    assert Counter(chain(*alone)) == dict.fromkeys(range(20), 15)
