"""Featurization by hand, and the rows that would poison a run."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from recap.batch import Batch
from recap.model import BatchNorm, ClipLog1pAbs, DoubleNormLog, LayerNorm, Log1pAbs
from recap.schema import Dense, Schema, Sparse

SCHEMA = Schema(
    labels={"click": "is_click"},
    dense={
        "continuous": Dense(column="c", length=2),
        "binary": Dense(column="b", length=1, dtype="int64"),
    },
    sparse={"video_id": Sparse(column="v", num_buckets=10)},
)


def rows(continuous, binary):
    return Batch(
        dense={
            "continuous": torch.tensor(continuous),
            "binary": torch.tensor(binary)[:, None],
        },
        sparse={},
        tasks=("click",),
        labels=torch.zeros(len(binary), 1),
    )


def test_log1p_abs_is_odd_and_leaves_the_other_columns_as_they_are():
    e = math.e - 1
    layer = Log1pAbs(SCHEMA)
    assert layer.out_features == 3
    torch.testing.assert_close(
        layer(rows([[e, -e], [0.0, e * e + 2 * e]], [True, False])),
        torch.tensor([[1.0, -1.0, 1.0], [0.0, 2.0, 0.0]]),
    )


def test_clip_log1p_abs_clamps_the_logarithms_and_nothing_else():
    e = math.e - 1
    layer = ClipLog1pAbs(SCHEMA, clip_magnitude=1.5)
    assert layer.out_features == 3
    torch.testing.assert_close(
        layer(rows([[e, -e * e - 2 * e], [1e30, 0.0]], [7, 0])),
        torch.tensor([[1.0, -1.5, 7.0], [1.5, 0.0, 0.0]]),
    )


@pytest.mark.parametrize("featurize", [Log1pAbs, ClipLog1pAbs, DoubleNormLog])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_counts_as_zero(featurize, number):
    layer = featurize(SCHEMA).eval()
    assert torch.equal(layer(rows([[number, 1.0]], [1])), layer(rows([[0.0, 1.0]], [1])))


def test_double_norm_log_step_by_step():
    e = math.e - 1
    layer = DoubleNormLog(SCHEMA, layer_norm_config=None, clip_magnitude=0.5)
    # The logarithms are 1 and -1 in the first column: mean 0, variance 1, clamped to 0.5. The
    # second is constant.
    features = layer(rows([[e, 5.0], [-e, 5.0]], [1, 0]))
    expected = torch.tensor([[0.5, 0.0, 1.0], [-0.5, 0.0, 0.0]])
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=0)
    # Running mean 0.99·0 + 0.01·log(6); variance 0.99·1 + 0.01·2, unbiased.
    torch.testing.assert_close(
        layer.batch_norm.running_mean, torch.tensor([0.0, 0.01 * math.log(6)])
    )
    torch.testing.assert_close(layer.batch_norm.running_var, torch.tensor([1.01, 0.99]))


def test_the_layer_norm_is_over_all_columns():
    layer = DoubleNormLog(SCHEMA, batch_norm_config=None)
    e = math.e - 1
    # [0, 1, 2]: mean 1, variance 2/3
    expected = torch.tensor([[-1.0, 0.0, 1.0]]) * math.sqrt(1.5)
    torch.testing.assert_close(layer(rows([[0.0, e]], [2])), expected)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_row_gives_the_center_and_finite_gradients_with_epsilon_zero(value, dtype):
    norm: Any = LayerNorm(epsilon=0.0).over(2776).to(dtype)
    torch.nn.init.constant_(norm.bias, 0.25)
    numbers: Any = torch.randn(3, 2776, dtype=dtype)
    numbers[1] = value
    numbers.requires_grad_()
    output = norm(numbers)
    assert torch.equal(output[1], norm.bias)
    output.square().sum().backward()
    assert torch.isfinite(numbers.grad).all()
    assert not numbers.grad[1].any()
    assert torch.isfinite(norm.weight.grad).all()
    # d/d bias of the sum of squares is twice the output, of all three rows
    torch.testing.assert_close(norm.bias.grad, 2 * output.detach().sum(dim=0))


def test_other_rows_come_out_as_with_a_plain_layer_norm_of_epsilon_zero():
    numbers = torch.randn(4, 2776) * torch.tensor([[1.0], [1e-3], [1e-10], [5.0]])
    plain, ours = numbers.clone().requires_grad_(), numbers.clone().requires_grad_()
    norm: Any = LayerNorm(epsilon=0.0).over(2776)
    expected = F.layer_norm(plain, (2776,), eps=0.0)
    assert torch.equal(norm(ours), expected)
    expected.pow(3).sum().backward()
    norm(ours).pow(3).sum().backward()
    assert ours.grad is not None
    assert plain.grad is not None
    assert torch.equal(ours.grad, plain.grad)


def test_an_epsilon_above_zero_is_a_plain_layer_norm():
    numbers = torch.randn(4, 5)
    expected = F.layer_norm(numbers, (5,), eps=0.1)
    assert torch.equal(LayerNorm(epsilon=0.1).over(5)(numbers), expected)


def test_center_and_scale_can_be_left_out():
    norm = LayerNorm(epsilon=0.0, center=False, scale=False).over(3)
    assert not list(norm.parameters())
    torch.testing.assert_close(
        norm(torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])),
        torch.tensor([[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]) * math.sqrt(1.5),
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"continuous_feature_names": ["continous", "video_id"]},
            "'continous' is not in the schema; close: continuous; input 'video_id' is sparse",
        ),
        (
            {"feature_names_to_concat": ["xyz"]},
            "'xyz' is not in the schema; there is continuous, binary",
        ),
        ({"continuous_feature_names": []}, "must name at least one dense input"),
        (
            {"feature_names_to_concat": ["binary", "continuous"]},
            "continuous in both continuous_feature_names and feature_names_to_concat",
        ),
        (
            {"feature_names_to_concat": ["binary", "binary"]},
            "dense inputs listed twice: binary; list each once",
        ),
    ],
)
@pytest.mark.parametrize("featurize", [Log1pAbs, ClipLog1pAbs, DoubleNormLog])
def test_a_faulty_name_is_refused(featurize, settings, message):
    with pytest.raises(ValueError, match=message):
        featurize(SCHEMA, **settings)


def test_a_faulty_number_is_refused():
    for featurize in (ClipLog1pAbs, DoubleNormLog):
        with pytest.raises(ValueError, match=r"clip_magnitude=0\.0 must be above 0"):
            featurize(SCHEMA, clip_magnitude=0.0)
    with pytest.raises(ValueError, match=r"epsilon=-1\.0 must be 0 or more"):
        LayerNorm(epsilon=-1.0)


@pytest.mark.parametrize("axis", [-1, 1])
def test_a_layer_norm_is_over_the_columns_by_either_name_of_their_axis(axis):
    norm = LayerNorm(axis=axis).over(2)
    # columns [0, 10] and [2, 30]: over them and not over the examples, each row is ∓1
    rows_of_two = torch.tensor([[0.0, 2.0], [10.0, 30.0]])
    expected = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]])
    torch.testing.assert_close(norm(rows_of_two), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("axis", [0, 2, -2])
def test_a_layer_norm_over_another_axis_is_refused(axis):
    with pytest.raises(ValueError, match=rf"axis={axis} must be -1 or 1.*\nepsilon=-1"):
        LayerNorm(axis=axis, epsilon=-1.0)


def test_a_row_of_zeros_trains_as_local_prod_is_set():
    layer = DoubleNormLog(SCHEMA, batch_norm_config=None)
    features = layer(rows([[0.0, 0.0], [1.0, 2.0]], [0, 1]))
    features.square().sum().backward()
    assert features.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_batch_norm_can_be_without_affine():
    layer = DoubleNormLog(SCHEMA, batch_norm_config=BatchNorm(affine=False))
    assert not list(layer.batch_norm.parameters())
