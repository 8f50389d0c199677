"""Sampling rates of the data, and the weights that undo them."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recap.compose import compose
from recap.compose.nodes import section
from recap.data.parquet import ParquetData
from recap.data.sampling import SamplingRates, sampling_weights
from recap.schema import Schema

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no reference numbers here")


def test_sampling_weights_are_one_over_the_fraction_kept():
    rates = {"like": SamplingRates(pos_downsampling_rate=0.5, neg_downsampling_rate=0.01)}
    labels = np.array([[1, 1], [0, 0]], np.float32)
    weights = sampling_weights(labels, ["like", "reply"], rates)
    assert weights is not None
    assert weights.dtype == np.float32
    assert weights.tolist() == [[2, 1], [100, 1]]


def test_there_are_no_weights_where_all_was_kept():
    rates = {"like": SamplingRates(), "reply": SamplingRates(neg_downsampling_rate=0.5)}
    assert sampling_weights(np.ones((3, 1), np.float32), ["like"], rates) is None


@pytest.mark.parametrize("rate", [0.0, -0.5, 1.5, math.nan, math.inf])
def test_rates_that_are_no_fractions_are_refused_both_at_once(rate: float):
    with pytest.raises(ValueError, match="is not a fraction above 0 and at most 1") as error:
        SamplingRates(pos_downsampling_rate=rate, neg_downsampling_rate=rate)
    assert str(error.value).splitlines() == [
        f"{side}_downsampling_rate={rate} is not a fraction above 0 and at most 1"
        for side in ("pos", "neg")
    ]


@needs_golden
def test_sampling_weights_are_the_references():
    arrays = np.load(GOLDEN / "preprocessors.npz")
    tasks = ["fav", "reply", "click"]
    labels = np.concatenate([arrays[f"in/label/{task}"] for task in tasks], axis=1)
    rates = {
        "fav": SamplingRates(pos_downsampling_rate=0.8387, neg_downsampling_rate=0.01),
        "reply": SamplingRates(neg_downsampling_rate=0.25),
    }
    np.testing.assert_array_equal(
        sampling_weights(labels, tasks, rates), arrays["sampling_weights/weights"]
    )


# --- the configuration -------------------------------------------------------------------------


def test_a_rate_is_stated_as_a_number_and_the_other_is_1():
    cfg = compose("experiment=local_prod", "+train_data.tasks.is_replied.neg_downsampling_rate=0.1")
    data = section(cfg, "train_data")
    assert data.tasks == {"is_replied": SamplingRates(neg_downsampling_rate=0.1)}


def test_the_rates_of_a_partition_are_its_own():
    cfg = compose(
        "experiment=local_prod",
        "+train_data.tasks.is_replied.neg_downsampling_rate=0.1",
        "+validation_data.train.tasks.is_favorited.pos_downsampling_rate=0.5",
        "validation_data.is_retweeted.tasks.is_retweeted.neg_downsampling_rate=0.25",
    )
    assert cfg.validation_data.validation.tasks == {}
    assert list(cfg.validation_data.train.tasks) == ["is_favorited"]
    assert cfg.validation_data.is_retweeted.tasks.is_retweeted.pos_downsampling_rate == 0.9561
    assert cfg.validation_data.is_retweeted.tasks.is_retweeted.neg_downsampling_rate == 0.25


# --- the stream --------------------------------------------------------------------------------


def data_of(folder: Path, **settings) -> ParquetData:
    labels = {"is_like": [1, 0, 0, 1], "is_reply": [0, 1, 0, 1]}
    pq.write_table(pa.table(labels), folder / "a.parquet")
    schema = Schema(labels={"like": "is_like", "reply": "is_reply"})
    return ParquetData(inputs=str(folder), seg_dense_schema=schema, global_batch_size=4, **settings)


def weights_of(data: ParquetData, tasks: list[str], **how) -> list[list[float]] | None:
    ((batch, _),) = data.batches(tasks=tasks, shuffle_seed=None, epochs=1, **how)
    return None if batch.weights is None else batch.weights.tolist()


def test_a_batch_carries_the_weights_of_its_tasks_rates_when_asked_for(tmp_path):
    rates = SamplingRates(pos_downsampling_rate=0.5, neg_downsampling_rate=0.25)
    data = data_of(tmp_path, tasks={"reply": rates})
    expected = [[4, 1], [2, 1], [4, 1], [2, 1]]
    assert weights_of(data, ["reply", "like"], weighted=True) == expected
    assert weights_of(data, ["like"], weighted=True) is None
    assert weights_of(data, ["reply", "like"]) is None


def test_rates_of_an_unknown_task_are_refused_with_the_nearest(tmp_path):
    message = "tasks.lik: rates of a task that seg_dense_schema.labels does not name; close: like"
    with pytest.raises(ValueError, match=message):
        data_of(tmp_path, tasks={"lik": SamplingRates()})


@needs_golden
@pytest.mark.parametrize("tasks", [["fav", "reply", "click"], ["click", "fav"]])
def test_labels_and_weights_of_a_batch_are_the_references_by_name(tmp_path, tasks):
    arrays = np.load(GOLDEN / "preprocessors.npz")
    order = ["fav", "reply", "click"]
    table = {task: arrays[f"in/label/{task}"][:, 0] for task in order}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    data = ParquetData(
        inputs=str(tmp_path),
        seg_dense_schema=Schema(labels={task: task for task in order}),
        global_batch_size=12,
        tasks={
            "fav": SamplingRates(pos_downsampling_rate=0.8387, neg_downsampling_rate=0.01),
            "reply": SamplingRates(neg_downsampling_rate=0.25),
        },
    )
    ((batch, _),) = data.batches(tasks=tasks, weighted=True, shuffle_seed=None, epochs=1)
    assert batch.weights is not None
    columns = [order.index(task) for task in tasks]
    expected = arrays["map_output/labels"][:, columns], arrays["map_output/weights"][:, columns]
    np.testing.assert_array_equal(batch.labels.numpy(), expected[0])
    np.testing.assert_array_equal(batch.weights.numpy(), expected[1])
