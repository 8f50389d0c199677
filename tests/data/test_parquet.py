"""Streams of batches from real Parquet files."""

from __future__ import annotations

import re
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recap.batch import Batch
from recap.data import row_groups
from recap.data.files import DataError
from recap.data.parquet import ParquetData
from recap.data.preprocess import TruncateAndSlice
from recap.data.rows import Rows
from recap.schema import Dense, Schema, Sparse

SCHEMA = Schema(
    labels={"like": "is_like"},
    dense={
        "continuous": Dense(column="c", length=2),
        "row": Dense(columns=["row"], dtype="int64"),
    },
    sparse={"tag": Sparse(column="tag", vocabulary=["a", "b"])},
)


def write(path: Path, first: int, rows: int, *, row_group_rows: int = 8, **columns) -> Path:
    """Rows numbered from ``first``; their other columns follow from the number."""
    number = np.arange(first, first + rows)
    table = {
        "row": pa.array(number),
        "c": pa.FixedSizeListArray.from_arrays(
            pa.array(np.repeat(number, 2).astype(np.float32)), 2
        ),
        "tag": pa.array([["a", "b", "c"][: i % 4] for i in number]),
        "is_like": pa.array((number % 2).astype(np.int8)),
        "never_read": pa.nulls(rows),
    }
    pq.write_table(pa.table(table | columns), path, row_group_size=row_group_rows)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        write(tmp_path / f"part-{i}.parquet", first=20 * i, rows=20)
    return tmp_path


def data_of(folder: Path, **settings) -> ParquetData:
    settings = {"global_batch_size": 8, "examples_shuffle_buffer_size": 10, **settings}
    return ParquetData(
        **{"inputs": str(folder / "*.parquet"), "seg_dense_schema": SCHEMA, **settings}
    )


def batches_of(data: ParquetData, **how) -> list[tuple[Batch, int]]:
    return list(data.batches(**{"tasks": ["like"], "shuffle_seed": 1, "epochs": 1, **how}))


def rows_in(batches: list[tuple[Batch, int]]) -> list[int]:
    return [row for batch, _ in batches for row in batch.dense["row"][:, 0].tolist()]


def test_a_batch_holds_the_columns_that_the_schema_names(folder):
    batch, position = batches_of(data_of(folder), shuffle_seed=None)[0]
    assert position == 8
    assert batch.tasks == ("like",)
    assert batch.labels[:, 0].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert batch.dense["continuous"].dtype == torch.float32
    assert batch.dense["continuous"][3].tolist() == [3, 3]
    assert batch.sparse["tag"].offsets.tolist() == [0, 0, 1, 3, 6, 6, 7, 9, 12]
    assert batch.sparse["tag"].slots.tolist() == [1, 1, 2, 1, 2, 0, 1, 1, 2, 1, 2, 0]


@pytest.mark.parametrize("lanes", [1, 4])
def test_row_groups_that_are_decoded_in_parts_give_the_same_batches(folder, lanes, monkeypatch):
    data = data_of(folder, interleave_num_parallel_calls=lanes)
    whole = batches_of(data)
    monkeypatch.setattr(row_groups, "DECODED_BYTES", 100)  # 3 rows
    for (batch, _), (expected, _) in zip(batches_of(data), whole, strict=True):
        assert all(map(torch.equal, batch.tensors(), expected.tensors()))


def test_one_epoch_is_every_row_once_with_the_short_batch_last(folder):
    batches = batches_of(data_of(folder))
    assert [len(batch) for batch, _ in batches] == [8] * 7 + [4]
    assert sorted(rows_in(batches)) == list(range(60))
    assert rows_in(batches) != list(range(60))


def test_epochs_run_into_one_another_without_a_short_batch(folder):
    batches = batches_of(data_of(folder), epochs=2)
    assert [len(batch) for batch, _ in batches] == [8] * 15
    assert sorted(rows_in(batches)[:60]) == list(range(60))


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("taken", [1, 5, 9])
def test_a_stream_continues_at_the_position_that_came_with_a_batch(folder, lanes, taken):
    data = data_of(folder, interleave_num_parallel_calls=lanes)
    whole = batches_of(data, epochs=2)
    rest = batches_of(data, epochs=2, position=whole[taken - 1][1])
    assert rows_in(rest) == rows_in(whole[taken:])


def test_fewer_rows_than_lanes_come_again_and_again(tmp_path):
    write(tmp_path / "a.parquet", first=0, rows=3)
    data = data_of(tmp_path, interleave_num_parallel_calls=4)
    with closing(data.batches(tasks=["like"], shuffle_seed=None, epochs=None)) as batches:
        assert sorted(rows_in(list(islice(batches, 2)))) == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_each_global_batch_whatever_their_number(folder, world_size):
    data = data_of(folder, interleave_num_parallel_calls=4)
    alone = batches_of(data)
    ranks = [batches_of(data, rank=rank, world_size=world_size) for rank in range(world_size)]
    for k in range(7):  # the full batches
        together = rows_in([part[k] for part in ranks])
        assert together == rows_in([alone[k]])
    assert sorted(row for part in ranks for row in rows_in(part)) == list(range(60))


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_all_ranks_end_at_the_same_position_where_the_last_part_of_some_is_empty(folder, lanes):
    data = data_of(folder, interleave_num_parallel_calls=lanes)
    alone = batches_of(data, weighted=True)
    ranks = [batches_of(data, weighted=True, rank=rank, world_size=8) for rank in range(8)]
    for part in ranks:
        assert [position for _, position in part] == [position for _, position in alone]
        for (batch, _), (whole, _) in zip(part, alone, strict=True):
            for ours, theirs in zip(batch.tensors(), whole.tensors(), strict=True):
                assert (ours.dtype, ours.shape[1:]) == (theirs.dtype, theirs.shape[1:])
    assert sorted(len(part[-1][0]) for part in ranks) == [0] * 4 + [1] * 4  # 60 rows, 8 a batch
    assert sorted(row for part in ranks for row in rows_in(part)) == list(range(60))


@pytest.mark.parametrize(("lanes", "near"), [(0, "1"), (3, "2, 4"), (16, "8")])
def test_lanes_that_do_not_share_a_batch_evenly_are_refused(folder, lanes, near):
    message = rf"calls={lanes} must divide global_batch_size=8; near: {near}$"
    with pytest.raises(ValueError, match=message):
        data_of(folder, interleave_num_parallel_calls=lanes)


def test_a_batch_size_that_does_not_divide_over_the_ranks_is_refused(folder):
    with pytest.raises(
        ValueError, match="global_batch_size=8 does not divide over 3 ranks; 6 and 9"
    ):
        data_of(folder).batches(tasks=["like"], shuffle_seed=1, epochs=1, world_size=3)


def test_only_the_inputs_that_are_asked_for_are_read(folder):
    batch, _ = batches_of(data_of(folder), inputs={"row"})[0]
    assert set(batch.dense) == {"row"}
    assert not batch.sparse


def test_the_bytes_of_other_columns_are_never_looked_at(tmp_path):
    path = write(tmp_path / "part-0.parquet", first=0, rows=20)
    expected = rows_in(batches_of(data_of(tmp_path), inputs={"row"}))
    content = bytearray(path.read_bytes())
    footer = pq.read_metadata(path)
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema not in ("row", "is_like"):
                start = column.dictionary_page_offset or column.data_page_offset
                content[start : start + column.total_compressed_size] = bytes(
                    [0xFF] * column.total_compressed_size
                )
    path.write_bytes(content)
    assert rows_in(batches_of(data_of(tmp_path), inputs={"row"})) == expected
    with pytest.raises(DataError, match=r"part-0\.parquet, row group"):
        batches_of(data_of(tmp_path), inputs={"row", "tag"})


def test_raw_bytes_and_lists_and_scalars_read_alike(tmp_path):
    numbers = np.arange(12, dtype=np.float32).reshape(4, 3)
    stored = {
        "raw": pa.array([row.tobytes() for row in numbers], pa.binary(12)),
        "fixed": pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 3),
        "list": pa.array(numbers.tolist(), pa.list_(pa.float32())),
        **{f"s{j}": pa.array(numbers[:, j]) for j in range(3)},
        "is_like": pa.array([True, False, True, False]),
    }
    pq.write_table(pa.table(stored), tmp_path / "a.parquet")
    schema = Schema(
        labels={"like": "is_like"},
        dense={
            **{name: Dense(column=name, length=3) for name in ("raw", "fixed", "list")},
            "scalars": Dense(columns=["s0", "s1", "s2"]),
        },
    )
    data = data_of(tmp_path, seg_dense_schema=schema)
    assert data.faults(["like"]) == []
    batch, _ = batches_of(data, shuffle_seed=None)[0]
    for tensor in batch.dense.values():
        assert torch.equal(tensor, torch.from_numpy(numbers))


def test_an_integer_group_may_be_stored_narrower_than_the_schema_says(tmp_path):
    numbers = np.array([[1, 0], [-1, 7]], np.int8)
    column = pa.array([row.tobytes() for row in numbers], pa.binary(2))
    write(tmp_path / "a.parquet", 0, 2, b=column)
    schema = Schema(
        labels={"like": "is_like"}, dense={"b": Dense(column="b", length=2, dtype="int64")}
    )
    batch, _ = batches_of(data_of(tmp_path, seg_dense_schema=schema), shuffle_seed=None)[0]
    assert batch.dense["b"].tolist() == [[1, 0], [-1, 7]]


@pytest.mark.parametrize(
    ("dtype", "narrow", "wide", "number", "held_as"),
    [
        ("int64", "int8", "int64", 1000, torch.int64),
        ("int64", "int8", "int16", 1000, torch.int16),
        ("float32", "float16", "float32", 0.1, torch.float32),
    ],
)
def test_files_that_store_a_group_in_different_types_are_read_without_loss(
    tmp_path, dtype, narrow, wide, number, held_as
):
    for name, stored, value in [("a", narrow, 1), ("b", wide, number)]:
        raw = np.array([value], stored).tobytes()
        write(tmp_path / f"{name}.parquet", 0, 1, x=pa.array([raw], pa.binary(len(raw))))
    schema = Schema(
        labels={"like": "is_like"}, dense={"x": Dense(column="x", length=1, dtype=dtype)}
    )
    data = data_of(tmp_path, seg_dense_schema=schema)
    assert data.faults(["like"]) == []
    batch, _ = batches_of(data, shuffle_seed=None)[0]
    assert torch.equal(batch.dense["x"], torch.tensor([[1], [number]], dtype=held_as))
    first, _ = batches_of(data_of(tmp_path, seg_dense_schema=schema, global_batch_size=1))[0]
    assert first.dense["x"].dtype == held_as  # whichever file it comes from


def test_a_null_is_nan_in_a_float_group_zero_in_an_integer_group_and_an_empty_bag(tmp_path):
    write(
        tmp_path / "a.parquet",
        0,
        2,
        c=pa.array([None, [1.0, None]], pa.list_(pa.float32())),
        row=pa.array([None, 5]),
        tag=pa.array([None, ["b", None]], pa.list_(pa.string())),
    )
    batch, _ = batches_of(data_of(tmp_path), shuffle_seed=None)[0]
    nan = float("nan")
    expected = torch.tensor([[nan, nan], [1.0, nan]])
    torch.testing.assert_close(batch.dense["continuous"], expected, equal_nan=True)
    assert batch.dense["row"].tolist() == [[0], [5]]
    assert batch.sparse["tag"].slots.tolist() == [2]
    assert batch.sparse["tag"].offsets.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("sparse", "column", "slots"),
    [
        (Sparse(column="x", vocabulary=3), pa.array([0, 2, 3, -1]), [1, 3, 0, 0]),
        (Sparse(column="x", vocabulary=3), pa.array([0.0, 2.0, None, 1.0]), [1, 3, 2]),
        (
            Sparse(column="x", vocabulary=[30, 10]),
            pa.array([10, 30, 20, 10], pa.int16()),
            [2, 1, 0, 2],
        ),
        (Sparse(column="x", vocabulary=["u"]), pa.array(["u", "v", "u", None]), [1, 0, 1]),
        (
            Sparse(column="x", vocabulary=["1", "2"], separator=","),
            pa.array(["1,2", "", None, "2,9"]),
            [1, 2, 2, 0],
        ),
        (
            Sparse(column="x", vocabulary=3, separator=","),
            pa.array(["1,2", "", None, "2,9"]),
            [2, 3, 3, 0],
        ),
    ],
)
def test_ids_take_the_slots_of_their_vocabulary(tmp_path, sparse, column, slots):
    write(tmp_path / "a.parquet", 0, 4, x=column)
    schema = Schema(labels={"like": "is_like"}, sparse={"x": sparse})
    data = data_of(tmp_path, seg_dense_schema=schema)
    assert data.faults(["like"]) == []
    batch, _ = batches_of(data, shuffle_seed=None)[0]
    assert batch.sparse["x"].slots.tolist() == slots


@pytest.mark.parametrize(
    ("column", "one_each"),
    [
        (pa.array([2, 0, 9]), True),
        (pa.array([2, None, 1]), False),
        (pa.array([[2], [0, 1], []], pa.list_(pa.int64())), False),  # as many ids as rows
        (pa.array([[2], [0], [1]], pa.list_(pa.int64())), True),
    ],
)
def test_a_batch_says_where_every_row_has_one_id(tmp_path, column, one_each):
    write(tmp_path / "a.parquet", 0, 3, x=column)
    schema = Schema(labels={"like": "is_like"}, sparse={"x": Sparse(column="x", vocabulary=3)})
    batch, _ = batches_of(data_of(tmp_path, seg_dense_schema=schema), shuffle_seed=None)[0]
    assert batch.sparse["x"].one_each is one_each
    assert batch.to("cpu").sparse["x"].one_each is one_each


def test_a_vocabulary_may_stand_in_a_parquet_file(tmp_path):
    (tmp_path / "ids").mkdir()
    pq.write_table(pa.table({"id": ["v", "u"]}), tmp_path / "ids" / "users.parquet")
    write(tmp_path / "a.parquet", 0, 2, x=pa.array(["u", "w"]))
    sparse = Sparse(column="x", vocabulary=str(tmp_path / "ids" / "users.parquet"))
    schema = Schema(labels={"like": "is_like"}, sparse={"x": sparse})
    batch, _ = batches_of(data_of(tmp_path, seg_dense_schema=schema), shuffle_seed=None)[0]
    assert batch.sparse["x"].slots.tolist() == [2, 0]


@pytest.mark.parametrize("ids", [np.arange(1000), np.array([f"user-{i}" for i in range(1000)])])
def test_hashed_ids_spread_over_the_buckets_and_equal_ids_meet(tmp_path, ids):
    write(tmp_path / "a.parquet", 0, 2000, x=pa.array(np.concatenate([ids, ids])))
    schema = Schema(labels={"like": "is_like"}, sparse={"x": Sparse(column="x", num_buckets=64)})
    data = data_of(tmp_path, seg_dense_schema=schema, global_batch_size=2000)
    slots = batches_of(data, shuffle_seed=None)[0][0].sparse["x"].slots
    assert torch.equal(slots[:1000], slots[1000:])
    counts = slots[:1000].bincount(minlength=64)
    assert counts.min() > 3  # 15.6 on average
    assert counts.max() < 35


def test_truncation_narrows_the_inputs_and_the_schema(folder):
    step = TruncateAndSlice(continuous_feature_truncation=1)
    data = data_of(folder, preprocess={"truncate": step})
    assert data.schema.dense["continuous"].width == 1
    assert batches_of(data)[0][0].dense["continuous"].shape == (8, 1)


def test_a_mask_keeps_the_columns_it_marks_after_truncation(tmp_path):
    write(
        tmp_path / "a.parquet", 0, 4, c=pa.array([[1.0, 2.0, 3.0]] * 4, pa.list_(pa.float32(), 3))
    )
    np.save(tmp_path / "mask.npy", np.array([0, 1]))
    step = TruncateAndSlice(
        continuous_feature_truncation=2, continuous_feature_mask_path=str(tmp_path / "mask.npy")
    )
    schema = Schema(labels={"like": "is_like"}, dense={"continuous": Dense(column="c", length=3)})
    data = data_of(tmp_path, seg_dense_schema=schema, preprocess={"truncate": step})
    assert batches_of(data)[0][0].dense["continuous"].tolist() == [[2.0]] * 4


def test_a_mask_is_read_from_its_file_once(tmp_path):
    path = tmp_path / "mask.npy"
    step = TruncateAndSlice(binary_feature_mask_path=str(path))  # the check reports what is missing
    np.save(path, np.array([0, 1]))
    rows = Rows({"binary": np.array([[5, 7]])}, {}, ("like",), np.zeros((1, 1), np.float32))
    assert step(rows).dense["binary"].tolist() == [[7]]
    path.unlink()
    assert step(rows).dense["binary"].tolist() == [[7]]


def test_truncations_and_masks_that_do_not_fit_are_refused_together(folder):
    schema = Schema(
        labels={"like": "is_like"},
        dense={
            "continuous": Dense(column="c", length=2),
            "binary": Dense(columns=["row"], dtype="int64"),
        },
    )
    (folder / "empty.npy").touch()
    np.save(folder / "none.npy", np.zeros(1))
    np.save(folder / "square.npy", np.ones((1, 1)))
    for mask, message in {
        "none.npy": r"none\.npy keeps no column of binary",
        "square.npy": r"square\.npy has 1 × 1 entries for 1 columns",
        "empty.npy": r"empty\.npy: no \.npy file that can be read \(",
        "nowhere.npy": r"nowhere\.npy: no \.npy file that can be read \(",
    }.items():
        step = TruncateAndSlice(
            continuous_feature_truncation=3, binary_feature_mask_path=str(folder / mask)
        )
        data = data_of(folder, seg_dense_schema=schema, preprocess={"t": step})
        with pytest.raises(ValueError, match=message) as error:
            _ = data.schema
        first, second = str(error.value).splitlines()
        assert (
            first == "t.continuous_feature_truncation=3 must lie in 1 … 2, the length of continuous"
        )
        assert second.startswith("t.binary_feature_mask_path=")


# --- what is wrong with files ------------------------------------------------------------------


def test_a_footer_that_arrow_knows_no_way_to_read_is_damage_of_the_file(folder, monkeypatch):
    def refuse(file):
        raise pa.ArrowNotImplementedError("Integers with more than 64 bits not implemented")

    monkeypatch.setattr(pq, "ParquetFile", refuse)  # as one flipped bit of a footer makes it
    with pytest.raises(DataError, match=r"part-0\.parquet: .*damaged \(Integers with more than 64"):
        _ = data_of(folder).sources


def test_a_glob_that_matches_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"\*\.parquet: no file matches"):
        _ = data_of(tmp_path).sources


def test_all_damaged_files_are_named_at_once(folder):
    whole = (folder / "part-0.parquet").read_bytes()
    (folder / "part-0.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "part-1.parquet").write_bytes(b"")
    with pytest.raises(DataError) as error:
        _ = data_of(folder).sources
    truncated, empty = str(error.value).splitlines()
    assert "part-0.parquet: not a whole Parquet file, truncated or damaged" in truncated
    assert "part-1.parquet: the file is empty (0 bytes)" in empty


def test_a_file_without_rows_is_refused(tmp_path):
    write(tmp_path / "a.parquet", 0, 0)
    with pytest.raises(DataError, match=r"a\.parquet: the file holds no rows"):
        _ = data_of(tmp_path).sources


def test_missing_columns_and_wrong_types_are_told_with_the_nearest_name(folder):
    schema = Schema(
        labels={"like": "is_lik"},
        dense={
            "continuous": Dense(column="c", length=3),
            "tags": Dense(columns=["tag"]),
        },
        sparse={"row": Sparse(column="row", vocabulary=["x"], separator=",")},
    )
    faults = data_of(folder, seg_dense_schema=schema).faults(["like"])
    assert all("part-0.parquet and 2 more files: " in fault for fault in faults)
    assert [fault.split(": ", 1)[1] for fault in faults] == [
        "column 'c' of input continuous holds lists of 2; the schema says 3 × float32",
        "column 'tag' of input tags holds list<element: string>, not numbers",
        "column 'row' of input row holds int64; a separator=',' needs strings",
        "label column 'is_lik' of task like is missing; close: is_like",
    ]


@pytest.mark.parametrize(
    ("dtype", "column", "message"),
    [
        ("int64", pa.array([0.5, 1e30]), "holds double, which int64 does not; .* float64"),
        ("int8", pa.array([1, 300]), "holds int64, which int8 does not; .*: float64, int64"),
        ("uint8", pa.array([1, -1], pa.int8()), "holds int8, which uint8 does not; .* int8, int16"),
        ("bool", pa.array([2, 1], pa.int8()), "holds int8, which bool does not; "),
    ],
)
@pytest.mark.parametrize("stored_as", ["column", "list", "columns"])
def test_numbers_that_a_group_cannot_hold_are_refused(tmp_path, dtype, column, message, stored_as):
    dense = Dense(column="x", length=1, dtype=dtype)
    if stored_as == "columns":
        dense = Dense(columns=["x"], dtype=dtype)
    if stored_as == "list":
        column = pa.FixedSizeListArray.from_arrays(column, 1)
    write(tmp_path / "a.parquet", 0, 2, x=column)
    schema = Schema(labels={"like": "is_like"}, dense={"x": dense})
    (fault,) = data_of(tmp_path, seg_dense_schema=schema).faults(["like"])
    assert re.search(f"a.parquet: column 'x' of input x {message}", fault)


@pytest.mark.parametrize("column", [pa.array([True, False]), pa.array([3, 7], pa.int32())])
def test_numbers_that_fit_are_read_in_the_type_of_the_schema(tmp_path, column):
    write(tmp_path / "a.parquet", 0, 2, x=column)
    dense = {
        "whole": Dense(column="x", length=1, dtype="int64"),
        "real": Dense(columns=["x"], dtype="float32"),
    }
    schema = Schema(labels={"like": "is_like"}, dense=dense)
    data = data_of(tmp_path, seg_dense_schema=schema)
    assert data.faults(["like"]) == []
    batch, _ = batches_of(data, shuffle_seed=None)[0]
    assert batch.dense["whole"][:, 0].tolist() == column.cast(pa.int64()).to_pylist()
    assert batch.dense["real"][:, 0].tolist() == column.cast(pa.int64()).to_pylist()


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("in_lists", [False, True])
@pytest.mark.parametrize(
    ("vocabulary", "ids", "message"),
    [
        (["1", "2"], [1, 2], "holds int64, the vocabulary strings; list its ids as numbers"),
        ([1, 2], ["1", "2"], "holds string, the vocabulary numbers; list its ids as strings"),
    ],
)
def test_a_vocabulary_of_another_kind_than_the_ids_is_refused(
    tmp_path, vocabulary, ids, message, in_lists, in_file
):
    column = pa.array([[i] for i in ids] if in_lists else ids)
    path = write(tmp_path / "a.parquet", 0, 2, x=column)
    if in_file:
        pq.write_table(pa.table({"id": vocabulary}), tmp_path / "ids")
        vocabulary = str(tmp_path / "ids")
    schema = Schema(
        labels={"like": "is_like"}, sparse={"x": Sparse(column="x", vocabulary=vocabulary)}
    )
    data = data_of(tmp_path, seg_dense_schema=schema)
    assert data.faults(["like"]) == [f"{path}: column 'x' of input x {message}"]


@pytest.mark.parametrize("decoded_bytes", [1, 8 << 20])  # row by row, or all at once
@pytest.mark.parametrize(("label", "shown"), [(2, "2"), (None, "None")])
def test_a_label_that_is_neither_0_nor_1_stops_with_file_and_row_group(
    folder, label, shown, decoded_bytes, monkeypatch
):
    monkeypatch.setattr(row_groups, "DECODED_BYTES", decoded_bytes)
    labels = pa.array([0, 1, 0, 1, 0, 1, 0, 1, 0, label], pa.int8())
    write(folder / "part-9.parquet", 0, 10, is_like=labels)
    expected = rf"part-9\.parquet, row group 1: label column 'is_like', row 1: {shown} is neither"
    with pytest.raises(DataError, match=expected):
        batches_of(data_of(folder))


def test_a_damaged_row_group_stops_with_file_and_row_group(folder):
    path = folder / "part-1.parquet"
    content = bytearray(path.read_bytes())
    first = pq.ParquetFile(path).metadata.row_group(0)
    start = first.column(0).data_page_offset
    content[start : start + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"part-1\.parquet, row group 0: "):
        batches_of(data_of(folder))


def test_a_list_of_another_length_is_refused_with_its_row(tmp_path):
    write(tmp_path / "a.parquet", 0, 2, c=pa.array([[1.0, 2.0], [1.0]], pa.list_(pa.float32())))
    with pytest.raises(DataError, match="column 'c', row 1: a list of 1, the schema says 2"):
        batches_of(data_of(tmp_path))


def test_a_file_that_several_patterns_match_is_read_once_where_it_is_named_first(folder):
    inputs = [f"{folder}/part-1.parquet", str(folder), f"file://{folder}/part-[01].parquet"]
    paths = [Path(source.path).name for source in data_of(folder, inputs=inputs).sources]
    assert paths == ["part-1.parquet", "part-0.parquet", "part-2.parquet"]


def test_files_may_be_named_by_uri_and_by_folder(folder):
    assert data_of(folder, inputs=f"file://{folder}/part-[01].parquet").num_rows == 40
    assert data_of(folder, inputs=str(folder)).num_rows == 60
    assert data_of(folder, inputs=f"{folder}/**/*.parquet").num_rows == 60
