"""Memory that is handed out again, and never while somebody looks at it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recap.data import batching
from recap.data.parquet import ParquetData
from recap.data.preprocess import Downcast
from recap.data.room import Room
from recap.data.sampling import SamplingRates
from recap.schema import Dense, Schema, Sparse

FLOAT, BYTE = np.dtype(np.float32), np.dtype(np.uint8)
SCHEMA = Schema(
    labels={"like": "is_like"},
    dense={"x": Dense(column="x", length=3), "row": Dense(column="row", length=1, dtype="int64")},
    sparse={"tag": Sparse(column="tag", vocabulary=9)},
)


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_arrays_have_their_shapes_and_types_and_do_not_overlap():
    arrays = Room().arrays([((2, 3), FLOAT), ((5,), BYTE), ((0, 4), FLOAT), ((2,), FLOAT)])
    assert [(a.shape, a.dtype) for a in arrays] == [
        ((2, 3), FLOAT),
        ((5,), BYTE),
        ((0, 4), FLOAT),
        ((2,), FLOAT),
    ]
    for number, array in enumerate(arrays):
        array[...] = number
    assert arrays[0].tolist() == [[0] * 3] * 2
    assert arrays[1].tolist() == [1] * 5
    assert arrays[3].tolist() == [3, 3]
    assert all(address(array) % 16 == 0 for array in arrays)


def test_memory_comes_back_when_its_last_view_is_gone():
    room = Room()
    x, y = room.arrays([((2, 3), FLOAT), ((2,), FLOAT)])
    first = address(x)
    tensor = torch.from_numpy(y)[1:]
    del x, y
    (other,) = room.arrays([((8,), FLOAT)])  # the tensor still looks at the first
    assert address(other) != first
    del tensor
    (again,) = room.arrays([((8,), FLOAT)])
    assert address(again) == first


def test_memory_that_is_too_small_is_let_go():
    room = Room()
    del (room.arrays([((2,), FLOAT)]))[:]
    (large,) = room.arrays([((100,), FLOAT)])
    place = address(large)
    del large
    (small,) = room.arrays([((2,), FLOAT)])
    assert address(small) == place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file of 40 row groups of four rows."""
    number = np.arange(160)
    table = {
        "x": pa.FixedSizeListArray.from_arrays(np.arange(480, dtype=np.float32), 3),
        "row": pa.array(number),
        "tag": pa.array([[int(i) % 9] * (int(i) % 3) for i in number]),
        "is_like": number % 2,
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet", row_group_size=4)
    return tmp_path


def data_of(folder: Path, **settings) -> ParquetData:
    settings = {"global_batch_size": 6, "examples_shuffle_buffer_size": 4, **settings}
    return ParquetData(inputs=str(folder), seg_dense_schema=SCHEMA, **settings)


def batches_of(data: ParquetData, **how) -> list[list[torch.Tensor]]:
    batches = data.batches(tasks=["like"], shuffle_seed=1, epochs=2, **how)
    return [list(batch.tensors()) for batch, _ in batches]


@pytest.mark.parametrize("lanes", [1, 3])
def test_batches_that_are_held_stay_as_they_were(folder, lanes):
    data = data_of(folder, interleave_num_parallel_calls=lanes)
    batches = data.batches(tasks=["like"], shuffle_seed=1, epochs=2)
    held = [(batch, batch.dense["x"].clone(), batch.dense["row"].clone()) for batch, _ in batches]
    assert len(held) == 54
    for batch, x, row in held:
        assert torch.equal(batch.dense["x"], x)
        assert torch.equal(batch.dense["row"], row)


@pytest.mark.parametrize(("lanes", "most"), [(1, 7), (3, 13)])
def test_a_stream_uses_the_memory_of_a_few_blocks_and_batches_again(
    folder, lanes, most, monkeypatch
):
    # three blocks of a lane, as one is left and two come; four batches: made, ready, used, let go
    used: dict[int, np.ndarray] = {}
    memory_of = Room._memory

    def memory(self: Room, size: int) -> np.ndarray:
        memory = memory_of(self, size)
        return used.setdefault(id(memory), memory)

    monkeypatch.setattr(Room, "_memory", memory)
    data = data_of(folder, interleave_num_parallel_calls=lanes, prefetch_batches=1)
    number = sum(1 for _ in data.batches(tasks=["like"], shuffle_seed=1, epochs=4))
    assert number > 100
    assert 1 < len(used) <= most


@pytest.mark.parametrize("lanes", [1, 3])
def test_page_locked_batches_are_those_of_ordinary_memory(folder, lanes, monkeypatch):
    asked: list[tuple] = []

    def ordinary(shape, dtype) -> torch.Tensor:  # there need not be a GPU to lock pages for
        asked.append((shape, dtype))
        return torch.empty(shape, dtype=dtype)

    monkeypatch.setattr(batching, "_page_locked", ordinary)
    settings = {
        "interleave_num_parallel_calls": lanes,
        "preprocess": {"narrow": Downcast(features={"x": "bfloat16"})},
        "tasks": {"like": SamplingRates(neg_downsampling_rate=0.5)},
    }
    expected = batches_of(data_of(folder, **settings), weighted=True)
    assert not asked
    found = batches_of(data_of(folder, **settings), weighted=True, pin_memory=True)
    assert len(found) == len(expected) == 54
    for one, other in zip(found, expected, strict=True):
        assert [t.dtype for t in one] == [t.dtype for t in other]
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(asked) == 54 * 6  # x, row, tag's slots and offsets, labels, weights: a copy each
