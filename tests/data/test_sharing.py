"""What ranks decode more than once, and the warnings that say how to spare it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recap.data.parquet import ParquetData
from recap.data.preprocess import DownsampleNegatives
from recap.data.row_groups import RowGroups
from recap.data.sharing import busiest, decodings, fitting_lanes
from recap.schema import Dense, Schema

SCHEMA = Schema(labels={"like": "is_like"}, dense={"row": Dense(columns=["row"], dtype="int64")})
LANES_RANKS = [(1, 1), (1, 2), (1, 4), (2, 4), (4, 2), (4, 3), (3, 4), (12, 4), (12, 3), (6, 4)]


def data_of(folder: Path, **settings) -> ParquetData:
    settings = {"global_batch_size": 24, **settings}
    return ParquetData(inputs=str(folder), seg_dense_schema=SCHEMA, **settings)


@pytest.mark.parametrize(("lanes", "ranks"), LANES_RANKS)
def test_row_groups_are_decoded_as_often_as_is_said(tmp_path, lanes, ranks, monkeypatch):
    number = np.arange(24 * 48)  # 24 row groups of 48 rows: lanes end with row groups
    table = pa.table({"row": number, "is_like": (number % 2).astype(np.int8)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=48)
    decoded: list[int] = []
    read = RowGroups.read
    monkeypatch.setattr(
        RowGroups, "read", lambda self, piece: decoded.append(piece.row_group) or read(self, piece)
    )
    data = data_of(tmp_path, interleave_num_parallel_calls=lanes, examples_shuffle_buffer_size=48)
    by_rank = []
    for rank in range(ranks):
        decoded.clear()
        how = {"shuffle_seed": 1, "epochs": 1, "rank": rank, "world_size": ranks}
        for _ in data.batches(tasks=["like"], **how):
            pass
        by_rank.append(len(decoded))
    sizes = {"lanes": lanes, "ranks": ranks, "batch": 24, "block": 48}
    assert sum(by_rank) / 24 == pytest.approx(decodings(**sizes))
    assert max(by_rank) * ranks / 24 == pytest.approx(busiest(**sizes))


def test_many_lanes_leave_little_to_be_read_twice_on_any_number_of_ranks():
    sizes = {"batch": 7680, "block": 100_000}
    assert decodings(lanes=64, ranks=64, **sizes) == 1
    assert decodings(lanes=1, ranks=64, **sizes) == 64
    assert decodings(lanes=64, ranks=48, **sizes) == 1.5  # 64 + 48 - 16 pairs
    assert decodings(lanes=512, ranks=5, **sizes) == pytest.approx(1.008, abs=1e-3)


def test_blocks_that_are_small_beside_a_batch_belong_to_few_ranks():
    # 64 rows of a batch are a rank's: a block of 128 reaches over three of them at most
    assert decodings(lanes=1, ranks=64, batch=4096, block=128) == 3
    assert busiest(lanes=1, ranks=64, batch=4096, block=128) == 3
    assert decodings(lanes=64, ranks=64, batch=4096, block=128) == 1


def test_the_number_of_lanes_that_is_told_fits_ranks_and_batch_and_is_the_nearest():
    assert fitting_lanes(lanes=1, ranks=4, batch=24) == 4
    assert fitting_lanes(lanes=11, ranks=4, batch=24) == 12  # 4, 8, 12 and 24 fit
    assert fitting_lanes(lanes=1, ranks=5, batch=24) is None


def test_a_warning_names_cost_and_number(tmp_path):
    data = data_of(tmp_path, interleave_num_parallel_calls=3)
    assert data.rank_warnings(1) == data.rank_warnings(3) == []
    assert data.rank_warnings(4) == [
        "interleave_num_parallel_calls=3 on 4 ranks: a row group is decoded by 2 ranks on average, "
        "and the busiest rank decodes 2.67 rows for each it trains on; "
        "interleave_num_parallel_calls=4 does not (another number is another order of rows)"
    ]
    (warning,) = data_of(tmp_path, cache=str(tmp_path)).rank_warnings(2)
    assert warning.startswith(
        "interleave_num_parallel_calls=1 on 2 ranks: until they are cached, a row group is decoded "
        "by 2 ranks"
    )


def test_steps_on_whole_batches_are_told_whatever_the_lanes(tmp_path):
    step = DownsampleNegatives(batch_multiplier=2, engagements_list=["like"])
    settings = {"preprocess": {"step": step}, "interleave_num_parallel_calls": 4}
    (warning,) = data_of(tmp_path, **settings).rank_warnings(4)
    assert warning == (
        "preprocess: steps on whole batches, as downsample_negatives, have each of the 4 ranks "
        "read all rows: every row group is decoded 4 times, and reading is no faster than on one "
        "rank; with cache=FOLDER on local disk only the first pass is"
    )
    assert data_of(tmp_path, **settings).rank_warnings(1) == []
