"""Steps in a stream of batches: their order, what they read, ranks, positions, resuming."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recap.batch import Batch
from recap.data.parquet import ParquetData
from recap.data.preprocess import (
    Downcast,
    DownsampleNegatives,
    ExtractedFeature,
    ExtractFeatures,
    RectifyLabels,
    TruncateAndSlice,
)
from recap.data.sampling import SamplingRates
from recap.schema import Dense, Schema, Sparse

HOUR = 3_600_000  # ms
ROWS = 96
SCHEMA = Schema(
    labels={"fav": "is_fav", "reply": "is_reply", "click": "is_click"},
    dense={
        "continuous": Dense(column="c", length=2),
        "row": Dense(columns=["row"], dtype="int64"),
        "times": Dense(column="times", length=2, dtype="int64"),
        "served": Dense(columns=["served"], dtype="int64"),
    },
    sparse={"tag": Sparse(column="tag", vocabulary=ROWS)},
)
DOWNSAMPLE = DownsampleNegatives(batch_multiplier=3, engagements_list=["fav"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows 0 … 95: every fourth is a fav, engaged late if divisible by 8; the others follow."""
    path = tmp_path_factory.mktemp("data")
    for part in range(3):
        number = np.arange(part * 32, part * 32 + 32)
        late = np.where(number % 8 == 0, 9 * HOUR, 0)
        numbers = np.stack([number, late], axis=1)
        columns = {
            "row": pa.array(number),
            "c": pa.FixedSizeListArray.from_arrays(
                pa.array(np.repeat(number, 2).astype(np.float32)), 2
            ),
            "times": pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 2),
            "served": pa.array(np.zeros(32, np.int64)),
            "tag": pa.array(number),
            "is_fav": pa.array((number % 4 == 0).astype(np.int8)),
            "is_reply": pa.array((number % 3 == 0).astype(np.int8)),
            "is_click": pa.array((number % 2).astype(np.int8)),
        }
        pq.write_table(pa.table(columns), path / f"part-{part}.parquet", row_group_size=8)
    return path


def data_of(folder: Path, *steps, **settings) -> ParquetData:
    settings = {
        "inputs": str(folder),
        "seg_dense_schema": SCHEMA,
        "global_batch_size": 8,
        "examples_shuffle_buffer_size": 16,
        "preprocess": {f"step {i}": step for i, step in enumerate(steps)},
        **settings,
    }
    return ParquetData(**settings)


def batches_of(data: ParquetData, **how) -> list[tuple[Batch, int]]:
    return list(data.batches(**{"tasks": ["reply"], "shuffle_seed": 1, "epochs": 1, **how}))


def numbers(batch: Batch) -> list[int]:
    return batch.dense["row"][:, 0].tolist()


def weights(batch: Batch) -> torch.Tensor:
    assert batch.weights is not None
    return batch.weights


def same(ones: list[tuple[Batch, int]], others: list[tuple[Batch, int]]) -> bool:
    return all(
        place == other_place and all(map(torch.equal, batch.tensors(), other.tensors()))
        for (batch, place), (other, other_place) in zip(ones, others, strict=True)
    )


def test_a_batch_is_made_of_several_times_as_many_rows_and_holds_all_their_positives(folder):
    batches = batches_of(data_of(folder, DOWNSAMPLE), shuffle_seed=None)
    assert [position for _, position in batches] == [24, 48, 72, 96]
    first = batches[0][0]
    assert first.tasks == ("reply",)  # the engagement is read, and is no task
    assert numbers(first) == [0, 4, 8, 12, 16, 20, 1, 2]
    assert first.labels[:, 0].tolist() == [1, 0, 0, 1, 0, 0, 0, 0]
    assert first.sparse["tag"].slots.tolist() == [n + 1 for n in numbers(first)]
    assert first.weights is not None
    assert first.weights[:, 0].tolist() == [1] * 6 + [9, 9]  # (24 − 6) / (8 − 6)


def test_the_last_batch_is_made_of_the_rows_that_are_left(folder):
    data = data_of(folder, DownsampleNegatives(batch_multiplier=5, engagements_list=["fav"]))
    batches = batches_of(data, shuffle_seed=None)
    assert [(len(batch), position) for batch, position in batches] == [(8, 40), (8, 80), (8, 120)]
    last = batches[-1][0]
    assert numbers(last) == [80, 84, 88, 92, 81, 82, 83, 85]
    assert last.weights is not None
    assert last.weights[:, 0].tolist() == [1] * 4 + [3] * 4  # (16 − 4) / (8 − 4)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("steps", [(DOWNSAMPLE,), (DOWNSAMPLE, DOWNSAMPLE)])
def test_a_stream_with_steps_continues_at_the_position_of_a_batch(folder, lanes, steps):
    data = data_of(folder, *steps, global_batch_size=4, interleave_num_parallel_calls=lanes)
    whole = batches_of(data, epochs=2, weighted=True)
    assert len(whole) > 4
    for taken in (1, 3):
        rest = batches_of(data, epochs=2, weighted=True, position=whole[taken - 1][1])
        assert same(rest, whole[taken:])


def test_a_batch_with_too_many_positives_is_cut_the_same_way_after_a_resume(folder):
    data = data_of(folder, DOWNSAMPLE, global_batch_size=3)
    whole = batches_of(data, epochs=3)
    assert any(len(weights(batch)[:, 0].unique()) == 2 for batch, _ in whole)
    assert same(batches_of(data, epochs=3, position=whole[4][1]), whole[5:])
    assert not same(batches_of(data, epochs=3, shuffle_seed=2), whole)


def test_each_batch_with_too_many_positives_is_cut_in_its_own_way(folder):
    every = DownsampleNegatives(batch_multiplier=4, engagements_list=["fav", "reply", "click"])
    data = data_of(folder, every, global_batch_size=3)
    batches = batches_of(data, shuffle_seed=None)  # 12 rows each, labelled as the 12 before
    labelled = [[n for n in range(12) if n % 4 == 0 or n % 3 == 0 or n % 2]] * 8
    kept = [sorted(n % 12 for n in numbers(batch)[:2]) for batch, _ in batches]
    assert all({*cut} <= {*some} for cut, some in zip(kept, labelled, strict=True))
    assert len({tuple(cut) for cut in kept}) > 1


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_each_batch_whatever_their_number(folder, world_size):
    data = data_of(folder, DOWNSAMPLE)
    alone = batches_of(data)
    ranks = [batches_of(data, rank=rank, world_size=world_size) for rank in range(world_size)]
    for k, (batch, position) in enumerate(alone):
        parts = [part[k][0] for part in ranks]
        assert [len(part) for part in parts] == [8 // world_size] * world_size
        assert [numbers(part) for part in parts] == [
            numbers(batch)[rank::world_size] for rank in range(world_size)
        ]  # not all positives to the first ranks
        for rank, part in enumerate(parts):
            assert torch.equal(weights(part), weights(batch)[rank::world_size])
        assert {part[k][1] for part in ranks} == {position}


def test_steps_run_in_the_order_they_are_written(folder):
    extract = ExtractFeatures(
        extract_feature_table=[ExtractedFeature(name="late", source_tensor="times", index=1)]
    )
    rectify = RectifyLabels(
        served_timestamp_field="served",
        impressed_timestamp_field="served",
        label_to_engaged_timestamp_field={"fav": "late"},
    )
    how = {"shuffle_seed": None, "tasks": ["fav"]}
    first, _ = batches_of(data_of(folder, extract, rectify, DOWNSAMPLE), **how)[0]
    assert numbers(first)[:4] == [4, 12, 20, 0]  # only what is still positive goes first
    assert first.labels[:, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    last, _ = batches_of(data_of(folder, extract, DOWNSAMPLE, rectify), **how)[0]
    assert numbers(last) == [0, 4, 8, 12, 16, 20, 1, 2]
    assert last.labels[:, 0].tolist() == [0, 1, 0, 1, 0, 1, 0, 0]


def test_only_what_model_and_steps_read_is_read_and_only_the_models_comes_out(folder):
    extract = ExtractFeatures(
        extract_feature_table=[ExtractedFeature(name="late", source_tensor="times", index=1)]
    )
    rectify = RectifyLabels(
        served_timestamp_field="served",
        impressed_timestamp_field="served",
        label_to_engaged_timestamp_field={"fav": "late"},
    )
    absent = {**SCHEMA.dense, "nobody's": Dense(column="absent", length=3)}
    schema = Schema(labels=SCHEMA.labels, dense=absent, sparse=SCHEMA.sparse)
    for steps in ((extract, rectify), (DOWNSAMPLE, extract, rectify)):
        data = data_of(folder, *steps, seg_dense_schema=schema)
        assert data.faults(["fav"], ["row", "late"]) == []
        assert "column 'absent'" in data.faults(["fav"])[0]
        batch, _ = batches_of(data, tasks=["fav"], inputs=["row", "late"])[0]
        assert set(batch.dense) == {"row", "late"}
        assert not batch.sparse
        late = [[9 * HOUR if n % 8 == 0 else 0] for n in numbers(batch)]
        assert batch.dense["late"].tolist() == late
        expected = [float(n % 4 == 0 and n % 8 > 0) for n in numbers(batch)]
        assert batch.labels[:, 0].tolist() == expected


def test_a_null_step_is_left_out(folder):
    data = data_of(folder, None, DOWNSAMPLE, None)
    assert data.rows_per_batch == 24
    assert data_of(folder, None).rows_per_batch == 8


@pytest.mark.parametrize("last", [(), (DOWNSAMPLE,)])
def test_the_tensors_of_a_batch_have_the_types_of_the_schema(folder, last):
    features = {"continuous": "bfloat16", "times": "bool", "row": "uint8"}
    data = data_of(folder, TruncateAndSlice(), Downcast(features=features), *last)
    assert {name: dense.dtype for name, dense in data.schema.dense.items()} == {
        **features,
        "served": "int64",
    }
    batch, _ = batches_of(data)[0]
    types = {name: str(tensor.dtype) for name, tensor in batch.dense.items()}
    assert types == {name: f"torch.{dense.dtype}" for name, dense in data.schema.dense.items()}
    assert batch.dense["continuous"][:, 0].float().tolist() == numbers(batch)
    batch, _ = batches_of(data_of(folder, *last, Downcast(features={"continuous": "float16"})))[0]
    assert batch.dense["continuous"].dtype == torch.float16
    assert batch.dense["continuous"].is_contiguous()


def test_the_weights_of_the_rates_are_of_the_labels_as_stored_and_multiply_with_the_steps(folder):
    rates = {"fav": SamplingRates(pos_downsampling_rate=0.5, neg_downsampling_rate=0.25)}
    rectify = RectifyLabels(
        served_timestamp_field="served",
        impressed_timestamp_field="row",
        label_to_engaged_timestamp_field={"fav": "late"},
    )
    extract = ExtractFeatures(
        extract_feature_table=[ExtractedFeature(name="late", source_tensor="times", index=1)]
    )
    how = {"tasks": ["fav"], "shuffle_seed": None}
    data = data_of(folder, extract, DOWNSAMPLE, rectify, tasks=rates)
    batch, _ = batches_of(data, weighted=True, **how)[0]
    assert batch.labels[:, 0].tolist() == [0, 1, 0, 1, 0, 1, 0, 0]
    assert batch.weights is not None
    assert batch.weights[:, 0].tolist() == [2] * 6 + [36, 36]
    batch, _ = batches_of(data, **how)[0]
    assert batch.weights is not None
    assert batch.weights[:, 0].tolist() == [1] * 6 + [9, 9]


def test_a_batch_of_one_example_cannot_be_downsampled(folder):
    with pytest.raises(ValueError, match="global_batch_size=1 has no room for a positive and a"):
        data_of(folder, DOWNSAMPLE, global_batch_size=1)


def test_an_engagement_that_the_files_lack_is_told(folder):
    schema = Schema(labels={**SCHEMA.labels, "fav": "is_favv"}, dense={"row": SCHEMA.dense["row"]})
    faults = data_of(folder, DOWNSAMPLE, seg_dense_schema=schema).faults(["reply"])
    assert ["label column 'is_favv' of task fav is missing" in fault for fault in faults] == [True]


def test_no_file_is_read_as_bfloat16(folder):
    dense = {"continuous": Dense(column="c", length=2, dtype="bfloat16")}
    schema = Schema(labels=SCHEMA.labels, dense=dense)
    with pytest.raises(
        ValueError, match=r"continuous\.dtype=bfloat16: no file holds it; state flo"
    ):
        data_of(folder, seg_dense_schema=schema)
