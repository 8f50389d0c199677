"""Row groups and files that cannot be read: left out, counted, named, and too many refused."""

from __future__ import annotations

import logging
import pickle
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recap.batch import Batch
from recap.data.files import DataError
from recap.data.ignored import Ignored, RowGroupError
from recap.data.parquet import ParquetData
from recap.data.preprocess import DownsampleNegatives
from recap.schema import Dense, Schema, Sparse

SCHEMA = Schema(
    labels={"like": "is_like"},
    dense={"row": Dense(column="row", length=1)},
    sparse={"tag": Sparse(column="tag", vocabulary=9)},
)


def write(path: Path, first: int, rows: int = 40, **columns) -> Path:
    """Rows numbered from ``first``, in row groups of ten."""
    number = np.arange(first, first + rows)
    table = {
        "row": pa.array(number.astype(np.float32)),
        "tag": pa.array([[int(i) % 9] * (int(i) % 3) for i in number]),
        "is_like": pa.array((number % 2).astype(np.int8)),
    }
    pq.write_table(pa.table(table | columns), path, row_group_size=10)
    return path


def damage(path: Path, row_group: int, column: str = "row") -> None:
    """Zeroes the middle of a column chunk."""
    content = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(row_group)
    (chunk,) = (
        group.column(i)
        for i in range(group.num_columns)
        if group.column(i).path_in_schema.split(".")[0] == column
    )
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    end = start + chunk.total_compressed_size
    for i in range(start, end):
        content[i] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five files of 40 rows; rows 50 to 59 cannot be decoded, 170 to 179 hold a label 7."""
    for i in range(5):
        write(tmp_path / f"part-{i}.parquet", 40 * i)
    damage(tmp_path / "part-1.parquet", row_group=1)
    labels = np.arange(160, 200) % 2
    labels[18] = 7
    write(tmp_path / "part-4.parquet", 160, is_like=pa.array(labels))
    return tmp_path


# makes the batch of as many rows, and needs all of them on every rank
WHOLE_BATCHES = DownsampleNegatives(batch_multiplier=1, engagements_list=["like"])
LOST = {*range(50, 60), *range(170, 180)}
THERE = [row for row in range(200) if row not in LOST]


def data_of(folder: Path, **settings) -> ParquetData:
    settings = {
        "inputs": str(folder / "*.parquet"),
        "global_batch_size": 8,
        "examples_shuffle_buffer_size": 30,
        "ignore_data_errors": True,
        "ignored_rows_limit": 0.1,
        **settings,
    }
    return ParquetData(seg_dense_schema=SCHEMA, **settings)


def batches_of(data: ParquetData, **how) -> list[tuple[Batch, int]]:
    return list(data.batches(**{"tasks": ["like"], "shuffle_seed": 1, "epochs": 1, **how}))


def rows_in(batches: list[tuple[Batch, int]]) -> list[int]:
    return [int(row) for batch, _ in batches for row in batch.dense["row"][:, 0]]


@pytest.mark.parametrize("lanes", [1, 4, 8])  # 8 lanes of 25 rows cut row groups in two
@pytest.mark.parametrize("seed", [None, 1])
def test_what_cannot_be_read_is_left_out_and_all_else_comes_once(folder, lanes, seed):
    data = data_of(folder, interleave_num_parallel_calls=lanes)
    batches = batches_of(data, shuffle_seed=seed, epochs=2)
    assert sorted(rows_in(batches)) == sorted(THERE * 2)
    assert data.ignored is not None
    assert data.ignored.rows == 20
    for batch, _ in batches:  # bags and labels went with their rows
        rows = batch.dense["row"][:, 0].int()
        assert batch.labels[:, 0].tolist() == (rows % 2).tolist()
        offsets = batch.sparse["tag"].offsets
        assert (offsets[1:] - offsets[:-1]).tolist() == (rows % 3).tolist()


def test_without_the_setting_the_first_row_group_that_cannot_be_read_stops(folder):
    data = data_of(folder, ignore_data_errors=False)
    assert data.ignored is None
    out = r"; train_data\.ignore_data_errors=true leaves it out$"
    with pytest.raises(DataError, match=rf"part-\d.parquet, row group 1: .*{out}"):
        batches_of(data)


def test_a_flipped_bit_that_checksums_of_pages_show_is_an_error(tmp_path):
    number = np.arange(1000, 1020)
    table = pa.table({"row": number.astype(np.float32), "tag": number, "is_like": number % 2})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(1007).tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet, row group 0: .*CRC"):
        batches_of(data_of(tmp_path, ignore_data_errors=False))


def test_each_row_group_is_told_once_and_all_of_them_at_the_end(folder, caplog):
    with caplog.at_level(logging.WARNING):
        data = data_of(folder, interleave_num_parallel_calls=2)
        for seed in (1, 2):
            batches_of(data, shuffle_seed=seed, epochs=3)
    undecoded, bad_label, total = sorted(caplog.messages, key=lambda m: ("ignored:" not in m, m))
    assert undecoded.startswith(f"ignored: {folder}/part-1.parquet, row group 1: ")
    assert undecoded.endswith("; it holds 10 rows")
    assert bad_label == (
        f"ignored: {folder}/part-4.parquet, row group 1: label column 'is_like', row 8: 7 is "
        "neither 0 nor 1; it holds 10 rows"
    )
    assert total == "ignored 2 row groups with 20 rows, 10.000% of the data"


def test_positions_count_rows_that_are_left_out(folder):
    batches = batches_of(data_of(folder), shuffle_seed=None)
    assert [position for _, position in batches] == list(range(8, 201, 8))
    lengths = {position: len(batch) for batch, position in batches}
    assert (lengths[48], lengths[56], lengths[64], lengths[72]) == (8, 2, 4, 8)
    batches = batches_of(data_of(folder, global_batch_size=5), shuffle_seed=None)
    empty = [position for batch, position in batches if not len(batch)]
    assert empty == [55, 60, 175, 180]
    assert [position for _, position in batches] == list(range(5, 201, 5))


def test_a_last_batch_of_one_row_is_kept_where_nothing_was_lost(tmp_path):
    write(tmp_path / "a.parquet", 0, 9)
    assert [len(batch) for batch, _ in batches_of(data_of(tmp_path))] == [8, 1]


@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_a_stream_continues_exactly_wherever_it_stops(folder, lanes):
    settings = {"interleave_num_parallel_calls": lanes}
    whole = batches_of(data_of(folder, **settings), epochs=2)
    for taken in range(1, len(whole)):
        afresh = data_of(folder, **settings)  # knows of no row group that is lost
        rest = batches_of(afresh, epochs=2, position=whole[taken - 1][1])
        assert rows_in(rest) == rows_in(whole[taken:])


@pytest.mark.parametrize("step", [None, WHOLE_BATCHES])
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_leave_out_the_same_rows_of_the_same_batches(folder, world_size, lanes, step):
    settings = {"interleave_num_parallel_calls": lanes, "preprocess": {"step": step}}
    alone = batches_of(data_of(folder, **settings))
    parts = []
    for rank in range(world_size):
        data = data_of(folder, **settings)
        parts.append(batches_of(data, rank=rank, world_size=world_size))
    for whole, *shared in zip(alone, *parts, strict=True):
        assert {position for _, position in shared} == {whole[1]}
        assert sorted(rows_in(shared)) == sorted(rows_in([whole]))
    assert sorted(rows_in(alone)) == THERE


def test_ranks_that_agree_count_the_same_and_each_row_group_once(folder):
    settings = {"interleave_num_parallel_calls": 4, "global_batch_size": 12}
    datas = [data_of(folder, **settings) for _ in range(3)]  # rank 1 shares lanes with the others
    found = []
    for rank, data in enumerate(datas):
        batches_of(data, shuffle_seed=None, rank=rank, world_size=3)
        assert data.ignored is not None
        data.ignored.agree(lambda mine: found.append(mine) or [])
    assert [len(mine) for mine in found] == [1, 1, 1]  # the one in lane 1, or that in lane 3
    assert len({next(iter(mine)) for mine in found}) == 2
    for data in datas:
        assert data.ignored is not None
        assert data.ignored.rows == 10  # what this rank has come across
        data.ignored.agree(lambda _: pickle.loads(pickle.dumps(found)))
        assert data.ignored.rows == 20
        data.ignored.agree(lambda _: found)
        assert data.ignored.rows == 20


def test_a_limit_that_only_all_ranks_together_exceed_stops_each_of_them_with_the_same_words():
    ranks = [Ignored(0.3, num_rows=100) for _ in range(2)]
    ranks[0].add(RowGroupError("b.parquet", 0, 20, "damaged"))
    ranks[1].add(RowGroupError("a.parquet", 3, 20, "torn"))
    found = []
    for rank in ranks:
        rank.agree(lambda mine: found.append(mine) or [])
        rank.refuse_too_many()  # alone, none of them exceeds it
    told = []
    for rank in ranks:
        rank.agree(lambda _: found)
        with pytest.raises(DataError) as error:
            rank.refuse_too_many()
        told.append(str(error.value))
    assert told[0] == told[1]
    assert told[0] == (
        "ignored 2 row groups with 40 rows, 40.000% of the data, above the limit of 30.000%, "
        "train_data.ignored_rows_limit=0.3:\na.parquet, row group 3: torn\n"
        "b.parquet, row group 0: damaged"
    )


def test_what_only_another_rank_cannot_read_is_read_here(tmp_path):
    path = write(tmp_path / "a.parquet", 0, 20)
    data = data_of(tmp_path, ignored_rows_limit=0.5)
    assert data.ignored is not None
    data.ignored.agree(lambda _: [{(str(path), 0): ("its disk is gone", 10)}])
    assert sorted(rows_in(batches_of(data))) == list(range(20))
    assert data.ignored.rows == 10


def test_what_a_read_ahead_found_above_the_limit_stops_the_next_stream(folder):
    data = data_of(folder, ignored_rows_limit=0.0, examples_shuffle_buffer_size=10)
    data = replace(data, map_num_parallel_calls=8)
    stream = data.batches(tasks=["like"], shuffle_seed=None, epochs=1)
    first, position = next(stream)  # row group 5, which is lost, is on its way
    assert rows_in([(first, position)]) == list(range(8))
    ignored = data.ignored
    assert ignored is not None
    fault = RowGroupError(str(folder / "part-1.parquet"), 1, 10, "damaged")
    with pytest.raises(DataError, match="above the limit"):
        ignored.add(fault)  # as the thread did whose block nobody came to
    stream.close()
    with pytest.raises(DataError, match=r"ignored 1 row groups .* above the limit of 0\.000%"):
        batches_of(data, shuffle_seed=None)


def test_of_what_is_left_out_the_words_are_kept_and_not_the_rows_that_were_being_read():
    ignored = Ignored(0.5, num_rows=100)
    fault = RowGroupError("a.parquet", 3, 10, "damaged")
    gone = weakref.ref(fault)
    ignored.add(fault)
    del fault  # with its trace, and the arrays of the functions in it
    assert gone() is None
    assert ignored.rows == 10
    with pytest.raises(
        DataError, match=r"60 rows, 60\.000% .*:\na\.parquet, row group 3: damaged\nb"
    ):
        ignored.add(RowGroupError("b.parquet", 0, 50, "damaged"))


def test_too_many_rows_left_out_stop_with_all_that_was(folder):
    with pytest.raises(DataError) as error:
        batches_of(data_of(folder, ignored_rows_limit=0.09), shuffle_seed=None)
    first, *faults = str(error.value).splitlines()
    assert first == (
        "ignored 2 row groups with 20 rows, 10.000% of the data, above the limit of 9.000%, "
        "train_data.ignored_rows_limit=0.09:"
    )
    assert ["part-1.parquet, row group 1: " in faults[0], "row 8: 7 is" in faults[1]] == [True] * 2
    with pytest.raises(DataError, match="ignored 1 row groups with 10 rows"):
        batches_of(data_of(folder, ignored_rows_limit=0.0))


def test_a_data_set_of_which_nothing_can_be_read_stops_whatever_the_limit(tmp_path):
    path = write(tmp_path / "a.parquet", 0, 10)
    damage(path, 0)
    with pytest.raises(DataError, match=r"ignored 1 row groups with 10 rows, 100\.000%"):
        batches_of(data_of(tmp_path, ignored_rows_limit=1.0), epochs=None)


def test_files_without_a_footer_are_left_out_up_to_the_limit(folder, caplog):
    whole = (folder / "part-0.parquet").read_bytes()
    (folder / "part-0.parquet").write_bytes(whole[: len(whole) // 2])
    data = data_of(folder, ignored_rows_limit=0.2)
    with caplog.at_level(logging.WARNING):
        assert sorted(rows_in(batches_of(data))) == THERE[40:]
        batches_of(data)
    assert data.num_rows == 160
    assert len(data.listing.left_out) == 1
    (told,) = [message for message in caplog.messages if "part-0" in message]
    assert told.startswith(f"ignored: {folder}/part-0.parquet: not a whole Parquet file, truncated")
    too_many = (
        r"1 of 5 files cannot be read, above the limit of 19\.000%, train_data\.ignored_rows_"
    )
    with pytest.raises(DataError, match=too_many):
        _ = data_of(folder, ignored_rows_limit=0.19).sources
    with pytest.raises(DataError, match=r"part-0\.parquet: not a whole Parquet file"):
        _ = data_of(folder, ignored_rows_limit=0.2, ignore_data_errors=False).sources


@pytest.mark.parametrize("limit", [-0.1, 1.1, float("nan")])
def test_a_limit_that_is_no_share_is_refused(folder, limit):
    with pytest.raises(ValueError, match=rf"ignored_rows_limit={limit} must be a share"):
        data_of(folder, ignored_rows_limit=limit)
