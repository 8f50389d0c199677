"""Adam without the compiler, and with few kernels, does what torch's own does."""

import copy
from unittest.mock import patch

import torch
from torch import Tensor

from recap.optimizer.eager import Adam


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.linspace(-1, 1, size)) for size in (3, 5)]


def step(optimizer: torch.optim.Optimizer, number: int) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.cos(number * parameter.detach())
    optimizer.step()
    optimizer.zero_grad()


def groups(of: list[torch.nn.Parameter]) -> list[dict]:
    return [{"params": [of[0]], "lr": 0.1}, {"params": [of[1]], "weight_decay": 0.5}]


def equal(one: object, other: object) -> bool:
    if isinstance(one, dict):
        assert isinstance(other, dict)
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        assert isinstance(other, list)
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other  # type: ignore[arg-type]


def test_its_numbers_and_its_state_are_those_of_torchs_own():
    ours, theirs = parameters(), parameters()
    eager = Adam(groups(ours), lr=0.01, fused=True)
    plain = torch.optim.Adam(groups(theirs), lr=0.01, fused=True)
    for number in range(3):
        step(eager, number)
        step(plain, number)
    assert equal([p.detach() for p in ours], [p.detach() for p in theirs])
    assert not torch.equal(ours[0], parameters()[0])
    assert all(parameter.grad is None for parameter in ours)
    assert equal(eager.state_dict(), plain.state_dict())


def test_it_goes_on_from_the_state_of_torchs_own():
    ours, theirs = parameters(), parameters()
    eager, plain = Adam(groups(ours), lr=0.01), torch.optim.Adam(groups(theirs), lr=0.01)
    step(plain, 1)
    eager.load_state_dict(copy.deepcopy(plain.state_dict()))
    for one, other in zip(ours, theirs, strict=True):
        one.data.copy_(other.data)
    step(eager, 2)
    step(plain, 2)
    assert equal([p.detach() for p in ours], [p.detach() for p in theirs])


def test_a_steps_graph_is_not_kept():
    ours = parameters()
    optimizer = Adam(ours, lr=0.01)
    step(optimizer, 1)
    assert all(parameter.grad_fn is None and parameter.is_leaf for parameter in ours)
    assert torch.is_grad_enabled()


def test_hooks_of_a_step_are_called():
    optimizer, seen = Adam(parameters(), lr=0.01), []
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    step(optimizer, 1)
    assert seen == ["after"]


def test_groups_that_are_updated_alike_are_one_kernel():
    ours, theirs = [torch.nn.Parameter(torch.linspace(-1, 1, 4)) for _ in range(2)], parameters()
    rows = [
        {"params": [ours[0]], "name": "like", "lr": 0.1},
        {"params": [theirs[0]], "name": "repost", "lr": 0.2},
        {"params": [ours[1]], "name": "reply", "lr": 0.1},
    ]
    optimizer = Adam(rows, fused=True)
    fused = torch._fused_adam_  # pyright: ignore[reportPrivateImportUsage]
    with patch("torch._fused_adam_", wraps=fused) as kernel:
        step(optimizer, 1)
        assert [len(call.args[0]) for call in kernel.call_args_list] == [2, 1]
        optimizer.param_groups[1]["lr"] = 0.1
        step(optimizer, 2)
        assert [len(call.args[0]) for call in kernel.call_args_list] == [2, 1, 3]
    assert [group["name"] for group in optimizer.param_groups] == ["like", "repost", "reply"]
