"""Mask blocks in parallel and in series, with and without an MLP on top."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from recap.model import MLP, MaskBlock, MaskBlockConfig, MaskNet

BLOCKS = [
    MaskBlockConfig(output_size=4, reduction_factor=0.5),
    MaskBlockConfig(output_size=3, aggregation_size=7, input_layer_norm=True),
]


def test_a_block_is_the_layer_norm_of_the_hidden_layer_of_the_masked_net():
    block: Any = MaskBlock(2, 1, MaskBlockConfig(output_size=2, aggregation_size=1))
    with torch.no_grad():
        for layer, weight in (
            (block.mask_layer[0], [[2.0]]),
            (block.mask_layer[2], [[1.0], [3.0]]),
            (block.hidden_layer, [[1.0, 0.0], [0.0, 1.0]]),
        ):
            layer.weight.copy_(torch.tensor(weight))
    # mask input 0.5 → ReLU(1) → mask [1, 3]; net [5, 2] masked is [5, 6], centred and scaled ∓1
    output = block(torch.tensor([[5.0, 2.0]]), torch.tensor([[0.5]]))
    torch.testing.assert_close(output, torch.tensor([[-1.0, 1.0]]), atol=1e-4, rtol=0)


def test_the_reduction_factor_is_of_the_mask_input_rounded_down():
    block: Any = MaskBlock(10, 53, MaskBlockConfig(output_size=2, reduction_factor=0.25))
    assert block.mask_layer[0].weight.shape == (13, 53)
    assert block.mask_layer[2].weight.shape == (10, 13)


def test_parallel_blocks_all_read_the_input_and_are_concatenated():
    net: Any = MaskNet(6, mask_blocks=BLOCKS, use_parallel=True)
    features = torch.randn(5, 6)
    expected = torch.cat([block(features, features) for block in net.mask_blocks], dim=1)
    assert net.out_features == 4 + 3
    assert torch.equal(net(features), expected)


def test_serial_blocks_read_the_block_before_and_the_mask_reads_the_input():
    net: Any = MaskNet(6, mask_blocks=BLOCKS, use_parallel=False)
    features = torch.randn(5, 6)
    first, second = net.mask_blocks
    assert second.mask_layer[0].in_features == 6
    assert second.hidden_layer.in_features == 4
    assert net.out_features == 3
    assert torch.equal(net(features), second(first(features, features), features))


def layer_normed(x: np.ndarray, norm: Any) -> np.ndarray:
    centred = x - x.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    return scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def linear(x: np.ndarray, layer: Any) -> np.ndarray:
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


@pytest.mark.parametrize("use_parallel", [True, False])
@pytest.mark.parametrize("with_mlp", [True, False])
@pytest.mark.parametrize("width", [{"aggregation_size": 7}, {"reduction_factor": 1.5}])
@pytest.mark.parametrize("input_layer_norm", [True, False])
def test_the_output_is_the_formulas(use_parallel, with_mlp, width, input_layer_norm):
    torch.manual_seed(0)
    mlp = partial(MLP, layer_sizes=[8, 2], final_layer_activation=True) if with_mlp else None
    blocks = [
        MaskBlockConfig(output_size=size, input_layer_norm=input_layer_norm, **width)
        for size in (4, 3)
    ]
    net: Any = MaskNet(6, mask_blocks=blocks, mlp=mlp, use_parallel=use_parallel).double()
    for parameter in net.parameters():
        if parameter.dim() == 1:  # biases and norms start at 0 and 1
            torch.nn.init.normal_(parameter)
    features = torch.randn(5, 6, dtype=torch.float64)
    x = features.numpy()
    last, outputs = x, []
    for block in net.mask_blocks:
        first, _, second = block.mask_layer
        assert first.out_features == width.get("aggregation_size", 9)  # 1.5 × 6 inputs
        mask = linear(np.maximum(linear(x, first), 0), second)
        net_input = x if use_parallel else last
        if input_layer_norm:
            net_input = layer_normed(net_input, block.input_layer_norm)
        last = layer_normed(linear(net_input * mask, block.hidden_layer), block.layer_norm)
        outputs.append(last)
    expected = np.concatenate(outputs, axis=1) if use_parallel else last
    if with_mlp:
        for layer in (0, 2):
            expected = np.maximum(linear(expected, net.mlp.layers[layer]), 0)
    output = net(features)
    np.testing.assert_allclose(output.detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    assert net.out_features == expected.shape[1]
    output.square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(("use_parallel", "width"), [(True, 7), (False, 3)])
def test_an_mlp_on_top_reads_the_blocks(use_parallel, width):
    mlp = partial(MLP, layer_sizes=[8, 2])
    net: Any = MaskNet(6, mask_blocks=BLOCKS, mlp=mlp, use_parallel=use_parallel)
    assert net.mlp.layers[0].in_features == width
    assert net.out_features == 2
    assert net(torch.randn(5, 6)).shape == (5, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give exactly one of reduction_factor=None and aggregation_size=None"),
        (
            {"reduction_factor": 0.5, "aggregation_size": 4},
            "exactly one of reduction_factor=0.5 and aggregation_size=4; set the other to null",
        ),
        ({"aggregation_size": 0}, "aggregation_size=0 must be 1 or more"),
        ({"reduction_factor": 0.0}, "reduction_factor=0.0 must be above 0"),
        ({"reduction_factor": math.nan}, "reduction_factor=nan must be above 0 and finite"),
        ({"reduction_factor": math.inf}, "reduction_factor=inf must be above 0 and finite"),
        ({"output_size": 1, "aggregation_size": 1}, "output_size=1 must be 2 or more; .* constant"),
    ],
)
def test_a_faulty_block_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MaskBlockConfig(**{"output_size": 4, **settings})


def test_a_reduction_to_nothing_is_refused():
    with pytest.raises(ValueError, match=r"reduction_factor=0\.1 of 6 inputs leaves no mask"):
        MaskNet(6, mask_blocks=[MaskBlockConfig(output_size=4, reduction_factor=0.1)])


def test_a_mask_net_without_blocks_is_refused():
    with pytest.raises(ValueError, match=r"must list at least one block; .* is model/backbone=mlp"):
        MaskNet(6, mask_blocks=[])
