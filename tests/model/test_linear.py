"""Fast layers beside their plain twins: the same outputs and gradients, in memory that is kept."""

import copy
from unittest.mock import patch

import pytest
import torch
from torch import nn

from recap.model.linear import Linear, side_by_side
from recap.model.mask_net import MaskBlockConfig, MaskNet
from recap.model.masked_linear import masked_linear
from recap.model.mlp import MLP
from recap.model.norm import BatchNorm
from recap.model.towers import Towers


def gradient(layer: nn.Module) -> torch.Tensor:
    """Of the layer's weight."""
    assert isinstance(layer.weight, torch.Tensor)
    assert layer.weight.grad is not None
    return layer.weight.grad


def by_name(*modules):
    """Gradients of the modules' parameters, in one list of float64 tensors."""
    return [p.grad.double() for module in modules for p in module.parameters()]


def assert_as_exact(found, exact):
    """The issue's bound: 2e-6 of the gradient's norm against float64."""
    for ours, theirs in zip(found, exact, strict=True):
        error = torch.linalg.vector_norm(ours.double() - theirs)
        assert error <= 2e-6 * torch.linalg.vector_norm(theirs)


def test_a_gradient_lies_where_that_of_the_step_before_lay():
    layer, rows = Linear(3, 2), torch.ones(4, 3)
    layer(rows).sum().backward()
    assert gradient(layer).tolist() == [[4.0] * 3] * 2
    place = gradient(layer).data_ptr()
    torch.optim.SGD(layer.parameters()).zero_grad(set_to_none=True)
    assert layer.weight.grad is None
    layer(2 * rows).sum().backward()
    assert gradient(layer).data_ptr() == place
    assert gradient(layer).tolist() == [[8.0] * 3] * 2


def test_gradients_of_micro_batches_add_up():
    layer, rows = Linear(3, 2), torch.ones(4, 3)
    for _ in range(2):
        layer(rows).sum().backward()
    assert gradient(layer).tolist() == [[8.0] * 3] * 2
    assert layer.bias.grad is not None
    assert layer.bias.grad.tolist() == [8.0, 8.0]


@pytest.mark.parametrize("keep", [lambda grad: grad, lambda grad: grad[0], torch.detach])
def test_a_gradient_that_someone_keeps_is_not_written_over(keep):
    layer, rows = Linear(3, 2), torch.ones(4, 3)
    layer(rows).sum().backward()
    kept = keep(gradient(layer))
    layer.zero_grad(set_to_none=True)
    layer(2 * rows).sum().backward()
    assert kept.flatten()[0] == 4.0
    assert gradient(layer)[0, 0] == 8.0


def test_whoever_asks_autograd_for_a_gradient_gets_it():
    layer, rows = Linear(3, 2), torch.ones(4, 3)
    (asked,) = torch.autograd.grad(layer(rows).sum(), layer.weight)
    assert asked.tolist() == [[4.0] * 3] * 2
    assert layer.weight.grad is None
    seen = []
    layer.weight.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad.sum()))
    layer(rows).sum().backward()
    assert seen == [24.0]


def test_a_copy_of_a_layer_has_gradients_of_its_own():
    layer, rows = Linear(3, 2), torch.ones(4, 3)
    layer(rows).sum().backward()
    other = copy.deepcopy(layer)
    other.zero_grad(set_to_none=True)
    other(2 * rows).sum().backward()
    assert gradient(layer)[0, 0] == 4.0
    assert other.state_dict().keys() == nn.Linear(3, 2).state_dict().keys()


def test_weights_that_a_caller_puts_in_get_the_gradient():
    layer, rows = Linear(3, 2), torch.ones(4, 3)
    weight = torch.zeros(2, 3, requires_grad=True)
    torch.func.functional_call(layer, {"weight": weight}, rows).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[4.0] * 3] * 2
    assert layer.weight.grad is None


def test_a_frozen_weight_gets_no_gradient_and_its_inputs_do():
    layer, rows = Linear(3, 2), torch.ones(4, 3, requires_grad=True)
    layer.weight.requires_grad = False
    layer(rows).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(rows.grad, layer.weight.sum(0).expand(4, 3))


def test_layers_side_by_side_are_the_layers_behind_each_other():
    torch.manual_seed(0)
    layers = [Linear(40, 8), Linear(40, 5), Linear(40, 1, bias=False)]
    rows = torch.randn(16, 40, requires_grad=True)
    out = side_by_side(rows, layers)
    out.square().sum().backward()
    exact = copy.deepcopy(nn.ModuleList(layers)).double()
    exact.zero_grad()
    wide = rows.detach().double().requires_grad_()
    theirs = torch.cat([layer(wide) for layer in exact], dim=1)
    theirs.square().sum().backward()
    assert_as_exact([out, rows.grad, *by_name(*layers)], [theirs, wide.grad, *by_name(exact)])


def test_gradients_of_layers_side_by_side_are_one_multiplication():
    layers, rows = [Linear(3, 2, bias=False), Linear(3, 1, bias=False)], torch.ones(4, 3)
    with patch("torch.mm", wraps=torch.mm) as product:
        side_by_side(rows, layers).sum().backward()
        first, second = map(gradient, layers)
        assert [call.kwargs["out"].tolist() for call in product.call_args_list[2:]] == [
            [[4.0] * 3] * 3
        ]
    assert [first.tolist(), second.tolist()] == [[[4.0] * 3] * 2, [[4.0] * 3]]
    place = first.data_ptr()
    side_by_side(rows, layers).sum().backward()  # a further micro-batch adds to them
    assert [first.tolist(), second.tolist()] == [[[8.0] * 3] * 2, [[8.0] * 3]]
    layers[0].zero_grad(set_to_none=True)
    layers[1].zero_grad(set_to_none=True)
    side_by_side(rows, layers).sum().backward()  # both are still held by this test
    assert gradient(layers[0]).data_ptr() != place
    assert second.tolist() == [[8.0] * 3]


def test_a_frozen_layer_side_by_side_with_others_gets_no_gradient():
    layers, rows = [Linear(3, 2), Linear(3, 1)], torch.ones(4, 3)
    layers[0].weight.requires_grad = False
    side_by_side(rows, layers).sum().backward()
    assert layers[0].weight.grad is None
    assert gradient(layers[1]).tolist() == [[4.0] * 3]
    assert layers[0].bias.grad is not None
    assert layers[0].bias.grad.tolist() == [4.0, 4.0]


def test_a_layer_that_is_there_twice_gets_both_gradients():
    layer, rows = Linear(3, 2), torch.ones(4, 3)
    side_by_side(rows, [layer, layer]).sum().backward()
    assert gradient(layer).tolist() == [[8.0] * 3] * 2


def test_a_masked_layer_is_the_layer_of_the_product():
    torch.manual_seed(0)
    layer = Linear(40, 8)
    rows, mask = torch.randn(2, 16, 40).unbind()
    rows.requires_grad_()
    mask.requires_grad_()
    masked_linear(rows, mask, layer).square().sum().backward()
    exact = nn.Linear(40, 8).double()
    exact.load_state_dict(layer.state_dict())
    wide = [each.detach().double().requires_grad_() for each in (rows, mask)]
    exact(wide[0] * wide[1]).square().sum().backward()
    assert_as_exact(
        [rows.grad, mask.grad, *by_name(layer)], [*(w.grad for w in wide), *by_name(exact)]
    )


class PlainMaskNet(nn.Module):
    """Parallel mask blocks as the paper writes them, over the same parameters."""

    def __init__(self, fast):
        super().__init__()
        self.mask_blocks = fast.mask_blocks

    def forward(self, x):
        linear = nn.functional.linear
        outs = []
        for block in self.mask_blocks:
            first, _, second = block.mask_layer
            mask = linear(linear(x, first.weight, first.bias).relu(), second.weight, second.bias)
            hidden = linear(x * mask, block.hidden_layer.weight, block.hidden_layer.bias)
            outs.append(block.layer_norm(hidden))
        return torch.cat(outs, dim=1)


def test_mask_blocks_give_the_gradients_of_their_plain_twin():
    torch.manual_seed(0)
    blocks = [MaskBlockConfig(output_size=size, aggregation_size=24) for size in (16, 12, 16)]
    fast = MaskNet(40, mask_blocks=blocks)
    plain = PlainMaskNet(copy.deepcopy(fast)).double()
    assert plain.state_dict().keys() == fast.state_dict().keys()
    along, rows = torch.randn(44), torch.randn(16, 40, requires_grad=True)
    (fast(rows) * along).square().sum().backward()
    wide = rows.detach().double().requires_grad_()
    (plain(wide) * along).square().sum().backward()
    assert_as_exact([rows.grad, *by_name(fast)], [wide.grad, *by_name(plain)])


def towers_of(**settings):
    towers = Towers()
    for name, dropout in (("a", None), ("b", 0.5), ("c", None), ("d", 0.2)):
        towers[name] = MLP(40, layer_sizes=[16, 8, 1], dropout=dropout, **settings)
    return towers


@pytest.mark.parametrize("batch_norm", [None, BatchNorm(affine=False), BatchNorm(affine=True)])
def test_towers_side_by_side_give_the_gradients_of_one_after_the_other(batch_norm):
    torch.manual_seed(0)
    towers = towers_of(batch_norm=batch_norm)
    towers["other"] = MLP(40, layer_sizes=[4, 1])
    plain = copy.deepcopy(nn.ModuleDict(dict(towers.items()))).double()
    for tower in plain.values():
        for layer in tower.modules():
            if isinstance(layer, Linear):
                layer.__class__ = nn.Linear  # pyright: ignore[reportAttributeAccessIssue]
    rows = torch.randn(32, 40, requires_grad=True)
    along = torch.randn(5)
    torch.manual_seed(1)
    logits = towers(rows)
    (logits * along).square().sum().backward()
    wide = rows.detach().double().requires_grad_()
    torch.manual_seed(1)  # dropouts draw tower after tower in both
    theirs = torch.cat([tower(wide) for tower in plain.values()], dim=1)
    (theirs * along).square().sum().backward()
    assert_as_exact([logits, rows.grad], [theirs, wide.grad])
    for (name, ours), other in zip(towers.named_parameters(), plain.parameters(), strict=True):
        # a bias that a batch norm takes out again has a gradient of rounding alone
        if batch_norm is None or "bias" not in name:
            assert_as_exact([ours.grad], [other.grad])
    for ours, other in zip(towers.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours.double(), other.double())
    towers.eval()
    plain.eval()
    theirs = torch.cat([tower(wide) for tower in plain.values()], dim=1)
    assert_as_exact([towers(rows)], [theirs])


def test_towers_are_in_their_order_however_they_are_computed():
    towers = towers_of()
    towers["other"] = MLP(40, layer_sizes=[4, 1])
    towers["like_a"] = copy.deepcopy(towers["a"])
    towers.eval()
    rows = torch.randn(3, 40)
    alone = torch.cat([tower(rows) for tower in towers.values()], dim=1)
    torch.testing.assert_close(towers(rows), alone)
