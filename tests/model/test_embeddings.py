"""Precomputed and learned embeddings as inputs."""

import math
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
import torch

from recap.batch import Bag, Batch
from recap.model import EmbeddingTable, EmbeddingTables, LayerNormedEmbeddings
from recap.model.table_lookup import from_split
from recap.schema import Dense, Schema, Sparse

SCHEMA = Schema(
    labels={"click": "is_click"},
    dense={
        "user_embedding": Dense(column="u", length=2),
        "author_embedding": Dense(column="a", length=4, dtype="float16"),
    },
    sparse={
        "video_id": Sparse(column="v", vocabulary=["a", "b", "c"]),  # slots 0 to 3
        "last_video_ids": Sparse(column="l", vocabulary=["a", "b", "c"]),
        "city": Sparse(column="c", num_buckets=5),
        "tab": Sparse(column="t", vocabulary=2),
        "author_id": Sparse(column="i", vocabulary="authors.parquet"),
    },
)


def batch_of(sparse=(), dense=(), rows=2):
    return Batch(
        dense=dict(dense), sparse=dict(sparse), tasks=("click",), labels=torch.zeros(rows, 1)
    )


def tables(num_slots=None, **settings):
    return EmbeddingTables(
        SCHEMA,
        num_slots,
        tables={name: EmbeddingTable(**table) for name, table in settings.items()},
    )


def fill(layer, name, values):
    with torch.no_grad():
        layer.table(name).weight.copy_(torch.tensor(values))


FOUR_SLOTS = [[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]]
# rows hold slots 1 and 3, nothing, 2
THREE_BAGS = Bag(torch.tensor([1, 3, 2]), torch.tensor([0, 2, 2, 3]))


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("sum", [[6.0, 60.0], [0.0, 0.0], [3.0, 30.0]]),
        ("mean", [[3.0, 30.0], [0.0, 0.0], [3.0, 30.0]]),
    ],
)
def test_a_bag_is_pooled_and_an_empty_one_gives_zeros(pooling, expected):
    layer = tables(video_id={"embedding_dim": 2, "pooling": pooling})
    fill(layer, "video_id", FOUR_SLOTS)
    assert layer(batch_of({"video_id": THREE_BAGS}, rows=3)).tolist() == expected


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_a_part_of_a_batch_without_rows_gives_none_and_gradients_of_zero(pooling):
    layer = tables(video_id={"embedding_dim": 2, "pooling": pooling}, city={"embedding_dim": 3})
    none = Bag(torch.zeros(0, dtype=torch.int64), torch.tensor([0]))
    output = layer(batch_of({"video_id": none, "city": none}, rows=0))
    assert output.shape == (0, 5)
    output.sum().backward()
    for weight in layer.parameters():
        assert weight.grad is not None
        assert not weight.grad.to_dense().any()


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_whole_tables_are_looked_up_as_torchrec_does(pooling):
    """Vectors and gradients are within 2e-6 of float64's, row by row."""
    torch.manual_seed(0)
    layer = tables(
        videos={"embedding_dim": 5, "features": ["video_id", "last_video_ids"], "pooling": pooling},
        city={"embedding_dim": 3, "init_std": 1.0},
    )
    many = Bag(torch.tensor([2, 2, 0]), torch.tensor([0, 1, 1, 3]))
    one_each = Bag(torch.tensor([4, 0, 4]), torch.arange(4), one_each=True)
    bags = {"video_id": THREE_BAGS, "last_video_ids": many, "city": one_each}
    weights: list[Any] = [layer.table(n).weight for n in ("videos", "city")]
    videos, city = weights
    wide = [weight.detach().double().requires_grad_() for weight in weights]
    along = torch.randn(3, 13)

    def vectors_and_gradients(vectors, of):
        return [vectors, *torch.autograd.grad(vectors, of, along.to(vectors.dtype))]

    reads = zip(bags.values(), [wide[0], wide[0], wide[1]], strict=True)
    expected = vectors_and_gradients(torch.cat([pooled(*r, pooling) for r in reads], dim=1), wide)
    keyed: dict[str, Bag] = dict(
        zip(("videos/video_id", "videos/last_video_ids", "city/city"), bags.values(), strict=True)
    )
    by_torchrec = from_split(layer.collection, keyed, [pooling, pooling, "sum"])
    for found in (layer(batch_of(bags, rows=3)), by_torchrec):
        for value, wanted in zip(
            vectors_and_gradients(found, [videos, city]), expected, strict=True
        ):
            torch.testing.assert_close(value.double(), wanted, rtol=2e-6, atol=1e-8)


def pooled(bag, weight, pooling):
    """[B, D] row by row."""
    rows = [weight[bag.slots[start:stop]].sum(0) for start, stop in pairwise(bag.offsets.tolist())]
    lengths = bag.offsets.diff().clamp(min=1) if pooling == "mean" else 1
    return torch.stack(rows) / torch.as_tensor(lengths).reshape(-1, 1)


@pytest.mark.parametrize("training", [True, False])
def test_that_every_row_has_one_id_only_saves_the_pooling(training):
    layer = tables(video_id={"embedding_dim": 2, "id_dropout": 0.5}).train(training)
    slots, offsets = torch.tensor([3, 1, 1, 0]), torch.arange(5)
    torch.manual_seed(1)
    pooled = layer(batch_of({"video_id": Bag(slots, offsets)}, rows=4))
    torch.manual_seed(1)
    assert torch.equal(layer(batch_of({"video_id": Bag(slots, offsets, True)}, rows=4)), pooled)


def test_features_that_share_a_table_stand_side_by_side():
    layer = tables(
        city={"embedding_dim": 1},
        videos={"embedding_dim": 2, "features": ["last_video_ids", "video_id"]},
    )
    fill(layer, "videos", FOUR_SLOTS)
    fill(layer, "city", [[0.5]] * 5)
    one = Bag(torch.tensor([1]), torch.tensor([0, 1]))
    two = Bag(torch.tensor([2]), torch.tensor([0, 1]))
    output = layer(batch_of({"video_id": one, "last_video_ids": two, "city": one}, rows=1))
    assert output.tolist() == [[0.5, 3.0, 30.0, 2.0, 20.0]]
    assert layer.out_features == 1 + 2 * 2
    assert len(list(layer.parameters())) == 2


@pytest.mark.parametrize(
    ("feature", "slots"), [("video_id", 4), ("city", 5), ("tab", 3), ("author_id", 1000)]
)
def test_a_table_has_a_row_per_slot(feature, slots):
    layer = tables({"author_id": 1000}, **{feature: {"embedding_dim": 2}})
    assert layer.table(feature).weight.shape == (slots, 2)


def test_weights_start_with_the_spread_asked_for():
    torch.manual_seed(0)
    layer = tables({"author_id": 10_000}, author_id={"embedding_dim": 8, "init_std": 0.05})
    assert math.isclose(layer.part("author_id").std().item(), 0.05, rel_tol=0.02)


def test_id_dropout_reads_ids_as_out_of_vocabulary_in_training_alone():
    layer = tables(video_id={"embedding_dim": 2, "id_dropout": 0.2})
    fill(layer, "video_id", [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    ones = Bag(torch.ones(1000, dtype=torch.int64), torch.arange(1001))
    torch.manual_seed(0)
    kept = layer(batch_of({"video_id": ones}, rows=1000)).mean().item()
    assert 0.75 < kept < 0.85
    assert layer.eval()(batch_of({"video_id": ones}, rows=1000)).mean().item() == 1.0


def test_dropout_is_on_the_pooled_embedding_in_training_alone():
    layer = tables(video_id={"embedding_dim": 2, "dropout": 0.5})
    fill(layer, "video_id", [[1.0, 1.0]] * 4)
    batch = batch_of({"video_id": THREE_BAGS}, rows=3)
    torch.manual_seed(0)
    seen = {value for _ in range(20) for value in layer(batch).flatten().tolist()}
    assert seen == {0.0, 2.0, 4.0}  # dropped, or doubled to keep the mean
    assert layer.eval()(batch)[0].tolist() == [2.0, 2.0]


def test_embeddings_are_normed_one_by_one_and_appended_in_order():
    layer = LayerNormedEmbeddings(SCHEMA, feature_names=["author_embedding", "user_embedding"])
    batch = batch_of(
        dense={
            "user_embedding": torch.tensor([[1.0, 3.0], [math.nan, math.nan]]),
            "author_embedding": torch.tensor([[1, 1, -1, -1], [0, 0, 0, 0]], dtype=torch.float16),
        }
    )
    torch.testing.assert_close(
        layer(batch),
        torch.tensor([[1.0, 1.0, -1.0, -1.0, -1.0, 1.0], [0.0] * 6]),
        atol=1e-4,
        rtol=0,
    )
    assert layer.out_features == 6


def test_a_faulty_embedding_is_refused():
    with pytest.raises(ValueError, match="at least one dense input"):
        LayerNormedEmbeddings(SCHEMA, feature_names=[])
    with pytest.raises(
        ValueError, match=r"'user' is not in the schema; there is .*; dense input 'autor_embedding'"
    ):
        LayerNormedEmbeddings(SCHEMA, feature_names=["user", "autor_embedding"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vidio_id": {}}, "'vidio_id': sparse feature 'vidio_id' is not .* close: video_id"),
        ({"user_embedding": {}}, "feature 'user_embedding' is dense, a sparse one is needed"),
        (
            {"videos": {"features": ["video_id", "tab"]}},
            "features video_id, tab number their ids differently and cannot share it",
        ),
        ({"author_id": {}}, "vocabulary of feature 'author_id' is a file, and num_slots does not"),
        ({"city": {"id_dropout": 0.1}}, "id_dropout=0.1 needs .* which the hashed city lacks"),
        (
            {"a": {"features": ["x"]}, "b": {"features": ["y"]}},
            "embedding table 'a': .*; embedding table 'b': ",
        ),
        ({}, "at least one embedding table"),
    ],
)
def test_a_table_that_does_not_fit_the_schema_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tables(**{name: {"embedding_dim": 2, **table} for name, table in settings.items()})


def test_faulty_settings_of_a_table_come_in_one_message():
    faulty: dict[str, Any] = {"embedding_dim": 0, "features": [], "pooling": "max"}
    message = (
        r"embedding_dim=0 .*\nfeatures=\[\] .*\npooling='max' .*\ninit_std=-1.0 .*\ndropout=1.0"
    )
    with pytest.raises(ValueError, match=message):
        EmbeddingTable(**faulty, init_std=-1.0, dropout=1.0)


def test_an_id_dropout_of_everything_is_refused():
    with pytest.raises(ValueError, match=r"id_dropout=1\.0 must be at least 0 and below 1"):
        EmbeddingTable(embedding_dim=2, id_dropout=1.0)


def test_tables_without_torchrec_are_refused_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchrec.modules.embedding_modules", None)
    schema = Schema(labels={}, sparse={"user": Sparse(column="user", vocabulary=3)})
    with pytest.raises(ValueError, match="embedding tables need torchrec, which cannot be import"):
        EmbeddingTables(schema, tables={"user": EmbeddingTable(embedding_dim=2)})


def test_a_dense_model_never_imports_torchrec():
    command = (
        "import sys; from recap.experiment import prepare; "
        "from recap.model import EmbeddingTables; "
        "assert not [name for name in sys.modules if name.startswith(('torchrec', 'fbgemm'))]"
    )
    subprocess.run([sys.executable, "-c", command], check=True)
