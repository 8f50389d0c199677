import functools

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import Parameter

from recap.optimizer import MultiTaskLearningRates, RecapOptimizerConfig, set_learning_rates
from recap.schedule import LinearRampToConstant


def normed() -> dict[str, Parameter]:
    """Weights and biases of a linear layer and a norm."""
    return dict(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)).named_parameters())


def sgd(rate: float | LinearRampToConstant = 0.1) -> RecapOptimizerConfig:
    """Plain gradient descent with weight decay ½."""
    return RecapOptimizerConfig(
        single_task_learning_rate=rate,
        algorithm=functools.partial(torch.optim.SGD, weight_decay=0.5),
    )


def test_weight_decay_leaves_out_biases_norms_and_tables():
    backbone, tower = normed(), normed()
    table = {"weight": Parameter(torch.ones(5, 2))}
    optimizer = sgd()(towers={"like": tower}, backbone=backbone, tables={"user_id": table})
    decayed = [p for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]]
    assert {id(p) for p in decayed} == {id(backbone["0.weight"]), id(tower["0.weight"])}


def test_a_decayed_weight_shrinks_and_an_exempt_one_stays():
    backbone = normed()
    for parameter in backbone.values():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    sgd(rate=0.1)(towers={"like": normed()}, backbone=backbone).step()
    assert backbone["0.weight"].unique().tolist() == pytest.approx([1 - 0.1 * 0.5])
    assert backbone["0.bias"].unique().tolist() == [1.0]
    assert backbone["1.weight"].unique().tolist() == [1.0]


def test_weight_decay_leaves_out_embeddings_of_the_backbone():
    backbone = normed() | {"position.weight": Parameter(torch.ones(5, 2))}
    optimizer = sgd()(towers={}, backbone=backbone, embeddings=["position.weight"])
    decayed = [p for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]]
    assert {id(p) for p in decayed} == {id(backbone["0.weight"])}


def test_a_group_that_catches_nothing_is_refused():
    with pytest.raises(ValueError, match="parameter group reply catches no trainable parameter"):
        sgd()(towers={"like": normed(), "reply": {}}, backbone=normed())


def test_a_group_of_frozen_parameters_catches_nothing():
    frozen = normed()
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="parameter group backbone catches no trainable parameter"):
        sgd()(towers={"like": normed()}, backbone=frozen)


def test_a_parameter_in_two_groups_is_refused():
    shared = normed()
    with pytest.raises(ValueError, match=r"parameter 0\.weight is in the groups like and backbone"):
        sgd()(towers={"like": shared}, backbone=shared)


def test_set_learning_rates_writes_and_returns_the_rates_of_a_step():
    config = RecapOptimizerConfig(
        multi_task_learning_rates=MultiTaskLearningRates(
            tower_learning_rates={"like": LinearRampToConstant(learning_rate=8, num_ramp_steps=4)},
            backbone_learning_rate=0.5,
        ),
        algorithm=torch.optim.SGD,
    )
    optimizer = config(towers={"like": normed()}, backbone=normed())
    assert {group["lr"] for group in optimizer.param_groups} == {0.0, 0.5}
    assert set_learning_rates(optimizer, 3) == {"like": 6.0, "backbone": 0.5}
    written = {(group["name"], group["lr"]) for group in optimizer.param_groups}
    assert written == {("like", 6.0), ("backbone", 0.5)}


def test_a_changed_curve_wins_over_the_rates_of_a_loaded_state():
    tower, backbone = normed(), normed()
    before = sgd(rate=0.1)(towers={"like": tower}, backbone=backbone)
    after = sgd(rate=0.2)(towers={"like": tower}, backbone=backbone)
    state = before.state_dict()
    for group, now in zip(state["param_groups"], after.param_groups, strict=True):
        group.update(learning_rate=now["learning_rate"])  # what recap.checkpoint leaves out
    after.load_state_dict(state)
    assert set_learning_rates(after, 0) == {"like": 0.2, "backbone": 0.2}
    assert {group["lr"] for group in after.param_groups} == {0.2}


def ramp(algorithm: functools.partial) -> torch.optim.Optimizer:
    """The algorithm over a weight of ones, its rate climbing by 0.1 a step."""
    weight = Parameter(torch.ones(3))
    weight.grad = torch.full_like(weight, 0.5)
    config = RecapOptimizerConfig(
        single_task_learning_rate=LinearRampToConstant(learning_rate=1.0, num_ramp_steps=10),
        algorithm=algorithm,
    )
    return config(towers={}, backbone={"weight": weight})


def test_a_capturable_groups_rate_is_always_the_same_tensor():
    plain = ramp(functools.partial(torch.optim.AdamW))
    captured = ramp(functools.partial(torch.optim.AdamW, capturable=True))
    places = set()
    for step in range(4):
        for optimizer in (plain, captured):
            assert set_learning_rates(optimizer, step) == {"backbone": pytest.approx(step / 10)}
            optimizer.step()
        (group,) = captured.param_groups
        places.add(group["lr"].data_ptr())
        assert group["lr"].dtype == torch.float32
        assert group["lr"].item() == pytest.approx(step / 10)
    assert len(places) == 1
    (mine,), (other,) = captured.param_groups[0]["params"], plain.param_groups[0]["params"]
    assert torch.allclose(mine, other, rtol=1e-6)
    assert not mine.eq(1.0).any()


@pytest.mark.filterwarnings("default:`torch.jit.script_method` is deprecated")
def test_a_compiled_update_is_not_compiled_again_for_another_rate():
    torch._dynamo.reset()
    optimizer = ramp(functools.partial(torch.optim.AdamW, capturable=True, fused=True))
    traced = CompileCounterWithBackend("eager")
    update = torch.compile(optimizer.step, backend=traced)
    counts = []
    for step in range(5):
        set_learning_rates(optimizer, step)
        update()
        counts.append(traced.frame_count)
    assert counts[1:] == [counts[1]] * 4
    torch._dynamo.reset()
