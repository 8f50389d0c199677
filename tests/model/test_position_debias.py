"""Position debias by hand: which vector, when none, and what training drops."""

import math

import pytest
import torch

from recap.batch import Batch
from recap.model import PositionDebias
from recap.schema import Dense, Schema

SCHEMA = Schema(
    labels={"click": "is_click"},
    dense={
        "discrete": Dense(column="d", length=2, dtype="int64"),
        "shown": Dense(column="s", length=1),
    },
)


def batch_of(positions, dtype=torch.int64, feature="discrete"):
    numbers = torch.tensor(positions, dtype=dtype)[:, None]
    if feature == "discrete":
        numbers = torch.cat([torch.full_like(numbers, 9), numbers], dim=1)
    labels = torch.zeros(len(positions), 1)
    return Batch(dense={feature: numbers}, sparse={}, tasks=("click",), labels=labels)


def layer_of(**settings) -> PositionDebias:
    """The vector of slot i is [i + 1, i + 1, …]: no slot's is zeros."""
    given = {"position_feature_index": 1, "max_position": 3, "num_dims": 2, **settings}
    layer = PositionDebias(SCHEMA, **given)
    with torch.no_grad():
        weights = layer.embedding.weight
        weights.copy_(torch.arange(1.0, len(weights) + 1)[:, None].expand_as(weights))
    return layer


def firsts(layer: PositionDebias, batch: Batch) -> list[float]:
    """The first number of each row's vector."""
    vectors = layer(batch)
    assert torch.equal(vectors, vectors[:, :1].expand(-1, layer.out_features))
    return vectors[:, 0].tolist()


def test_a_position_has_its_vector_and_those_beyond_the_last_share_its():
    layer = layer_of().eval()
    assert (layer.out_features, layer.embedding_dims, layer.reads) == (2, [2], ("discrete",))
    assert firsts(layer, batch_of([0, 1, 3, 4, 2**40])) == [1.0, 2.0, 4.0, 4.0, 4.0]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float16, torch.float64])
def test_positions_may_be_stored_in_any_type(dtype):
    layer = layer_of(max_position=256).eval()
    assert firsts(layer, batch_of([0, 1, 100], dtype)) == [1.0, 2.0, 101.0]


def test_no_position_is_zeros():
    layer = layer_of().eval()
    assert firsts(layer, batch_of([-1, 2])) == [0.0, 3.0]
    shown = layer_of(feature_name="shown", position_feature_index=0).eval()
    numbers = [math.nan, -math.inf, math.inf, 1.0]
    assert firsts(shown, batch_of(numbers, torch.float32, "shown")) == [0.0, 0.0, 4.0, 2.0]


def test_positions_may_count_from_one_so_that_zero_is_none():
    layer = layer_of(first_position=1).eval()
    assert layer.embedding.weight.shape == (3, 2)
    assert firsts(layer, batch_of([0, 1, 3, 4])) == [0.0, 1.0, 3.0, 3.0]


def test_the_share_dropped_in_training_is_the_one_asked_for_and_nothing_is_scaled():
    torch.manual_seed(0)
    batch = batch_of([1] * 4000)
    for share in (0.2, 0.5):
        layer = layer_of(drop_probability=share)
        read = firsts(layer, batch)
        assert set(read) == {0.0, 2.0}
        assert read.count(0.0) / len(read) == pytest.approx(share, abs=0.03)
        assert set(firsts(layer.eval(), batch)) == {2.0}
    assert set(firsts(layer_of(drop_probability=0.0), batch)) == {2.0}
    assert set(firsts(layer_of(drop_probability=1.0), batch)) == {0.0}


def test_a_row_without_position_trains_no_vector():
    layer = layer_of(drop_probability=0.0)
    layer(batch_of([-1, 1, 7])).sum().backward()
    assert layer.embedding.weight.grad is not None
    assert layer.embedding.weight.grad[:, 0].tolist() == [0.0, 1.0, 0.0, 1.0]


def test_the_published_numbers_are_the_defaults():
    layer = PositionDebias(SCHEMA, position_feature_index=0)
    assert layer.embedding.weight.shape == (257, 64)
    assert layer.drop_probability == 0.5


def test_weights_start_with_the_spread_asked_for():
    torch.manual_seed(0)
    layer = PositionDebias(SCHEMA, position_feature_index=0, init_std=0.3)
    assert layer.embedding.weight.std().item() == pytest.approx(0.3, rel=0.02)


def test_faulty_settings_come_in_one_message():
    message = (
        r"position_feature_index=2 must lie in 0 … 1, the columns of discrete\nmax_position=0 must "
        r"be at least first_position=1\nnum_dims=0 must be 1 or more\ndrop_probability=1\.5 must "
        r"be a fraction from 0 to 1\ninit_std=-1\.0 must be 0 or more"
    )
    with pytest.raises(ValueError, match=message):
        PositionDebias(
            SCHEMA,
            position_feature_index=2,
            max_position=0,
            first_position=1,
            num_dims=0,
            drop_probability=1.5,
            init_std=-1.0,
        )
    with pytest.raises(ValueError, match="feature_name: dense input 'x' is not in the schema"):
        PositionDebias(SCHEMA, position_feature_index=0, feature_name="x")
