"""Small embeddings by hand: which vector, where, and what counts as unknown."""

import math
from typing import Any

import pytest
import torch

from recap.batch import Batch
from recap.model import SmallEmbeddings, SmallTable
from recap.schema import Dense, Schema, Sparse

SCHEMA = Schema(
    labels={"click": "is_click"},
    dense={
        "discrete": Dense(column="d", length=3, dtype="int64"),
        "other": Dense(column="o", length=1),
    },
    sparse={"video": Sparse(column="v", num_buckets=3)},
)


def batch_of(numbers, dtype=torch.int64, feature="discrete"):
    dense = {feature: torch.tensor(numbers, dtype=dtype)}
    labels = torch.zeros(len(numbers), 1)
    return Batch(dense=dense, sparse={}, tasks=("click",), labels=labels)


def layer_of(*, feature_name: str = "discrete", **tables: dict[str, Any]) -> SmallEmbeddings:
    """Table t's vector of id i is [10·i + t, 10·i + t + 1, …] in the order of the tables."""
    settings = {name: SmallTable(**table) for name, table in tables.items()}
    layer = SmallEmbeddings(SCHEMA, tables=settings, feature_name=feature_name)
    with torch.no_grad():
        for t, weights in enumerate(layer.parameters()):
            rows, dims = weights.shape
            weights.copy_(10.0 * torch.arange(rows)[:, None] + torch.arange(dims) + t)
    return layer


def test_each_table_reads_its_own_column():
    layer = layer_of(
        country={"num_embeddings": 5, "embedding_dim": 2, "index": 2},
        forward={"num_embeddings": 3, "embedding_dim": 1, "index": 0},  # a name that modules have
    )
    assert (layer.out_features, layer.embedding_dims) == (3, [2, 1])
    assert layer.reads == ("discrete",)
    assert layer(batch_of([[1, 0, 4], [2, 0, 3]])).tolist() == [
        [40.0, 41.0, 11.0],
        [30.0, 31.0, 21.0],
    ]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.float16, torch.float64])
def test_an_id_outside_its_table_is_read_as_the_first(dtype):
    layer = layer_of(a={"num_embeddings": 300, "embedding_dim": 1, "index": 1})
    ids = [0, 7, 100, -1] if dtype == torch.int8 else [0, 7, 100, 300]
    assert layer(batch_of([[9, i, 9] for i in ids], dtype)).flatten().tolist() == [0, 70, 1000, 0]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1.0])
def test_what_is_no_id_is_read_as_the_first_and_trains_it(number):
    layer = layer_of(a={"num_embeddings": 3, "embedding_dim": 1, "index": 0}, feature_name="other")
    vectors = layer(batch_of([[2.0], [number]], torch.float32, "other"))
    assert vectors.flatten().tolist() == [20.0, 0.0]
    vectors.sum().backward()
    (weights,) = layer.parameters()
    assert weights.grad is not None
    assert weights.grad.flatten().tolist() == [1.0, 0.0, 1.0]


def test_weights_start_with_the_spread_asked_for():
    torch.manual_seed(0)
    tables = {
        name: SmallTable(num_embeddings=5000, embedding_dim=4, index=0, init_std=std)
        for name, std in (("narrow", 0.01), ("wide", 0.5))
    }
    narrow, wide = SmallEmbeddings(SCHEMA, tables=tables).parameters()
    assert narrow.std().item() == pytest.approx(0.01, rel=0.02)
    assert wide.std().item() == pytest.approx(0.5, rel=0.02)


def test_tables_that_do_not_fit_the_schema_are_refused_together():
    one = SmallTable(num_embeddings=3, embedding_dim=1, index=3)
    two = SmallTable(num_embeddings=3, embedding_dim=1, index=-1)
    message = (
        r"tables\.a\.index=3 must lie in 0 … 2, the columns of discrete\ntables\.b\.index=-1 must"
    )
    with pytest.raises(ValueError, match=message):
        SmallEmbeddings(SCHEMA, tables={"a": one, "b": two})
    with pytest.raises(ValueError, match="feature_name: dense input 'discret' is not in the sch"):
        SmallEmbeddings(SCHEMA, tables={"a": one}, feature_name="discret")
    with pytest.raises(ValueError, match="feature_name: input 'video' is sparse"):
        SmallEmbeddings(SCHEMA, tables={"a": one}, feature_name="video")
    with pytest.raises(ValueError, match="must describe at least one table"):
        SmallEmbeddings(SCHEMA, tables={})


def test_faulty_settings_come_in_one_message():
    message = (
        r"num_embeddings=0 must be 1 or more\nembedding_dim=0 must be 1 or "
        r"more\ninit_std=-1\.0 must be 0 or more"
    )
    with pytest.raises(ValueError, match=message):
        SmallTable(num_embeddings=0, embedding_dim=0, index=0, init_std=-1.0)
