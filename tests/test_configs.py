"""Every YAML file composes, and what it names exists and takes what it is given."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from recap.compose import CONF, Refused, compose
from recap.compose.binding import binding_faults, completed
from recap.experiment import prepare
from recap.joining import own_number_faults

GROUPS = ("data", "experiment", "model", "optimizer", "preprocess")
GROUPS += ("schedule", "task", "tracking", "training")
PRIMARIES = sorted(path.stem for path in CONF.glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in CONF.glob("experiment/*.yaml"))
# beside it: what the choice needs to make sense
NEEDS = {
    "model/backbone=none": ["model.multi_task_type=share_none"],
    "data=kuairand": ["experiment=kuairand"],
    "preprocess=rectify_labels": [
        f"train_data.preprocess.rectify_labels.{event}_timestamp_field={event}"
        for event in ("served", "impressed")
    ],
    "model/inputs=position_debias": ["model.inputs.position_debias.position_feature_index=51"],
}


def choices() -> list[str]:
    """Each choice of each group of the training command, as an override."""
    files = [path.relative_to(CONF).with_suffix("") for path in sorted(CONF.rglob("*.yaml"))]
    # rglob does not follow the link to the experiments
    files += [Path("experiment") / name for name in EXPERIMENTS]
    of_train = [path for path in dict.fromkeys(files) if path.parts[0] in GROUPS]
    return [f"{path.parent.as_posix()}={path.name}" for path in of_train]


def faults(*overrides: str, config_name: str = "train") -> list[str]:
    """What keeps the composed nodes from being instantiated."""
    plain = OmegaConf.to_container(compose(*overrides, config_name=config_name), resolve=True)
    return list(binding_faults(completed(plain), ""))


def test_every_file_is_a_primary_config_or_a_choice_that_is_tested_here():
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    # hydra: launchers and sweepers, whose tests are those of launching, sweep and search
    assert groups == {*GROUPS, "convert", "hydra"}
    assert {"train", "synthetic", "convert"} <= set(PRIMARIES)
    assert {"local_prod", "kuairand"} <= set(EXPERIMENTS)
    assert len(choices()) >= 20


def test_experiments_are_the_files_of_the_folder_experiments():
    beside = CONF.parent / "experiments"
    assert sorted(path.stem for path in beside.glob("*.yaml")) == EXPERIMENTS


@pytest.mark.parametrize("choice", choices())
def test_every_choice_composes_and_its_targets_import_and_bind(choice: str):
    assert faults(choice, *NEEDS.get(choice, [])) == []


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("config_name", [name for name in PRIMARIES if name != "evaluate"])
def test_every_primary_config_composes_with_every_experiment(config_name: str, experiment: str):
    given = ["convert.sources=x", "convert.target=y"] if config_name == "convert" else []
    assert faults(f"experiment={experiment}", *given, config_name=config_name) == []


@pytest.mark.parametrize("choice", sorted(path.stem for path in CONF.glob("convert/*.yaml")))
def test_every_conversion_composes(choice: str):
    missing = OmegaConf.missing_keys(compose(f"convert={choice}", config_name="convert"))
    paths = {f"convert.{key}" for key in ("sources", "inputs", "seg_dense_schema", "target")}
    assert missing <= paths
    assert (
        faults(f"convert={choice}", *(f"{key}=x" for key in missing), config_name="convert") == []
    )


@pytest.mark.parametrize(
    "group",
    [
        "model/backbone",
        "model/featurization",
        "model/inputs",
        "preprocess",
        "optimizer",
        "optimizer/table_algorithm",
        "schedule",
    ],
)
def test_every_choice_works_with_the_other_experiment_too(group: str):
    for path in sorted(CONF.glob(f"{group}/*.yaml")):
        choice = f"{group}={path.stem}"
        assert faults("experiment=kuairand", choice, *NEEDS.get(choice, [])) == [], choice


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("~model.tasks", "model.tasks=null: must be a mapping, task → what differs from the"),
        ("~model.inputs", "model.inputs=null: must be a mapping, input → {_target_: …}"),
        ("model.tasks.like=3", "model.tasks.like=3: must be a mapping {tower: …, pos_weight: …"),
        ("model.inputs.embeddings=3", "model.inputs.embeddings=3: must be a mapping"),
        ("validation_data=null", "validation_data=null: must be a mapping, partition → {inputs"),
        ("validation_data.valid=3", "validation_data.valid=3: must be a mapping, {_target_: …}"),
        ("train_data=null", "train_data=null: must be a mapping, {_target_: …}"),
        ("~optimizer._target_", "optimizer._target_: missing; it names what is made of these"),
        ("optimizer.multi_task_learning_rates=3", "optimizer.multi_task_learning_rates=3: must"),
        (
            "optimizer.multi_task_learning_rates.tower_learning_rates=3",
            "optimizer.multi_task_learning_rates.tower_learning_rates=3: must be",
        ),
        (
            "+schedule.towers.like.peak=3",
            "schedule.towers.like.peak: no curve has such a number; there is ",
        ),
    ],
)
def test_what_is_no_mapping_where_one_must_stand_is_refused(
    tmp_path: Path, override: str, fault: str
):
    save_dir = f"training.save_dir={tmp_path}"
    with pytest.raises(Refused) as error:
        prepare(compose("experiment=kuairand", f"data_root={tmp_path}", save_dir, override))
    assert [line for line in error.value.faults if line.startswith(fault)]


def test_an_own_number_may_be_any_field_of_the_schedules_curve_or_a_bare_rate():
    schedule = {
        "curve": {"_target_": "mine.Decay", "half_life_steps": 5},
        "backbone": 0.1,
        "towers": {"like": {"half_life_steps": 3, "half_life": 3}, "click": 0.1},
        "tables": {"tab": 1e-4},
    }
    assert list(own_number_faults(schedule, ("like", "click"))) == [
        "schedule.towers.like.half_life: no curve has such a number; close: half_life_steps"
    ]


def test_no_task_stands_in_a_schedule_an_optimizer_or_a_model():
    tasks = {
        str(task)
        for experiment in EXPERIMENTS
        for task in compose(f"experiment={experiment}").model.tasks
    }
    assert {"is_favorited", "click"} <= tasks
    for group in ("schedule", "optimizer", "model", "task", "training"):
        for path in CONF.glob(f"{group}/**/*.yaml"):
            assert not tasks & words(yaml.safe_load(path.read_text())), path


def words(node: object) -> set[str]:
    """All keys and strings of a YAML document."""
    if isinstance(node, dict):
        return set(map(str, node)).union(*(words(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(words(item) for item in node))
    return {node} if isinstance(node, str) else set()


def test_steps_are_added_in_the_order_in_which_they_are_named():
    cfg = compose(
        "experiment=local_prod",
        "preprocess=[rectify_labels,downcast]",
        "+train_data.preprocess.downcast.features.binary=bool",
    )
    for section in (cfg.train_data, cfg.validation_data.train):
        assert list(section.preprocess) == ["truncate_and_slice", "rectify_labels", "downcast"]
        assert section.preprocess.downcast.features == {"binary": "bool"}
