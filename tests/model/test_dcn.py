"""Cross layers of full and of low rank, with the deep part beside them and on top of them."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from recap.model import DCN, MLP

DEEP = partial(MLP, layer_sizes=[5, 4])
TOP = partial(MLP, layer_sizes=[2])


def dcn(**settings: Any) -> Any:
    """A DCN of 3 inputs in float64 whose biases are not zero."""
    torch.manual_seed(0)
    net = DCN(3, **settings).double()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return net


def weight_and_bias(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


def crossed(net: Any, x0: np.ndarray) -> np.ndarray:
    """x_{l+1} = x0 · (W x_l + b) + x_l, W = U V in the low-rank form."""
    x = x0
    for layer in net.cross_layers:
        weight, bias = weight_and_bias(layer.linear)
        if not isinstance(layer.project, torch.nn.Identity):
            weight = weight @ layer.project.weight.detach().numpy()
        x = np.stack([x0[i] * (weight @ x[i] + bias) + x[i] for i in range(len(x0))])
    return x


def dense(mlp: Any, x: np.ndarray) -> np.ndarray:
    """Two layers with a ReLU between them, or one."""
    first, *rest = (layer for layer in mlp.layers if isinstance(layer, torch.nn.Linear))
    weight, bias = weight_and_bias(first)
    x = x @ weight.T + bias
    for layer in rest:
        weight, bias = weight_and_bias(layer)
        x = np.maximum(x, 0) @ weight.T + bias
    return x


def test_a_cross_layer_multiplies_by_the_input_and_adds_what_it_reads():
    net: Any = DCN(2, poly_degree=2)
    with torch.no_grad():
        for layer, weight, bias in zip(
            net.cross_layers, ([[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]), (0.0, 1.0),
            strict=True,
        ):  # fmt: skip
            layer.linear.weight.copy_(torch.tensor(weight))
            layer.linear.bias.fill_(bias)
    # [2, 3]·[3, 2] + [2, 3] = [8, 9]; [2, 3]·([8, 9] + 1) + [8, 9] = [26, 39]
    assert net(torch.tensor([[2.0, 3.0]])).tolist() == [[26.0, 39.0]]


@pytest.mark.parametrize("poly_degree", [1, 3])
@pytest.mark.parametrize("projection_dim", [None, 2])
@pytest.mark.parametrize("deep", ["none", "parallel", "stacked"])
@pytest.mark.parametrize("output_mlp", [None, TOP])
def test_the_output_is_the_formulas(poly_degree, projection_dim, deep, output_mlp):
    net = dcn(
        poly_degree=poly_degree,
        projection_dim=projection_dim,
        parallel_mlp=None if deep == "none" else DEEP,
        use_parallel=deep != "stacked",
        output_mlp=output_mlp,
    )
    features = torch.randn(6, 3, dtype=torch.float64)
    x0 = features.numpy()
    expected = crossed(net, x0)
    assert len(net.cross_layers) == poly_degree
    if deep == "parallel":
        expected = np.concatenate([expected, dense(net.parallel_mlp, x0)], axis=1)
    elif deep == "stacked":
        expected = dense(net.parallel_mlp, expected)
    if output_mlp is not None:
        expected = dense(net.output_mlp, expected)
    assert net.out_features == expected.shape[1]
    output = net(features)
    np.testing.assert_allclose(output.detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    output.square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_a_low_rank_has_two_narrow_matrices_and_one_bias():
    layer = dcn(poly_degree=1, projection_dim=2).cross_layers[0]
    shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    assert shapes == {"project.weight": (2, 3), "linear.weight": (3, 2), "linear.bias": (3,)}


def test_weights_start_xavier_uniform_and_biases_at_zero():
    torch.manual_seed(0)
    net: Any = DCN(90, poly_degree=1, projection_dim=10)
    layer = net.cross_layers[0]
    bound = (6 / (90 + 10)) ** 0.5
    for weight in (layer.project.weight, layer.linear.weight):
        assert 0.95 * bound < weight.abs().max() <= bound
    assert not layer.linear.bias.any()


def test_the_same_seed_gives_the_same_weights():
    settings = {"poly_degree": 2, "projection_dim": 2, "parallel_mlp": DEEP, "output_mlp": TOP}
    one, other = (dcn(**settings).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"poly_degree": 0}, "poly_degree=0 must be 1 or more; without cross layers it is an MLP"),
        ({"projection_dim": 0}, "projection_dim=0 must be 1 or more; null is the full rank"),
        (
            {"use_parallel": False},
            "use_parallel=False stacks parallel_mlp on the cross layers, and there is none",
        ),
        ({"poly_degree": -1, "projection_dim": -2}, "poly_degree=-1 .*; projection_dim=-2 "),
    ],
)
def test_a_faulty_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DCN(3, **{"poly_degree": 1, **settings})
