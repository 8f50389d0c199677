"""Dot products of embedding vectors and of the bottom's output, and the MLPs around them."""

import itertools
import logging
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recap.model import DLRM, MLP
from recap.model.dlrm import _warn_that_there_are_no_vectors

BOTTOM = partial(MLP, layer_sizes=[5, 4], final_layer_activation=True)
TOP = partial(MLP, layer_sizes=[6, 2])
# columns: 0 to 1 dense, a vector of 4, one dense, a vector of 3, a vector of 4, two dense
EMBEDDED = (slice(2, 6), slice(7, 10), slice(10, 14))
WIDTH = 16


def dlrm(in_features: int = WIDTH, embedded: Any = EMBEDDED, **settings: Any) -> Any:
    """A DLRM in float64 whose biases are not zero."""
    torch.manual_seed(0)
    net = DLRM(in_features, embedded, **{"bottom_mlp": BOTTOM, "top_mlp": TOP, **settings})
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return net.double()


def dense(mlp: Any, x: np.ndarray) -> np.ndarray:
    for layer in mlp.layers:
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        else:
            x = np.maximum(x, 0)
    return x


def test_the_output_is_the_formulas():
    net = dlrm()
    features = torch.randn(7, WIDTH, dtype=torch.float64)
    x = features.numpy()
    bottom = dense(net.bottom_mlp, np.concatenate([x[:, :2], x[:, 6:7], x[:, 14:]], axis=1))
    narrow = x[:, 7:10] @ net.projections[1].weight.detach().numpy().T
    vectors = [bottom, x[:, 2:6], narrow, x[:, 10:14]]
    pairs = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    dots = [np.sum(vectors[i] * vectors[j], axis=1, keepdims=True) for i, j in pairs]
    expected = dense(net.top_mlp, np.concatenate([bottom, *dots], axis=1))
    output = net(features)
    np.testing.assert_allclose(output.detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    output.square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert net.out_features == 2


def test_only_a_vector_of_another_width_has_a_weight_of_its_own_and_no_bias():
    net = dlrm()
    shapes = {name: tuple(p.shape) for name, p in net.projections.named_parameters()}
    assert shapes == {"1.weight": (4, 3)}


def test_embedding_vectors_alone_interact_without_a_bottom():
    net = dlrm(9, (slice(4, 7), slice(0, 4), slice(7, 9)), bottom_mlp=None)
    features = torch.randn(3, 9, dtype=torch.float64)
    x = features.numpy()
    first, last = (net.projections[i].weight.detach().numpy().T for i in (0, 2))
    vectors = [x[:, 4:7] @ first, x[:, :4], x[:, 7:] @ last]
    dots = [np.sum(a * b, axis=1) for a, b in itertools.combinations(vectors, 2)]
    expected = dense(net.top_mlp, np.stack(dots, axis=1))
    np.testing.assert_allclose(net(features).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_without_embedding_vectors_it_is_bottom_then_top_and_one_warning_says_so(caplog):
    _warn_that_there_are_no_vectors.cache_clear()
    with caplog.at_level(logging.WARNING):
        net, _ = dlrm(3, ()), dlrm(3, ())
    features = torch.randn(5, 3, dtype=torch.float64)
    assert torch.equal(net(features), net.top_mlp(net.bottom_mlp(features)))
    [record] = caplog.records
    assert "no dot products, and top_mlp follows on bottom_mlp" in record.message


def test_with_embedding_vectors_nothing_is_logged(caplog):
    _warn_that_there_are_no_vectors.cache_clear()
    dlrm()
    assert not caplog.records


@pytest.mark.parametrize(
    ("in_features", "embedded", "bottom_mlp", "message"),
    [
        (9, [slice(0, 4)], None, "bottom_mlp=null leaves 5 of the 9 features unread"),
        (8, [slice(0, 4), slice(4, 8)], BOTTOM, "bottom_mlp has nothing to read, all 8 features"),
        (4, [slice(0, 4)], None, "one embedding vector and no other features make no pair"),
    ],
)
def test_a_part_without_anything_to_read_is_refused(in_features, embedded, bottom_mlp, message):
    with pytest.raises(ValueError, match=message):
        DLRM(in_features, embedded, bottom_mlp=bottom_mlp, top_mlp=TOP)


def test_the_same_seed_gives_the_same_weights():
    one, other = (dlrm().state_dict() for _ in range(2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
