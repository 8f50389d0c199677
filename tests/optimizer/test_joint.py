"""Two algorithms as one optimizer: it does what each does alone, and keeps what both need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recap.checkpoint import (
    CheckpointError,
    Checkpoints,
    find,
    restore_training,
    training_state,
)
from recap.optimizer.joint import JointOptimizer

ALGORITHMS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, lr=0.1, fused=True),
    "sgd": partial(torch.optim.SGD, lr=0.1),  # keeps no moments
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adagrad": partial(torch.optim.Adagrad, lr=0.1),  # has its moments from the start
}
PAIRS = [(one, other) for one in ALGORITHMS for other in ALGORITHMS]


def network() -> nn.ModuleDict:
    """A dense part and a table, the same each time."""
    torch.manual_seed(0)
    return nn.ModuleDict({"dense": nn.Linear(2, 1), "table": nn.EmbeddingBag(5, 2)})


def separate(model: nn.ModuleDict, one: str, other: str) -> list[torch.optim.Optimizer]:
    return [
        ALGORITHMS[name]([{"params": list(model[part].parameters()), "name": part}])
        for part, name in (("dense", one), ("table", other))
    ]


def update(
    model: nn.ModuleDict, optimizers: Sequence[torch.optim.Optimizer], steps: Sequence[int]
) -> None:
    for number in steps:
        loss = model["dense"](model["table"](torch.tensor([[0, 1], [number, 3]]))).square().sum()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()


def save(save_dir: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    state = training_state(model, optimizer, step=1, position=0)
    with Checkpoints(save_dir) as checkpoints:
        checkpoints.save(1, state, about={})


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_a_joint_step_is_a_step_of_each(one: str, other: str):
    alone, together = network(), network()
    update(alone, separate(alone, one, other), range(3))
    update(together, [JointOptimizer(separate(together, one, other))], range(3))
    assert same(weights(alone), weights(together))
    assert not same(weights(alone), weights(network()))


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_four_updates_are_two_and_two_with_a_checkpoint_between(
    tmp_path: Path, one: str, other: str
):
    at_once = network()
    update(at_once, [JointOptimizer(separate(at_once, one, other))], range(4))

    before = network()
    optimizer = JointOptimizer(separate(before, one, other))
    update(before, [optimizer], range(2))
    save(tmp_path, before, optimizer)

    after = network()
    continued = JointOptimizer(separate(after, one, other))
    restore_training(find(tmp_path), after, continued)
    update(after, [continued], range(2, 4))
    assert same(weights(at_once), weights(after))


def test_moments_of_every_part_are_in_the_state():
    model = network()
    joint = JointOptimizer(separate(model, "adam", "momentum"))
    update(model, [joint], range(1))
    named = dict(model.named_parameters())
    assert set(joint.state) == set(named.values())
    assert set(joint.state[named["table.weight"]]) == {"momentum_buffer"}
    assert set(joint.state[named["dense.weight"]]) == {"step", "exp_avg", "exp_avg_sq"}


def test_moments_that_a_part_has_from_the_start_are_in_the_state_from_the_start():
    model = network()
    joint = JointOptimizer(separate(model, "momentum", "adagrad"))
    assert {
        name: set(joint.state[p]) for name, p in model.named_parameters() if p in joint.state
    } == {"table.weight": {"step", "sum"}}


def test_a_rate_written_into_a_group_is_the_parts():
    model = network()
    joint = JointOptimizer(separate(model, "adam", "adagrad"))
    joint.load_state_dict(joint.state_dict())  # which replaces the groups
    dense, table = joint.param_groups
    assert (dense["name"], table["name"]) == ("dense", "table")
    table["lr"] = 0.0
    before = weights(model)
    update(model, [joint], range(1))
    moved = [not torch.equal(*pair) for pair in zip(before, weights(model), strict=True)]
    assert dict(zip(dict(model.named_parameters()), moved, strict=True)) == {
        "dense.weight": True,
        "dense.bias": True,
        "table.weight": False,
    }


def test_a_closure_is_called_once_and_its_value_comes_back():
    model, calls = network(), []
    joint = JointOptimizer(separate(model, "sgd", "sgd"))
    assert joint.step(lambda: calls.append("now") or 0.5) == 0.5
    assert calls == ["now"]


def test_a_parameter_in_two_parts_and_a_group_added_later_are_refused():
    model = network()
    parts = separate(model, "sgd", "sgd")
    with pytest.raises(ValueError, match="appear in more than one parameter group"):
        JointOptimizer([*parts, parts[0]])
    with pytest.raises(ValueError, match="groups belong to the optimizers that are joined"):
        JointOptimizer(parts).add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


@pytest.mark.parametrize("configured", [("adam", "sgd"), ("adagrad", "adam"), ("adam",)])
def test_moments_of_other_algorithms_are_refused(tmp_path: Path, configured: tuple[str, ...]):
    model = network()
    joint = JointOptimizer(separate(model, "adam", "adagrad"))
    save(tmp_path, model, joint)
    if len(configured) == 1:
        optimizer = ALGORITHMS[configured[0]](model.parameters())
    else:
        optimizer = JointOptimizer(separate(model, *configured))
    message = (
        r"moments of torch\.optim\.adam\.Adam, torch\.optim\.adagrad\.Adagrad, configured is torch"
    )
    with pytest.raises(CheckpointError, match=message):
        restore_training(find(tmp_path), model, optimizer)
