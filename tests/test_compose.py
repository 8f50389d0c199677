import functools
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from recap.compose import Refused, compose
from recap.compose.folders import run_name
from recap.compose.templates import filled
from recap.optimizer import RecapOptimizerConfig, set_learning_rates

SCHEDULES = ["constant", "linear_ramp", "linear_ramp_to_cosine", "piecewise_constant"]
TOWERS = "optimizer.multi_task_learning_rates.tower_learning_rates"


class Sections(dict[str, Any]):
    """The sections of a config by name, each as plain values once it is asked for."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg

    def __missing__(self, name: str) -> Any:
        self[name] = OmegaConf.to_container(self.cfg[name], resolve=True)
        return self[name]


@functools.cache
def composed(*overrides: str) -> Sections:
    """The config of a command line, references resolved."""
    return Sections(compose(*overrides))


def tower_rates(*overrides: str) -> dict[str, Any]:
    return composed(*overrides)["optimizer"]["multi_task_learning_rates"]["tower_learning_rates"]


def refusal(*overrides: str) -> list[str]:
    """The faults of a command line."""
    with pytest.raises(Refused) as error:
        compose(*overrides)
    return error.value.faults


# what `filled` does


def test_a_row_refers_to_its_template_for_what_it_does_not_state():
    template = {"layer_sizes": [256, 1], "dropout": None}
    assert filled({"dropout": 0.1}, template, "task.tower") == {
        "layer_sizes": "${task.tower.layer_sizes}",
        "dropout": 0.1,
    }


def test_nested_settings_are_filled_value_by_value():
    template = {"batch_norm": {"affine": False, "momentum": 0.1}}
    assert filled({"batch_norm": {"momentum": 0.2}}, template, "tower") == {
        "batch_norm": {"affine": "${tower.batch_norm.affine}", "momentum": 0.2}
    }
    assert filled({"batch_norm": None}, template, "tower") == {"batch_norm": None}


def test_own_numbers_stand_before_the_templates_and_only_where_the_template_has_them():
    curve = {"_target_": "Ramp", "learning_rate": 0.001, "num_ramp_steps": 1000}
    own = {"learning_rate": 0.0008, "final_num_steps": 9}
    assert filled(None, curve, "curve", own=own, own_path="towers.like") == {
        "_target_": "${curve._target_}",
        "learning_rate": "${towers.like.learning_rate}",
        "num_ramp_steps": "${curve.num_ramp_steps}",
    }


def test_a_row_may_state_the_target_that_its_template_leaves_to_the_signature():
    row = {"_target_": "Dense", "length": 3}
    assert filled(row, {"column": "c", "length": 2}, "dense") == {
        "_target_": "Dense",
        "column": "${dense.column}",
        "length": 3,
    }


def test_own_numbers_with_a_target_are_another_kind_and_the_whole_of_it():
    curve = {"_target_": "Ramp", "learning_rate": 0.001, "num_ramp_steps": 1000}
    own = {"_target_": "Constant", "learning_rate": 0.0008}
    assert filled(None, curve, "curve", own=own, own_path="towers.like") == {
        "_target_": "${towers.like._target_}",
        "learning_rate": "${towers.like.learning_rate}",
    }


def test_a_row_of_another_kind_is_left_as_stated():
    curve = {"_target_": "Ramp", "learning_rate": 0.001, "num_ramp_steps": 1000}
    row = {"_target_": "Constant", "learning_rate": 0.1}
    assert filled(row, curve, "curve") == row
    assert filled(0.1, curve, "curve") == 0.1


def test_filling_again_follows_a_template_that_changed():
    row = filled({"dropout": 0.1}, {"dropout": None, "batch_norm": {"momentum": 0.1}}, "tower")
    assert filled(row, {"dropout": None, "batch_norm": None, "init": "x"}, "tower") == {
        "dropout": 0.1,
        "batch_norm": "${tower.batch_norm}",
        "init": "${tower.init}",
    }


# rows of the composed config


def test_every_task_is_filled_from_the_tasks_template():
    tasks = composed("experiment=kuairand")["model"]["tasks"]
    template = composed("experiment=kuairand")["task"]
    assert tasks["like"] == {**template, "initial_rate": 0.0176}
    assert all(task.keys() == template.keys() for task in tasks.values())


def test_the_template_overridden_on_the_command_line_reaches_every_task_that_states_nothing():
    tasks = composed("task.tower.dropout=0.3", "task.tower.batch_norm=null")["model"]["tasks"]
    assert tasks["is_favorited"]["tower"]["dropout"] == 0.3
    assert tasks["is_negative_feedback_v2"]["tower"]["dropout"] == 0.1  # its own
    assert [task["tower"]["batch_norm"] for task in tasks.values()] == [None] * 10


def test_a_single_value_of_a_task_is_overridden_in_place():
    tasks = composed("model.tasks.is_replied.tower.batch_norm.momentum=0.5")["model"]["tasks"]
    assert tasks["is_replied"]["tower"]["batch_norm"]["momentum"] == 0.5
    assert tasks["is_retweeted"]["tower"]["batch_norm"]["momentum"] == 0.1


def test_a_task_added_on_the_command_line_is_filled_too():
    cfg = composed("+model.tasks.is_shared={}")
    assert cfg["model"]["tasks"]["is_shared"] == cfg["task"]
    rates = cfg["optimizer"]["multi_task_learning_rates"]["tower_learning_rates"]
    assert rates["is_shared"] == cfg["schedule"]["curve"]


def test_a_task_taken_out_takes_its_rate_with_it():
    cfg = composed("~model.tasks.is_replied", "~schedule.towers.is_replied")
    rates = cfg["optimizer"]["multi_task_learning_rates"]["tower_learning_rates"]
    assert set(rates) == set(cfg["model"]["tasks"])
    assert "is_replied" not in rates


def test_a_rate_that_is_stated_stays_without_its_task():
    assert tower_rates("+" + TOWERS + ".is_sharred=0.1")["is_sharred"] == 0.1  # check refuses it


def test_every_partition_is_filled_from_the_training_data_but_for_its_files_and_rates():
    cfg = composed()
    partition = cfg["validation_data"]["is_replied"]
    inputs = "data/local_prod/validation/*.parquet"
    evaluation_tasks = ["is_replied"]
    assert partition == {
        **cfg["train_data"],
        "inputs": inputs,
        "evaluation_tasks": evaluation_tasks,
        "tasks": partition["tasks"],
    }


def test_a_partition_without_files_does_not_take_the_training_files():
    partition = composed("+validation_data.late={}")["validation_data"]["late"]
    assert partition["inputs"] is None
    assert partition["global_batch_size"] == 128


def test_files_are_mixed_by_sixteen_in_local_prod_and_all_of_them_elsewhere():
    assert composed("experiment=local_prod")["train_data"]["file_batch_size"] == 16
    assert composed("experiment=kuairand")["train_data"]["file_batch_size"] is None


def test_what_names_a_partitions_files_is_its_own():
    by_date = "{data_root: /x, end_date: 2023-01-31, days: 7}"
    by_hour = "{data_root: 's3://b/x', end_datetime: 2023-01-31 05:00, hours: 2}"
    cfg = composed(
        "train_data.inputs=null",
        f"train_data.explicit_date_inputs={by_date}",
        "train_data.num_files_to_keep=3",
        f"validation_data.train.explicit_datetime_inputs={by_hour}",
        "validation_data.train.num_files_to_keep=1",
    )
    expected = {"data_root": "/x", "end_date": "2023-01-31", "days": 7}
    assert cfg["train_data"]["explicit_date_inputs"] == expected
    own = cfg["validation_data"]["train"]
    assert own["explicit_datetime_inputs"]["end_datetime"] == "2023-01-31 05:00"
    assert own["num_files_to_keep"] == 1
    other = cfg["validation_data"]["validation"]
    for key in ("explicit_date_inputs", "explicit_datetime_inputs", "num_files_to_keep"):
        assert other[key] is None


def test_a_partition_may_refer_to_the_training_files():
    partition = "validation_data.train.inputs=${train_data.inputs}"
    cfg = composed(partition)
    assert cfg["validation_data"]["train"]["inputs"] == cfg["train_data"]["inputs"]


def test_a_value_of_one_partition_is_overridden_without_touching_the_others():
    key = "preprocess.truncate_and_slice.continuous_feature_truncation"
    cfg = composed(f"validation_data.is_replied.{key}=5")
    sections = {"train_data": cfg["train_data"], **cfg["validation_data"]}
    cut = {
        name: section["preprocess"]["truncate_and_slice"]["continuous_feature_truncation"]
        for name, section in sections.items()
    }
    assert cut.pop("is_replied") == 5
    assert set(cut.values()) == {2117}


def test_chosen_steps_run_after_the_datas_own_in_the_order_in_which_they_are_named():
    for given in (["downcast"], ["extract_features", "downcast"], ["downcast", "extract_features"]):
        cfg = composed(f"preprocess=[{','.join(given)}]")
        assert list(cfg["train_data"]["preprocess"]) == ["truncate_and_slice", *given]
    assert list(composed("preprocess=downcast")["train_data"]["preprocess"])[-1] == "downcast"


def test_a_preprocessing_step_taken_out_of_the_training_data_is_out_everywhere():
    cfg = composed("~train_data.preprocess.truncate_and_slice")
    assert [p["preprocess"] for p in cfg["validation_data"].values()] == [{}] * 12


# learning rates


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("experiment", ["local_prod", "kuairand"])
def test_a_schedule_gives_every_tower_and_the_backbone_a_curve_of_its_kind(
    experiment: str, schedule: str
):
    cfg = composed(f"experiment={experiment}", f"schedule={schedule}")
    kind = cfg["schedule"]["curve"]["_target_"]
    rates = cfg["optimizer"]["multi_task_learning_rates"]
    assert list(rates["tower_learning_rates"]) == list(cfg["model"]["tasks"])
    curves = [rates["backbone_learning_rate"], *rates["tower_learning_rates"].values()]
    assert [curve["_target_"] for curve in curves] == [kind] * len(curves)
    assert cfg["optimizer"]["single_task_learning_rate"] is None


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {"learning_rate": 0.0008}),
        ("linear_ramp", {"learning_rate": 0.0008, "num_ramp_steps": 5000}),
        (
            "linear_ramp_to_cosine",
            {
                "learning_rate": 0.0008,
                "num_ramp_steps": 5000,
                "final_learning_rate": 0.0,
                "final_num_steps": 100000,
            },
        ),
    ],
)
def test_an_experiments_own_numbers_win_over_the_curves(schedule: str, expected: dict):
    rates = tower_rates("experiment=local_prod", f"schedule={schedule}")
    curve = composed("experiment=local_prod", f"schedule={schedule}")["schedule"]["curve"]
    assert rates["is_favorited"] == {"_target_": curve["_target_"], **expected}


@pytest.mark.parametrize(
    ("schedule", "number", "value"),
    [
        ("constant", "learning_rate", 0.003),
        ("linear_ramp", "num_ramp_steps", 7),
        ("linear_ramp_to_cosine", "final_learning_rate", 0.0002),
        ("piecewise_constant", "learning_rate_values", [0.3, 0.2, 0.1]),
    ],
)
def test_own_numbers_given_on_the_command_line_win_too(schedule: str, number: str, value: Any):
    rates = tower_rates(
        "experiment=kuairand", f"schedule={schedule}", f"+schedule.towers.like.{number}={value}"
    )
    assert rates["like"][number] == value
    assert rates["click"][number] != value


def test_the_curve_overridden_reaches_every_tower_without_numbers_of_its_own():
    rates = tower_rates("experiment=kuairand", "schedule.curve.learning_rate=0.02")
    assert {rate["learning_rate"] for rate in rates.values()} == {0.02}


def test_a_number_of_the_curve_that_every_row_states_itself_is_refused():
    with pytest.raises(Refused, match=r"schedule\.curve\.learning_rate: no rate takes it, every"):
        tower_rates("experiment=local_prod", "schedule.curve.learning_rate=0.02")


def test_a_single_rate_is_overridden_in_place():
    rates = tower_rates(f"{TOWERS}.is_favorited.learning_rate=4e-4")
    assert rates["is_favorited"]["learning_rate"] == 0.0004
    assert rates["is_favorited"]["num_ramp_steps"] == 5000
    assert rates["is_retweeted"]["learning_rate"] == 0.0001


def test_a_bare_number_is_a_rate():
    assert tower_rates(f"{TOWERS}.is_favorited=4e-4")["is_favorited"] == 0.0004


@pytest.mark.parametrize("experiment", ["local_prod", "kuairand"])
def test_a_bare_number_in_the_schedule_is_a_constant_rate(experiment: str):
    task = {"local_prod": "is_replied", "kuairand": "like"}[experiment]
    rates = composed(
        f"experiment={experiment}",
        "schedule.backbone=0.1",
        f"++schedule.towers.{task}=0.2",
        "+schedule.tables.tab=1e-4",
    )["optimizer"]["multi_task_learning_rates"]
    assert rates["backbone_learning_rate"] == 0.1
    assert rates["tower_learning_rates"].pop(task) == 0.2
    assert rates["table_learning_rates"] == {"tab": 0.0001}
    assert all("_target_" in rate for rate in rates["tower_learning_rates"].values())


def test_a_bare_number_of_an_experiment_gives_way_to_numbers_of_a_curve(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/bare.yaml").write_text(
        "# @package _global_\nmodel: {tasks: {like: {}}}\nschedule: {towers: {like: 0.2}}\n"
    )
    search = (f"hydra.searchpath=[file://{tmp_path}]", "experiment=bare")
    assert tower_rates(*search)["like"] == 0.2
    curve = composed(*search)["schedule"]["curve"]
    rates = tower_rates(*search, "schedule.towers.like={learning_rate: 0.3}")
    assert rates["like"] == {**curve, "learning_rate": 0.3}


@pytest.mark.parametrize("key", ["backbone", "towers", "tables", "single_task"])
def test_what_is_null_in_a_schedule_is_as_if_not_stated(key: str):
    choice = ("experiment=kuairand", "schedule=linear_ramp")
    assert composed(*choice, f"schedule.{key}=null")["optimizer"] == composed(*choice)["optimizer"]


def test_a_schedule_of_the_users_own_states_its_curve_alone(tmp_path: Path):
    (tmp_path / "schedule").mkdir()
    (tmp_path / "schedule/decay.yaml").write_text(
        "curve: {_target_: mine.Decay, start: 0.1, half_life_steps: 50}\n"
    )
    search = (f"hydra.searchpath=[file://{tmp_path}]", "experiment=kuairand", "schedule=decay")
    rates = tower_rates(*search, "+schedule.towers.like.half_life_steps=9")
    assert rates["like"] == {"_target_": "mine.Decay", "start": 0.1, "half_life_steps": 9}
    assert rates["click"]["half_life_steps"] == 50


def test_kinds_of_curves_mix():
    other = "{_target_: recap.schedule.Constant, learning_rate: 0.5}"
    rates = tower_rates(f"+{TOWERS}.is_favorited={other}")
    assert rates["is_favorited"] == {"_target_": "recap.schedule.Constant", "learning_rate": 0.5}
    assert rates["is_replied"]["_target_"] == "recap.schedule.LinearRampToConstant"


def test_a_task_states_another_kind_of_curve_in_the_schedule():
    other = "{_target_: recap.schedule.Constant, learning_rate: 0.5}"
    rates = tower_rates("experiment=kuairand", f"+schedule.towers.like={other}")
    assert rates["like"] == {"_target_": "recap.schedule.Constant", "learning_rate": 0.5}
    assert rates["click"]["_target_"] == "recap.schedule.LinearRampToCosine"


def test_an_embedding_table_that_the_schedule_names_has_a_rate_of_its_own():
    cfg = composed("experiment=kuairand", "+schedule.tables.tab.learning_rate=0.005")
    rates = cfg["optimizer"]["multi_task_learning_rates"]["table_learning_rates"]
    assert rates == {"tab": {**cfg["schedule"]["curve"], "learning_rate": 0.005}}


@pytest.mark.parametrize("experiment", ["local_prod", "kuairand"])
def test_single_task_fills_one_rate_for_all(experiment: str):
    optimizer = composed(f"experiment={experiment}", "schedule=single_task")["optimizer"]
    curve = composed(f"experiment={experiment}", "schedule=single_task")["schedule"]["curve"]
    assert optimizer["single_task_learning_rate"] == curve
    assert optimizer["multi_task_learning_rates"] is None


def test_any_schedule_becomes_one_rate_for_all_and_back():
    optimizer = composed("schedule=constant", "schedule.single_task=true")["optimizer"]
    assert optimizer["single_task_learning_rate"]["_target_"] == "recap.schedule.Constant"
    assert optimizer["multi_task_learning_rates"] is None
    optimizer = composed("schedule=single_task", "schedule.single_task=false")["optimizer"]
    assert optimizer["single_task_learning_rate"] is None
    assert len(optimizer["multi_task_learning_rates"]["tower_learning_rates"]) == 10


def test_one_rate_for_all_stated_in_place_replaces_the_schedule():
    optimizer = composed("optimizer.single_task_learning_rate=0.01")["optimizer"]
    assert optimizer["single_task_learning_rate"] == 0.01
    assert optimizer["multi_task_learning_rates"] is None


def test_both_ways_of_giving_rates_reach_the_optimizer_which_refuses_them():
    cfg = compose("optimizer.single_task_learning_rate=0.01", f"{TOWERS}.is_replied=0.1")
    with pytest.raises(Exception, match="exactly one of multi_task_learning_rates and single"):
        hydra.utils.instantiate(cfg.optimizer)


@pytest.mark.parametrize("schedule", [*SCHEDULES, "single_task"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "adagrad"])
def test_every_optimizer_steps_with_every_schedule(optimizer: str, schedule: str):
    cfg = compose("experiment=kuairand", f"optimizer={optimizer}", f"schedule={schedule}")
    backbone = nn.Linear(3, 2)
    towers = {str(task): nn.Linear(2, 1) for task in cfg.model.tasks}
    config = hydra.utils.instantiate(cfg.optimizer, _convert_="object")
    assert isinstance(config, RecapOptimizerConfig)
    stepping = config(
        towers={task: dict(tower.named_parameters()) for task, tower in towers.items()},
        backbone=dict(backbone.named_parameters()),
    )
    before = backbone.weight.clone()
    rates = set_learning_rates(stepping, 1)
    shared = backbone(torch.ones(1, 3))
    torch.cat([tower(shared) for tower in towers.values()]).sum().backward()
    stepping.step()
    assert set(rates) == {"backbone", *towers}
    assert min(rates.values()) > 0
    assert not torch.equal(backbone.weight, before)


# experiments and choices


@pytest.mark.parametrize("backbone", ["mask_net", "none"])
def test_an_experiments_numbers_for_another_choice_are_set_aside(backbone: str):
    stated = composed("experiment=kuairand")["model"]["backbone"]
    assert stated["layer_sizes"] != composed("model/backbone=mlp")["model"]["backbone"]
    chosen = composed("experiment=kuairand", f"model/backbone={backbone}")["model"]["backbone"]
    assert chosen == composed(f"model/backbone={backbone}")["model"]["backbone"]


def test_what_an_experiment_states_for_the_choice_that_it_makes_is_never_set_aside(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/wrong.yaml").write_text(
        """
        # @package _global_
        defaults: [kuairand]
        model:
          backbone: {mask_blocks: []}  # of mask_net; kuairand's backbone is an mlp
        """.replace("\n        ", "\n").lstrip()
    )
    own = (f"hydra.searchpath=[file://{tmp_path}]", "experiment=wrong")
    assert composed(*own)["model"]["backbone"]["mask_blocks"] == []  # and refused as no key of MLP
    assert "mask_blocks" not in composed(*own, "model/backbone=dcn")["model"]["backbone"]


def test_an_experiment_may_state_an_optimizer_that_has_no_file(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/rotated.yaml").write_text(
        """
        # @package _global_
        defaults: [override /optimizer: sgd]
        optimizer:
          algorithm: {_target_: torch.optim.RAdam, betas: [0.8, 0.9]}
        """.replace("\n        ", "\n").lstrip()
    )
    optimizer = composed(f"hydra.searchpath=[file://{tmp_path}]", "experiment=rotated")["optimizer"]
    assert optimizer["algorithm"]["_target_"] == "torch.optim.RAdam"
    assert optimizer["algorithm"]["betas"] == [0.8, 0.9]


def test_a_choice_in_a_folder_of_the_users_own(tmp_path: Path):
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer/radam.yaml").write_text(
        "_target_: recap.optimizer.RecapOptimizerConfig\n"
        "multi_task_learning_rates: null\n"
        "single_task_learning_rate: null\n"
        "algorithm: {_target_: torch.optim.RAdam, _partial_: true}\n"
    )
    search = f"hydra.searchpath=[file://{tmp_path}]"
    optimizer = composed(search, "optimizer=radam", "experiment=kuairand")["optimizer"]
    assert optimizer["algorithm"] == {"_target_": "torch.optim.RAdam", "_partial_": True}
    assert "adam" not in optimizer


# the model group


def test_a_ranker_without_backbone():
    model = composed("model/backbone=none", "model.multi_task_type=share_none")["model"]
    assert model["backbone"] is None
    assert model["multi_task_type"] == "share_none"


def test_a_choice_of_tower_is_the_template_of_every_task():
    cfg = composed("model/tower=mlp", "model/featurization=log1p_abs")
    assert cfg["model"]["inputs"]["featurization"]["_target_"].endswith(".Log1pAbs")
    assert cfg["model"]["tasks"]["is_replied"]["tower"] == cfg["task"]["tower"]


# refusals


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("training.sede=3", "training.sede: there is no such key; close: training.seed"),
        ("optimzer=adam", "optimzer: there is no such key; close: optimizer"),
        ("experiments=local_prod", "experiments: there is no such key; close: experiment"),
        ("modle/backbone=mlp", "modle/backbone: there is no such group; close: model/backbone"),
        ("optimizer=adm", "optimizer=adm: there is no such choice; close: adam"),
        ("model/backbone=masknet", "model/backbone=masknet: there is no such choice; close: mask_"),
        (
            "optimizer=null",
            "optimizer=null: a group takes one of its choices; there is adagrad, adam, adamw, sgd",
        ),
        ("experiment=local_prd", "experiment=local_prd: there is no such choice; close: local_"),
        (
            f"{TOWERS}.is_favorite.learning_rate=4e-4",
            f"{TOWERS}.is_favorite: there is no such key; close: {TOWERS}.is_favorited",
        ),
        ("learning_rate=3", "learning_rate: there is no such key; close: schedule.curve.learning_"),
        (
            "~training.sed",
            "~training.sed: there is nothing of this name to take out; close: training.seed",
        ),
        ("+trainng.seed=3", "trainng: nothing reads this section; close: training"),
        (
            "+schedule.tower.is_replied.learning_rate=1",
            "schedule.tower: nothing reads this key; close: towers",
        ),
        (
            "schedule.curve=0.01",
            "schedule.curve=0.01: must be a mapping, {_target_: …}; for the same rate at every "
            "step schedule=constant schedule.curve.learning_rate=…",
        ),
        ("schedule.towers=3", "schedule.towers=3: must be a mapping, task → numbers of its curve"),
        ("schedule.single_task=3", "schedule.single_task=3: must be true or false"),
        ("~optimizer", "optimizer: this section is missing"),
        (
            "model/inputs=[position_debias,small_embedings]",
            "model/inputs=small_embedings: there is no such choice; close: small_embeddings",
        ),
        ("preprocess=downcasts", "preprocess=downcasts: there is no such choice; close: downcast"),
        (
            "~validation_data.train.preprocess.truncate_and_slice",
            "its template brings this value back; write validation_data.train.preprocess.",
        ),
        (
            "validation_data={}",
            "validation_data={} takes nothing out; write ~validation_data.<entry> for each entry",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_is_near(override: str, fault: str):
    [only] = refusal(override)
    assert fault in only


def test_a_section_that_the_experiment_fills_is_not_taken_out():
    [only] = refusal("experiment=kuairand", "~optimizer")
    assert only == "~optimizer: the experiment states values of it; choose with optimizer=…"


def test_all_misspelt_overrides_are_refused_in_one_message():
    faults = refusal("training.sede=3", "optimizer=adm", "model.taskss=3", "+trainng.seed=3")
    assert [fault.split(": ", 1)[0] for fault in faults] == [
        "optimizer=adm",
        "training.sede",
        "model.taskss",
        "trainng",
    ]


def test_a_value_shared_by_reference_is_a_section_of_the_users_own():
    cfg = composed("+peak=0.25", "schedule.curve.learning_rate=${peak}", "experiment=kuairand")
    assert cfg["schedule"]["curve"]["learning_rate"] == 0.25


# the run's folder


def test_a_run_is_named_after_the_overrides_that_make_it_what_it_is():
    overrides = ["optimizer=sgd", "experiment=kuairand", "training.num_train_steps=7", "+a.b=2"]
    assert run_name(overrides) == "a.b=2,optimizer=sgd"
    assert run_name(["experiment=kuairand", "tracking=none"]) == "default"
    folder = composed("experiment=kuairand", "optimizer=sgd")["training"]["save_dir"]
    assert folder == "runs/kuairand/optimizer=sgd"


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        (["train_data.inputs=x/a_b"], ["train_data.inputs=x/a/b"], "train_data.inputs=x_a_b-"),
        (["a=[1,2]"], ["a={1,2}"], "a=_1,2_-"),
        (["a=1", "a=2"], ["a=2", "a=1"], "a="),
        (["a=ä"], ["a=ü"], "a=_-"),
        ([f"seed_{n}={n}" for n in range(30)], [f"seed_{n}={n}" for n in range(31)], "seed_0=0,"),
    ],
)
def test_other_overrides_have_another_name(one: list[str], other: list[str], shown: str):
    names = {run_name(one), run_name(other)}
    assert len(names) == 2
    assert all(name.startswith(shown) and len(name) < 110 for name in names)


def test_what_a_sweep_goes_over_is_always_in_the_name():
    steps, tracking = "training.num_train_steps=2", "tracking=none"
    assert run_name([steps, tracking]) == "default"
    assert run_name([steps, tracking], swept=[steps]) == "training.num_train_steps=2"
