"""Slices of the examples: which rows they hold and what they refuse."""

import pytest
import torch

from recap.batch import Batch
from recap.model.stratifiers import Stratifier
from recap.schema import Dense, Schema

SCHEMA = Schema(
    labels={"like": "is_like"},
    dense={
        "discrete": Dense(column="d", length=3, dtype="int64"),
        "continuous": Dense(column="c", length=2),
    },
)
BATCH = Batch(
    dense={
        "discrete": torch.tensor([[7, 1, 0], [7, 2, 0], [8, 1, 0]]),
        "continuous": torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]),
    },
    sparse={},
    tasks=("like",),
    labels=torch.zeros(3, 1),
)


def test_a_slice_holds_the_examples_of_one_value_of_one_feature():
    assert Stratifier(index=0, value=7).rows(BATCH).tolist() == [0, 1]
    assert Stratifier(index=1, value=1).rows(BATCH).tolist() == [0, 2]
    assert Stratifier(index=1, value=9).rows(BATCH).tolist() == []
    other = Stratifier(index=0, value=1, feature_name="continuous")
    assert other.rows(BATCH).tolist() == [0, 2]
    assert set(other.reads) == {"continuous"}


@pytest.mark.parametrize("index", [-1, 3])
def test_a_column_that_is_not_there_is_refused(index: int):
    assert Stratifier(index=index, value=1).faults(SCHEMA) == [
        f"index={index} must lie in 0 … 2, the columns of discrete"
    ]


def test_a_feature_that_is_not_there_is_refused():
    (fault,) = Stratifier(index=0, value=1, feature_name="discret").faults(SCHEMA)
    assert fault == "feature_name: dense input 'discret' is not in the schema; close: discrete"


def test_a_number_is_compared_at_its_value_in_whatever_type_the_feature_is_stored():
    def rows(value: int, stored: torch.dtype) -> list[int]:
        dense = {"discrete": torch.tensor([[44], [1], [256]]).to(stored)}
        batch = Batch(dense=dense, sparse={}, tasks=("like",), labels=torch.zeros(3, 1))
        return Stratifier(index=0, value=value).rows(batch).tolist()

    assert rows(44, torch.uint8) == [0]
    assert rows(300, torch.uint8) == []  # 300 is 44 in the last eight bits
    assert rows(256, torch.bfloat16) == [2]
    assert rows(257, torch.bfloat16) == []  # no number of bfloat16, 256 is the nearest
