"""Mask blocks in parallel and in series, with and without an MLP on top."""

from functools import partial
from typing import Any

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
