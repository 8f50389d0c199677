"""Z-scores of logarithms by hand, and with the file that recap.data.statistics writes."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from recap.batch import Batch
from recap.data.statistics import Columns, write_statistics
from recap.model import BatchNorm, ZScoreLog
from recap.schema import Dense, Schema

SCHEMA = Schema(
    labels={"click": "is_click"},
    dense={
        "continuous": Dense(column="c", length=3),
        "more": Dense(column="m", length=1),
        "binary": Dense(column="b", length=1, dtype="int64"),
    },
)
E = math.e
# logarithms: 1 and 3 in the first column (mean 2, deviation 1), 0 and -4 in the second (mean -2,
# deviation 2), the third is constant; those of the other input are 2 and 2.5 (2.25 and 0.25)
CONTINUOUS = np.array([[E - 1, 0.0, 6.0], [E**3 - 1, 1 - E**4, 6.0]])
MORE = np.array([[E**2 - 1], [E**2.5 - 1]])


@pytest.fixture
def path(tmp_path) -> str:
    path = str(tmp_path / "statistics.parquet")
    write_statistics({"continuous": Columns.of(CONTINUOUS), "more": Columns.of(MORE)}, path)
    return path


def rows(continuous: Any, binary: list[int], more: Any = None) -> Batch:
    dense = {
        "continuous": torch.tensor(np.asarray(continuous), dtype=torch.float32),
        "binary": torch.tensor(binary)[:, None],
    }
    if more is not None:
        dense["more"] = torch.tensor(np.asarray(more), dtype=torch.float32)
    labels = torch.zeros(len(binary), 1)
    return Batch(dense=dense, sparse={}, tasks=("click",), labels=labels)


def test_logarithms_are_scored_by_column_and_the_others_left_as_they_are(path):
    layer = ZScoreLog(SCHEMA, statistics_path=path)
    assert layer.out_features == 4
    features = layer(rows([*CONTINUOUS, [E**4 - 1, E**2 - 1, 7.0]], [0, 1, 9]))
    torch.testing.assert_close(
        features,
        torch.tensor([[-1.0, 1.0, 0.0, 0.0], [1.0, -1.0, 0.0, 1.0], [2.0, 2.0, 0.0, 9.0]]),
    )


def test_scores_are_clamped(path):
    layer = ZScoreLog(SCHEMA, statistics_path=path, clip_magnitude=0.5)
    assert layer(rows(CONTINUOUS, [3, 3])).tolist() == [
        [-0.5, 0.5, 0.0, 3.0],
        [0.5, -0.5, 0.0, 3.0],
    ]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_counts_as_zero(path, number):
    layer = ZScoreLog(SCHEMA, statistics_path=path)
    assert torch.equal(
        layer(rows([[number, 1.0, number]], [1])), layer(rows([[0.0, 1.0, 0.0]], [1]))
    )


def test_a_column_without_a_number_and_one_of_hardly_any_spread_are_zero(tmp_path):
    path = str(tmp_path / "statistics.parquet")
    spread = 1e-7  # of a logarithm of 3: float32 has no numbers in between
    columns = np.array([[np.nan, E**3 - 1, 0.0], [np.nan, math.exp(3 + spread) - 1, 1.0]])
    write_statistics({"continuous": Columns.of(columns)}, path)
    numbers = [[2.0, E**3 - 1, 1.0], [7.0, 7.0, 0.0]]
    features = ZScoreLog(SCHEMA, statistics_path=path)(rows(numbers, [0, 0]))
    torch.testing.assert_close(
        features, torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, -1.0, 0.0]])
    )


def test_columns_are_found_by_their_numbers_in_whatever_order_the_file_has_them(path, tmp_path):
    shuffled = str(tmp_path / "shuffled.parquet")
    pq.write_table(pq.read_table(path).take([2, 3, 0, 1]), shuffled)
    batch = rows(CONTINUOUS, [0, 1])
    expected = ZScoreLog(SCHEMA, statistics_path=path)(batch)
    assert torch.equal(ZScoreLog(SCHEMA, statistics_path=shuffled)(batch), expected)


def test_a_batch_norm_comes_last_if_it_is_wanted(path):
    norm = BatchNorm(affine=False, momentum=0.5)
    layer = ZScoreLog(SCHEMA, statistics_path=path, batch_norm_config=norm, clip_magnitude=0.5)
    assert isinstance(layer.batch_norm, nn.BatchNorm1d)
    # clamped to -0.5 and 0.5, hence 0 and 1 after the first batch norm: deviation 0.5
    features = layer(rows(CONTINUOUS, [3, 3]))
    torch.testing.assert_close(features[0, :2], torch.tensor([-1.0, 1.0]), atol=1e-4, rtol=0)
    # the unbiased variance of -0.5 and 0.5 is 0.5
    assert layer.batch_norm.running_var.tolist() == [0.75, 0.75, 0.5]  # pyright: ignore


def test_inputs_are_scored_by_their_own_statistics_in_the_order_named(path):
    layer = ZScoreLog(
        SCHEMA,
        statistics_path=path,
        continuous_feature_names=["more", "continuous"],
        feature_names_to_concat=[],
    )
    assert layer(rows(CONTINUOUS[:1], [0], MORE[:1])).tolist() == [
        pytest.approx([-1.0, -1.0, 1.0, 0.0], abs=1e-5)
    ]


def test_the_numbers_are_in_the_models_state_and_in_its_precision(path):
    layer = ZScoreLog(SCHEMA, statistics_path=path)
    assert layer.state_dict().keys() == {"mean", "inverse_std"}
    assert not list(layer.parameters())
    assert layer.double()(rows(CONTINUOUS, [0, 0])).dtype == torch.float64


def test_a_file_of_other_widths_or_inputs_is_refused_with_all_of_them(tmp_path):
    path = str(tmp_path / "statistics.parquet")
    write_statistics({"continuous": Columns.of(CONTINUOUS[:, :2])}, path)
    message = (
        r"statistics_path=.*: it has 2 columns of continuous, the schema leaves 3; it has no "
        r"statistics of more; it has those of continuous; python -m recap\.data\.statistics with"
    )
    with pytest.raises(ValueError, match=message):
        ZScoreLog(SCHEMA, statistics_path=path, continuous_feature_names=["continuous", "more"])


def test_what_is_no_file_of_statistics_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none: no such file; python -m recap.data.statistics wr"):
        ZScoreLog(SCHEMA, statistics_path=str(tmp_path / "none"))
    text = tmp_path / "text"
    text.write_text("mean,std\n")
    with pytest.raises(ValueError, match=r"text: not a file that python -m recap\.data\.s"):
        ZScoreLog(SCHEMA, statistics_path=str(text))
    pq.write_table(pa.table({"input": ["continuous"]}), tmp_path / "other")
    with pytest.raises(ValueError, match="it has no column index, log1p_abs_mean, log1p_abs_std"):
        ZScoreLog(SCHEMA, statistics_path=str(tmp_path / "other"))


def test_faulty_settings_are_refused(path):
    with pytest.raises(ValueError, match=r"clip_magnitude=0\.0 must be above 0"):
        ZScoreLog(SCHEMA, statistics_path=path, clip_magnitude=0.0)
    with pytest.raises(ValueError, match="must name at least one dense input"):
        ZScoreLog(SCHEMA, statistics_path=path, continuous_feature_names=[])
    with pytest.raises(ValueError, match="'xyz' is not in the schema"):
        ZScoreLog(SCHEMA, statistics_path=path, feature_names_to_concat=["xyz"])
