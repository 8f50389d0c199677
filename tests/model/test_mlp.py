"""The multi-layer perceptron, layer by layer."""

from typing import Any

import pytest
import torch
from torch import nn

from recap.model import MLP, BatchNorm


def kinds(mlp):
    return [type(layer).__name__ for layer in mlp.layers]


def test_a_hidden_layer_is_linear_batch_norm_relu_dropout_and_the_last_is_bare():
    mlp: Any = MLP(
        3, layer_sizes=[8, 1], batch_norm=BatchNorm(affine=False, momentum=0.2), dropout=0.1
    )
    assert kinds(mlp) == ["Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    norm, dropout = mlp.layers[1], mlp.layers[3]
    assert (norm.num_features, norm.affine, norm.momentum, dropout.p) == (8, False, 0.2, 0.1)
    assert mlp.out_features == 1


def test_a_final_activation_is_a_relu_alone():
    mlp: Any = MLP(
        3, layer_sizes=[8, 2], batch_norm=BatchNorm(), dropout=0.1, final_layer_activation=True
    )
    assert kinds(mlp)[4:] == ["Linear", "ReLU"]


def test_one_layer_is_enough():
    mlp: Any = MLP(2, layer_sizes=[1], batch_norm=BatchNorm(), dropout=0.5)
    assert kinds(mlp) == ["Linear"]
    with torch.no_grad():
        mlp.layers[0].weight.copy_(torch.tensor([[10.0, 1.0]]))
    assert mlp(torch.tensor([[1.0, 2.0]])).tolist() == [[12.0]]


def test_one_layer_may_have_a_final_activation():
    mlp: Any = MLP(1, layer_sizes=[1], final_layer_activation=True)
    torch.nn.init.constant_(mlp.layers[0].weight, 2.0)
    assert mlp(torch.tensor([[-1.0], [1.0]])).tolist() == [[0.0], [2.0]]


def test_a_batch_norm_stands_between_the_linear_layer_and_the_relu():
    mlp: Any = MLP(1, layer_sizes=[1, 1], batch_norm=BatchNorm(affine=False, momentum=0.5))
    for layer in (0, 3):
        torch.nn.init.constant_(mlp.layers[layer].weight, 2.0)
    # [1, 3] → [2, 6] → normed [-1, 1] → ReLU [0, 1] → [0, 2]
    output = mlp(torch.tensor([[1.0], [3.0]]))
    torch.testing.assert_close(output, torch.tensor([[0.0], [2.0]]), atol=1e-4, rtol=0)
    assert mlp.layers[1].running_mean.tolist() == [2.0]  # half of the mean, 4


def test_a_dropout_is_behind_the_relu_and_in_training_only():
    torch.manual_seed(0)
    mlp: Any = MLP(1, layer_sizes=[1000, 1], dropout=0.2)
    torch.nn.init.constant_(mlp.layers[0].weight, 1.0)
    torch.nn.init.constant_(mlp.layers[3].weight, 1.0)
    one = torch.ones(1, 1)
    kept = mlp(one).item() * 0.8  # what is kept is divided by 0.8
    assert 760 <= round(kept) <= 840
    assert mlp.eval()(one).item() == 1000


def test_the_output_is_that_of_the_weights():
    mlp: Any = MLP(2, layer_sizes=[2, 1])
    with torch.no_grad():
        mlp.layers[0].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        mlp.layers[2].weight.copy_(torch.tensor([[10.0, 1.0]]))
    # [1, 2] → [3, -1] → ReLU [3, 0] → 30
    assert mlp(torch.tensor([[1.0, 2.0]])).tolist() == [[30.0]]


def test_weights_start_xavier_uniform_and_biases_at_zero():
    torch.manual_seed(0)
    first: Any = MLP(100, layer_sizes=[50, 1]).layers[0]
    bound = (6 / (100 + 50)) ** 0.5
    assert 0.95 * bound < first.weight.abs().max() <= bound
    assert not first.bias.any()
    assert isinstance(first, nn.Linear)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer_sizes": []}, r"layer_sizes=\[\] must list widths of 1 or more, e.g. \[256, 1\]"),
        ({"layer_sizes": [4, 0]}, r"layer_sizes=\[4, 0\] must list"),
        ({"layer_sizes": [1], "dropout": 0.0}, "dropout=0.0 must be .* null means none"),
        ({"layer_sizes": [1], "dropout": 1.0}, "dropout=1.0 must be a fraction between 0 and 1"),
    ],
)
def test_a_faulty_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MLP(3, **settings)


@pytest.mark.parametrize("momentum", [0.0, 1.5])
def test_a_momentum_outside_its_range_is_refused(momentum):
    with pytest.raises(ValueError, match=r"momentum=.* must be above 0 and at most 1"):
        BatchNorm(momentum=momentum)


def test_weights_start_within_the_bound_of_their_init():
    xavier, fan_in = (
        next(MLP(100, layer_sizes=[50], init=init).parameters()).abs().max()
        for init in ("xavier_uniform", "fan_in_uniform")
    )
    assert 0.19 < xavier <= (6 / 150) ** 0.5  # 0.2
    assert 0.09 < fan_in <= 0.1
    with pytest.raises(ValueError, match="init='zeros' must be xavier_uniform or fan_in_uniform"):
        MLP(2, layer_sizes=[1], init="zeros")  # pyright: ignore[reportArgumentType]
