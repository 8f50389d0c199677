"""Every optimizer with every schedule, as the command line composes them: who moves, how far."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import hydra
import pytest
import torch
from tiny import Tiny
from torch import Tensor, nn
from torch.nn import Parameter

from recap.experiment import prepare
from recap.model.heavy_ranker import HeavyRanker
from recap.optimizer import RecapOptimizerConfig, set_learning_rates

Parts = Mapping[str, Mapping[str, Mapping[str, Parameter]]]

# as conf/optimizer has them, at a rate of 1
ALGORITHMS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": functools.partial(torch.optim.Adam, lr=1.0, betas=(0.95, 0.999), eps=1e-7),
    "adamw": functools.partial(torch.optim.AdamW, lr=1.0, weight_decay=0.01),
    "sgd": functools.partial(torch.optim.SGD, lr=1.0, momentum=0.9),
    "adagrad": functools.partial(torch.optim.Adagrad, lr=1.0),
}
TABLE_ALGORITHMS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adagrad": functools.partial(torch.optim.Adagrad, lr=1.0),
    "adam": functools.partial(torch.optim.Adam, lr=1.0),
    "sgd": functools.partial(torch.optim.SGD, lr=1.0),
}
VIDEO = "+schedule.tables.video={}"  # the tiny experiment's table, with a rate of its own


@functools.cache
def configured(*overrides: str) -> RecapOptimizerConfig:
    """The optimizer section of the tiny experiment; its tasks are like, follow, reply."""
    cfg = Tiny(Path("nowhere")).config(*overrides)
    config = hydra.utils.instantiate(cfg.optimizer, _convert_="object")
    assert isinstance(config, RecapOptimizerConfig)
    return config


def parts(fill: float = 1.0) -> Parts:
    """The same weight [2, 3] and bias [3] in every tower and the backbone, and a table [2, 3]."""

    def named() -> dict[str, Parameter]:
        weight = torch.full((2, 3), fill, dtype=torch.float64)
        return {"weight": Parameter(weight), "bias": Parameter(weight[0].clone())}

    towers = {task: named() for task in ("like", "follow", "reply")}
    tables = {"video": {"weight": named()["weight"]}}
    return {"towers": towers, "backbone": {"backbone": named()}, "tables": tables}


def by_group(made: Parts) -> dict[str, list[Tensor]]:
    """The parameters of each group, its weight first."""
    return {
        name: [parameter.detach() for parameter in named.values()]
        for kind in made.values()
        for name, named in kind.items()
    }


def updated(*overrides: str, steps: tuple[int, ...] = (0,)) -> dict[str, list[Tensor]]:
    """What each group moved in updates at ``steps``, from weights of 1 by gradients of step + 2."""
    made = parts()
    optimizer = configured(*overrides)(
        towers=made["towers"], backbone=made["backbone"]["backbone"], tables=made["tables"]
    )
    for step in steps:
        set_learning_rates(optimizer, step)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, step + 2.0)
        optimizer.step()
    return {name: [tensor - 1.0 for tensor in own] for name, own in by_group(made).items()}


def unit(build: Callable[..., torch.optim.Optimizer], step: int, *, exempt: bool) -> float:
    """What one update by a plain torch optimizer at a rate of 1 moves a weight of 1."""
    weight = Parameter(torch.ones(2, 3, dtype=torch.float64))
    weight.grad = torch.full_like(weight, step + 2.0)
    build([{"params": [weight], **({"weight_decay": 0.0} if exempt else {})}]).step()
    return weight[0, 0].item() - 1.0


# schedule: overrides; then the rates of the curve, and of the tower reply, at steps 2 and 5
SCHEDULES = {
    "constant": (["schedule.curve.learning_rate=0.01"], [0.01, 0.01], [0.02, 0.02]),
    "linear_ramp": (["schedule.curve.learning_rate=0.01"], [0.005, 0.01], [0.01, 0.02]),
    "linear_ramp_to_cosine": (
        ["schedule.curve.final_learning_rate=0.002", "schedule.curve.final_num_steps=6"],
        [0.005, 0.006],  # half way down at step 5
        [0.01, 0.011],
    ),
    "piecewise_constant": (
        [
            "schedule.curve.learning_rate_boundaries=[3,6]",
            "schedule.curve.learning_rate_values=[0.1,0.2,0.4]",
            "+schedule.towers.reply.learning_rate_values=[0.0,0.3,0.0]",
        ],
        [0.1, 0.2],
        [0.0, 0.3],
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", ALGORITHMS)
@pytest.mark.parametrize("single", [False, True], ids=["multi_task", "single_task"])
def test_one_update_moves_every_group_by_its_rate(optimizer: str, schedule: str, single: bool):
    more, of_curve, of_reply = SCHEDULES[schedule]
    overrides = [f"optimizer={optimizer}", f"schedule={schedule}", *more]
    if single:
        overrides = [o for o in overrides if ".reply." not in o] + ["schedule.single_task=true"]
    for index, step in enumerate((2, 5)):
        moved = updated(*overrides, steps=(step,))
        assert set(moved) == {"like", "follow", "reply", "backbone", "video"}
        for name, tensors in moved.items():
            rate = (of_reply if name == "reply" and not single else of_curve)[index]
            for tensor in tensors:
                exempt = tensor.ndim == 1 or name == "video"
                wanted = rate * unit(ALGORITHMS[optimizer], step, exempt=exempt)
                assert tensor.flatten().tolist() == pytest.approx(
                    [wanted] * tensor.numel(), rel=1e-9, abs=0.0
                ), (name, step)


@pytest.mark.parametrize("tables", TABLE_ALGORITHMS)
@pytest.mark.parametrize("optimizer", ALGORITHMS)
def test_every_optimizer_goes_with_every_algorithm_of_tables(optimizer: str, tables: str):
    overrides = [f"optimizer={optimizer}", f"optimizer/table_algorithm={tables}"]
    overrides += ["schedule=constant", "+schedule.tables.video.learning_rate=0.5"]
    moved = updated(*overrides, steps=(2,))
    wanted = 0.5 * unit(TABLE_ALGORITHMS[tables], 2, exempt=False)
    assert moved["video"][0][0, 0].item() == pytest.approx(wanted, rel=1e-9)
    dense = 0.01 * unit(ALGORITHMS[optimizer], 2, exempt=False)
    assert moved["backbone"][0][0, 0].item() == pytest.approx(dense, rel=1e-9)


MIXED = [
    "schedule=linear_ramp_to_cosine",
    "schedule.curve.num_ramp_steps=0",
    "schedule.curve.final_num_steps=4",
    "+schedule.towers.like={_target_: recap.schedule.Constant, learning_rate: 0.03}",
    "+schedule.towers.follow={_target_: recap.schedule.PiecewiseConstant, "
    "learning_rate_boundaries: [3], learning_rate_values: [0.0, 0.05]}",
    "+schedule.tables.video={_target_: recap.schedule.LinearRampToConstant, learning_rate: 0.08, "
    "num_ramp_steps: 4}",
]


@pytest.mark.parametrize("tables", ["none", "adagrad"])
def test_kinds_of_curves_mix_freely(tables: str):
    overrides = [*MIXED, f"optimizer/table_algorithm={tables}", "optimizer=sgd"]
    made = parts()
    optimizer = configured(*overrides)(
        towers=made["towers"], backbone=made["backbone"]["backbone"], tables=made["tables"]
    )
    rates = {step: set_learning_rates(optimizer, step) for step in (0, 2, 3, 4)}
    assert [rates[step]["backbone"] for step in rates][::3] == [0.01, 0.0]
    assert rates[2]["backbone"] == pytest.approx(0.005)
    assert rates[2]["reply"] == pytest.approx(0.01)  # its own peak of 0.02, half way down
    assert [rates[step]["like"] for step in rates] == [0.03] * 4
    assert [rates[step]["follow"] for step in rates] == [0.0, 0.0, 0.05, 0.05]
    assert [rates[step]["video"] for step in rates] == pytest.approx([0.0, 0.04, 0.06, 0.08])
    moved = updated(*overrides, steps=(0,))
    still = {name for name, own in moved.items() if not any(t.any() for t in own)}
    assert still == {"follow", "video"}


TABLE_CURVES = {
    "constant": ("learning_rate=0.5", 0.5),
    "linear_ramp": ("learning_rate=0.5", 0.25),  # the tiny experiment's ramp is of 4 steps
    "linear_ramp_to_cosine": ("learning_rate=0.5", 0.25),
    "piecewise_constant": ("learning_rate_values=[0.5,0.6,0.7]", 0.5),
}


@pytest.mark.parametrize("schedule", TABLE_CURVES)
def test_a_table_has_numbers_of_its_own_in_a_curve_of_any_kind(schedule: str):
    own, rate = TABLE_CURVES[schedule]
    made = parts()
    optimizer = configured(f"schedule={schedule}", f"+schedule.tables.video.{own}")(
        towers=made["towers"], backbone=made["backbone"]["backbone"], tables=made["tables"]
    )
    rates = set_learning_rates(optimizer, 2)
    assert rates["video"] == pytest.approx(rate)
    assert rates["backbone"] != rates["video"]


ALL = {"like", "follow", "reply", "backbone", "video"}
DENSE = ALL - {"video"}
RATES = "optimizer.multi_task_learning_rates"
# choices, a field, the groups whose weights it changes
FIELDS: list[tuple[list[str], str, set[str]]] = [
    (["optimizer=adam"], "optimizer.adam.beta_1=0.5", ALL),
    (["optimizer=adam"], "optimizer.adam.beta_2=0.9", ALL),
    (["optimizer=adam"], "optimizer.adam.epsilon=0.1", ALL),
    (["optimizer=adamw"], "optimizer.algorithm.betas=[0.5,0.999]", ALL),
    (["optimizer=adamw"], "optimizer.algorithm.betas=[0.9,0.9]", ALL),
    (["optimizer=adamw"], "optimizer.algorithm.eps=0.1", ALL),
    (["optimizer=adamw"], "optimizer.algorithm.weight_decay=0.5", DENSE),
    (["optimizer=sgd"], "optimizer.algorithm.momentum=0.5", ALL),
    (["optimizer=sgd"], "optimizer.algorithm.nesterov=true", ALL),
    (["optimizer=sgd"], "optimizer.algorithm.weight_decay=0.5", DENSE),
    (["optimizer=adagrad"], "optimizer.algorithm.initial_accumulator_value=2.0", ALL),
    (["optimizer=adagrad"], "optimizer.algorithm.eps=0.1", ALL),
    (["optimizer=adagrad"], "optimizer.algorithm.weight_decay=0.5", DENSE),
    ([], "+optimizer.table_settings.eps=0.1", {"video"}),
    ([], "+optimizer.table_settings.weight_decay=0.1", {"video"}),
    (["optimizer=sgd"], "+optimizer.table_settings.momentum=0.1", {"video"}),
    ([], "optimizer/table_algorithm=sgd", {"video"}),
    *(
        (["optimizer/table_algorithm=adagrad"], f"optimizer.table_algorithm.{field}", {"video"})
        for field in ("initial_accumulator_value=2.0", "eps=0.1", "weight_decay=0.5")
    ),
    *(
        (["optimizer/table_algorithm=adam"], f"optimizer.table_algorithm.{field}", {"video"})
        for field in ("betas=[0.5,0.999]", "betas=[0.9,0.9]", "eps=0.1", "weight_decay=0.5")
    ),
    *(
        (["optimizer/table_algorithm=sgd"], f"optimizer.table_algorithm.{field}", {"video"})
        for field in ("momentum=0.9", "weight_decay=0.5")
    ),
    (
        ["optimizer/table_algorithm=sgd", "optimizer.table_algorithm.momentum=0.9"],
        "optimizer.table_algorithm.nesterov=true",
        {"video"},
    ),
    ([], f"{RATES}.backbone_learning_rate.learning_rate=0.5", {"backbone", "video"}),
    ([VIDEO], f"{RATES}.backbone_learning_rate.learning_rate=0.5", {"backbone"}),
    ([], f"{RATES}.tower_learning_rates.like.learning_rate=0.5", {"like"}),
    ([], f"+{RATES}.table_learning_rates.video=0.5", {"video"}),
    ([VIDEO], "schedule.tables.video=0.5", {"video"}),
    (["schedule=single_task"], "optimizer.single_task_learning_rate.learning_rate=0.5", ALL),
    ([], "schedule.curve.learning_rate=0.5", {"like", "follow", "backbone", "video"}),
    ([], "schedule.towers.reply.learning_rate=0.5", {"reply"}),
    ([], "+schedule.backbone.learning_rate=0.5", {"backbone", "video"}),
]


@pytest.mark.parametrize(("choices", "field", "groups"), FIELDS)
def test_every_field_has_its_effect(choices: list[str], field: str, groups: set[str]):
    steps = (1, 2, 3)
    without, with_it = updated(*choices, steps=steps), updated(*choices, field, steps=steps)
    changed = {
        name
        for name, tensors in without.items()
        if not all(torch.equal(*pair) for pair in zip(tensors, with_it[name], strict=True))
    }
    assert changed == groups


@pytest.mark.parametrize("choice", ["adamw", "sgd", "adagrad", "adam"])
@pytest.mark.parametrize("tables", ["none", "adam"])
def test_every_choice_is_built_in_its_fused_form(tiny: Tiny, choice: str, tables: str):
    config = tiny.config(f"optimizer={choice}", f"optimizer/table_algorithm={tables}")
    groups = prepare(config).optimizer.param_groups
    assert {group["fused"] for group in groups} == {True}


def test_a_config_may_ask_for_another_form(tiny: Tiny):
    groups = prepare(
        tiny.config("optimizer=sgd", "optimizer.algorithm.fused=false")
    ).optimizer.param_groups
    assert {group["fused"] for group in groups} == {False}
    foreach = "+optimizer.algorithm.foreach=true"
    groups = prepare(tiny.config("optimizer=adagrad", foreach)).optimizer.param_groups
    assert {(group["fused"], group["foreach"]) for group in groups} == {(None, True)}


@pytest.mark.parametrize("choice", ["adamw", "sgd", "adagrad"])
@pytest.mark.parametrize("tables", ["none", "sgd"])
def test_weight_decay_without_a_gradient_moves_weights_of_layers_only(
    tiny: Tiny, choice: str, tables: str
):
    experiment = prepare(
        tiny.config(
            f"optimizer={choice}",
            "optimizer.algorithm.weight_decay=0.5",
            f"optimizer/table_algorithm={tables}",
            "+task.affine_map={_target_: recap.model.heavy_ranker.AffineMap}",
            "model.inputs.featurization.batch_norm_config.affine=true",
            "+model/inputs=[position_debias,small_embeddings]",
            "model.inputs.position_debias.feature_name=binary",
            "model.inputs.position_debias.position_feature_index=0",
            "model.inputs.small_embeddings.feature_name=binary",
            "+model.inputs.small_embeddings.tables.flag="
            "{num_embeddings: 2, embedding_dim: 2, index: 1}",
        )
    )
    ranker, optimizer = experiment.ranker, experiment.optimizer
    assert isinstance(ranker, HeavyRanker)
    nonzero = dict(ranker.named_parameters())
    for parameter in nonzero.values():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    set_learning_rates(optimizer, 4)
    optimizer.step()
    moved = {name for name, parameter in nonzero.items() if not parameter.eq(1.0).all()}
    linear = {
        f"{name}.weight" for name, layer in ranker.named_modules() if isinstance(layer, nn.Linear)
    }
    assert moved == linear
    assert {"backbone.layers.0.weight", "towers.like.layers.0.weight"} <= linear
    assert len(nonzero) > len(linear) * 2
    assert sum(isinstance(layer, nn.Embedding) for layer in ranker.modules()) == 2


def test_a_null_backbone_rate_is_refused_where_parameters_take_it(tiny: Tiny):
    key = f"{RATES}.backbone_learning_rate"
    with pytest.raises(
        ValueError, match=rf"^{key}=null: \d+ parameters, table video take it; give"
    ):
        prepare(tiny.config(f"{key}=null"))


def test_a_null_rate_of_a_tower_is_refused_and_that_of_a_table_is_the_backbones(tiny: Tiny):
    like = f"{RATES}.tower_learning_rates.like=null"
    message = r"learning_rates: no rate for task like; rates are given for follow, reply$"
    with pytest.raises(ValueError, match=message):
        prepare(tiny.config(like))
    overrides = [f"+{RATES}.table_learning_rates.video=null"]
    overrides += [f"{RATES}.backbone_learning_rate=0.25"]
    rates = set_learning_rates(prepare(tiny.config(*overrides)).optimizer, 4)
    assert (rates["backbone"], rates["video"]) == (0.25, 0.25)


def test_a_null_backbone_rate_is_right_for_a_model_of_towers_alone(tiny: Tiny):
    experiment = prepare(
        tiny.config(
            *("model/backbone=none", "model.multi_task_type=share_none"),
            *("model/featurization=log1p_abs", "~model.inputs.embeddings"),
            f"{RATES}.backbone_learning_rate=null",
        )
    )
    assert set(set_learning_rates(experiment.optimizer, 4)) == {"like", "follow", "reply"}


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        (
            f"{RATES}.backbone_learning_rate=-1",
            f"{RATES}.backbone_learning_rate=-1 must be a curve",
        ),
        (
            f"{RATES}.tower_learning_rates.like=nan",
            f"{RATES}.tower_learning_rates.like=nan: must be a finite number",
        ),
        (
            f"{RATES}.tower_learning_rates.like=fast",
            f"{RATES}.tower_learning_rates.like='fast': must be Callable[[int], float] | float",
        ),
        (
            "schedule.curve.num_ramp_steps=-3",
            "num_ramp_steps=-3 must be a finite number, 0 or more",
        ),
        ("+optimizer.table_settings.lr=1", "table_settings: lr is no setting of the algorithm"),
    ],
)
def test_a_rate_that_is_none_is_refused_by_its_key(tiny: Tiny, override: str, fault: str):
    with pytest.raises(ValueError, match=r"must be|no setting") as refused:
        prepare(tiny.config(override))
    assert fault in str(refused.value)
