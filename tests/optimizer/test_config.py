import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import Parameter

from recap.optimizer import (
    MultiTaskLearningRates,
    RecapAdamConfig,
    RecapOptimizerConfig,
    set_learning_rates,
)
from recap.optimizer.joint import JointOptimizer
from recap.schedule import LinearRampToConstant


def linear() -> dict[str, Parameter]:
    """A weight [2, 3] and a bias [2]."""
    return dict(nn.Linear(3, 2).named_parameters())


def rates(**towers: float) -> MultiTaskLearningRates:
    return MultiTaskLearningRates(tower_learning_rates=towers, backbone_learning_rate=0.0001)


def test_the_section_works_from_python_alone():
    config = RecapOptimizerConfig(
        multi_task_learning_rates=MultiTaskLearningRates(
            tower_learning_rates={"task1": 0.001}, backbone_learning_rate=0.0001
        ),
        adam=RecapAdamConfig(beta_1=0.95),
    )
    tower, backbone = linear(), linear()
    optimizer = config(towers={"task1": tower}, backbone=backbone)
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["betas"] == (0.95, 0.999)
    assert optimizer.defaults["eps"] == 1e-7
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {
        "task1": 0.001,
        "backbone": 0.0001,
    }


def test_every_parameter_is_in_exactly_one_group():
    towers = {"like": linear(), "reply": linear()}
    backbone, table = linear(), {"weight": Parameter(torch.zeros(5, 2))}
    config = RecapOptimizerConfig(
        multi_task_learning_rates=rates(like=0.1, reply=0.2), adam=RecapAdamConfig()
    )
    optimizer = config(towers=towers, backbone=backbone, tables={"user_id": table})
    caught = [(p, g["name"]) for g in optimizer.param_groups for p in g["params"]]
    given = {"like": towers["like"], "reply": towers["reply"]}
    given |= {"backbone": backbone, "user_id": table}
    wanted = {p: name for name, named in given.items() for p in named.values()}
    assert len(caught) == len(wanted)
    assert dict(caught) == wanted


def test_an_embedding_table_has_its_own_rate_or_follows_the_backbone():
    config = RecapOptimizerConfig(
        multi_task_learning_rates=MultiTaskLearningRates(
            tower_learning_rates={"like": 0.1},
            backbone_learning_rate=0.01,
            table_learning_rates={"user_id": 0.005},
        ),
        adam=RecapAdamConfig(),
    )
    table = {"weight": Parameter(torch.zeros(5, 2))}
    other = {"weight": Parameter(torch.zeros(5, 2))}
    optimizer = config(
        towers={"like": linear()}, backbone=linear(), tables={"user_id": table, "video_id": other}
    )
    found = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert found == {"like": 0.1, "backbone": 0.01, "user_id": 0.005, "video_id": 0.01}


def test_one_rate_for_all_reaches_every_group():
    config = RecapOptimizerConfig(
        single_task_learning_rate=LinearRampToConstant(learning_rate=0.4, num_ramp_steps=2),
        adam=RecapAdamConfig(),
    )
    optimizer = config(towers={"like": linear()}, backbone=linear())
    assert set_learning_rates(optimizer, 1) == {"like": 0.2, "backbone": 0.2}


def test_a_tower_without_a_rate_is_refused():
    config = RecapOptimizerConfig(multi_task_learning_rates=rates(like=0.1), adam=RecapAdamConfig())
    message = "tower_learning_rates: no rate for task reply; rates are given for like"
    with pytest.raises(ValueError, match=message):
        config(towers={"like": linear(), "reply": linear()}, backbone=linear())


def test_a_rate_for_no_tower_is_refused():
    config = RecapOptimizerConfig(
        multi_task_learning_rates=rates(like=0.1, reply=0.1), adam=RecapAdamConfig()
    )
    message = "tower_learning_rates.reply: no such tower is trained; there is like"
    with pytest.raises(ValueError, match=message):
        config(towers={"like": linear()}, backbone=linear())


def test_a_rate_for_no_table_is_refused():
    config = RecapOptimizerConfig(
        multi_task_learning_rates=MultiTaskLearningRates(
            tower_learning_rates={"like": 0.1},
            backbone_learning_rate=0.01,
            table_learning_rates={"user_id": 0.005},
        ),
        adam=RecapAdamConfig(),
    )
    message = "table_learning_rates.user_id: no such table is trained; there is none"
    with pytest.raises(ValueError, match=message):
        config(towers={"like": linear()}, backbone=linear())


def test_exactly_one_way_of_giving_rates():
    message = "exactly one of multi_task_learning_rates and single_task_learning_rate"
    with pytest.raises(ValueError, match=message):
        RecapOptimizerConfig(adam=RecapAdamConfig())
    with pytest.raises(ValueError, match=message):
        RecapOptimizerConfig(
            multi_task_learning_rates=rates(like=0.1),
            single_task_learning_rate=0.1,
            adam=RecapAdamConfig(),
        )


def test_exactly_one_algorithm():
    sgd = functools.partial(torch.optim.SGD, momentum=0.9)
    with pytest.raises(ValueError, match="exactly one of adam and algorithm"):
        RecapOptimizerConfig(single_task_learning_rate=0.1)
    with pytest.raises(ValueError, match="exactly one of adam and algorithm"):
        RecapOptimizerConfig(single_task_learning_rate=0.1, adam=RecapAdamConfig(), algorithm=sgd)


def test_any_torch_optimizer_is_an_algorithm():
    config = RecapOptimizerConfig(
        single_task_learning_rate=0.1, algorithm=functools.partial(torch.optim.SGD, momentum=0.9)
    )
    optimizer = config(towers={"like": linear()}, backbone={})
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta_1": 1.0}, r"beta_1=1.0 must lie in \[0, 1\)"),
        ({"beta_2": -0.1}, r"beta_2=-0.1 must lie in \[0, 1\)"),
        ({"beta_1": math.nan, "epsilon": math.inf}, "beta_1=nan must lie.*\nepsilon=inf must be a"),
        ({"epsilon": -1e-7}, "epsilon=-1e-07 must be a finite number, 0 or more"),
    ],
)
def test_adams_numbers_out_of_range_are_refused(settings: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        RecapAdamConfig(**settings)


def with_a_table(**settings: object) -> torch.optim.Optimizer:
    config = RecapOptimizerConfig(
        single_task_learning_rate=0.1, adam=RecapAdamConfig(), table_settings=settings
    )
    return config(
        towers={}, backbone=linear(), tables={"user_id": {"weight": Parameter(torch.zeros(5, 2))}}
    )


def test_embedding_tables_have_settings_of_their_own():
    optimizer = with_a_table(eps=1e-3, weight_decay=0.5)
    settings = {g["name"]: (g["eps"], g["weight_decay"]) for g in optimizer.param_groups}
    assert settings == {"backbone": (1e-7, 0.0), "user_id": (1e-3, 0.5)}


def test_a_tables_setting_that_means_nothing_is_refused():
    with pytest.raises(ValueError, match="table_settings: Adam has no momentum; it has lr, betas"):
        with_a_table(momentum=0.9)
    with pytest.raises(ValueError, match="table_settings: lr is no setting of the algorithm"):
        with_a_table(lr=0.9)
    without = RecapOptimizerConfig(
        single_task_learning_rate=0.1, adam=RecapAdamConfig(), table_settings={"eps": 1.0}
    )
    with pytest.raises(ValueError, match="table_settings: no embedding table is trained"):
        without(towers={}, backbone=linear())


def with_a_table_algorithm(*, tables: bool = True, **more: object) -> torch.optim.Optimizer:
    """Gradient descent for the backbone, Adagrad for a table."""
    config = RecapOptimizerConfig(
        single_task_learning_rate=0.1,
        algorithm=functools.partial(torch.optim.SGD, weight_decay=0.5),
        table_algorithm=functools.partial(torch.optim.Adagrad, weight_decay=0.25),
        **more,  # pyright: ignore[reportArgumentType]
    )
    table = {"weight": Parameter(torch.zeros(5, 2))}
    return config(towers={}, backbone=linear(), tables={"user_id": table} if tables else {})


def test_embedding_tables_have_an_algorithm_of_their_own_with_its_own_settings():
    optimizer = with_a_table_algorithm()
    assert isinstance(optimizer, JointOptimizer)
    assert [type(part) for part in optimizer.parts] == [torch.optim.SGD, torch.optim.Adagrad]
    decays = [(group["name"], group["weight_decay"]) for group in optimizer.param_groups]
    assert decays == [("backbone", 0.5), ("backbone", 0.0), ("user_id", 0.25)]


def test_a_table_algorithm_that_means_nothing_is_refused():
    with pytest.raises(
        ValueError, match=r"table_settings=\{'eps': 1.0\}: table_algorithm has its own"
    ):
        with_a_table_algorithm(table_settings={"eps": 1.0})
    with pytest.raises(ValueError, match="table_algorithm: no embedding table is trained"):
        with_a_table_algorithm(tables=False)


def test_a_table_that_is_called_as_a_tower_is_refused():
    config = RecapOptimizerConfig(single_task_learning_rate=0.1, adam=RecapAdamConfig())
    tables = {name: {"weight": Parameter(torch.zeros(5, 2))} for name in ("like", "backbone")}
    with pytest.raises(ValueError, match="embedding table backbone, like: a tower or the backbone"):
        config(towers={"like": linear()}, backbone=linear(), tables=tables)


def without_a_backbone_rate(**tables: float) -> RecapOptimizerConfig:
    return RecapOptimizerConfig(
        multi_task_learning_rates=MultiTaskLearningRates(
            tower_learning_rates={"like": 0.1}, table_learning_rates=tables
        ),
        adam=RecapAdamConfig(),
    )


def test_a_model_without_shared_parameters_needs_no_backbone_rate():
    optimizer = without_a_backbone_rate()(towers={"like": linear()}, backbone={})
    assert set_learning_rates(optimizer, 0) == {"like": 0.1}
    table = {"user_id": {"weight": Parameter(torch.zeros(5, 2))}}
    optimizer = without_a_backbone_rate(user_id=0.2)(
        towers={"like": linear()}, backbone={}, tables=table
    )
    assert set_learning_rates(optimizer, 0) == {"like": 0.1, "user_id": 0.2}


def test_shared_parameters_and_tables_that_follow_them_need_a_backbone_rate():
    table = {"user_id": {"weight": Parameter(torch.zeros(5, 2))}}
    message = (
        r"backbone_learning_rate=null: 2 parameters, table user_id take it; give a rate, 0 lea"
    )
    with pytest.raises(ValueError, match=message):
        without_a_backbone_rate()(towers={"like": linear()}, backbone=linear(), tables=table)


def test_bare_numbers_that_are_no_rates_are_refused_together():
    with pytest.raises(ValueError, match="must be a curve") as refused:
        MultiTaskLearningRates(
            tower_learning_rates={"like": -0.1, "reply": 0.0},
            backbone_learning_rate=math.inf,
            table_learning_rates={"user_id": math.nan},
        )
    keys = [line.split("=")[0] for line in str(refused.value).splitlines()]
    assert keys == [
        "backbone_learning_rate",
        "tower_learning_rates.like",
        "table_learning_rates.user_id",
    ]
    with pytest.raises(ValueError, match="single_task_learning_rate=-1 must be a curve of recap"):
        RecapOptimizerConfig(single_task_learning_rate=-1, adam=RecapAdamConfig())


def test_all_that_contradicts_itself_is_refused_together():
    with pytest.raises(ValueError, match="give exactly one") as refused:
        RecapOptimizerConfig(table_settings={"lr": 1.0}, table_algorithm=torch.optim.SGD)
    assert [line[:14] for line in str(refused.value).splitlines()] == [
        "give exactly o",
        "give exactly o",
        "table_settings",
        "table_settings",
    ]


def test_all_that_does_not_fit_the_model_is_refused_together():
    config = RecapOptimizerConfig(
        multi_task_learning_rates=MultiTaskLearningRates(
            tower_learning_rates={"like": 0.1}, table_learning_rates={"user_id": 0.1}
        ),
        adam=RecapAdamConfig(),
        table_settings={"eps": 1.0},
    )
    with pytest.raises(ValueError, match="no rate for task reply") as refused:
        config(towers={"reply": linear()}, backbone=linear())
    assert len(str(refused.value).splitlines()) == 5
