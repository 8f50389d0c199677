"""Every YAML file composes, and what it names exists and takes what it is given."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from recap.binding import binding_faults
from recap.compose import CONF, compose

GROUPS = ("data", "experiment", "model", "optimizer", "schedule", "task", "tracking", "training")
PRIMARIES = sorted(path.stem for path in CONF.glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in CONF.glob("experiment/*.yaml"))
# beside it: what the choice needs to make sense
NEEDS = {
    "model/backbone=none": ["model.multi_task_type=share_none"],
    "data=kuairand": ["experiment=kuairand"],
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
    return list(binding_faults(plain, ""))


def test_every_file_is_a_primary_config_or_a_choice_that_is_tested_here():
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    assert groups == {*GROUPS, "convert"}
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
@pytest.mark.parametrize("config_name", PRIMARIES)
def test_every_primary_config_composes_with_every_experiment(config_name: str, experiment: str):
    given = ["convert.sources=x", "convert.target=y"] if config_name == "convert" else []
    assert faults(f"experiment={experiment}", *given, config_name=config_name) == []


@pytest.mark.parametrize("choice", sorted(path.stem for path in CONF.glob("convert/*.yaml")))
def test_every_conversion_composes(choice: str):
    cfg = compose(f"convert={choice}", config_name="convert")
    assert OmegaConf.missing_keys(cfg) == set()


@pytest.mark.parametrize(
    "group", ["model/backbone", "model/featurization", "optimizer", "schedule"]
)
def test_every_choice_works_with_the_other_experiment_too(group: str):
    for path in sorted(CONF.glob(f"{group}/*.yaml")):
        choice = f"{group}={path.stem}"
        assert faults("experiment=kuairand", choice, *NEEDS.get(choice, [])) == [], choice


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
