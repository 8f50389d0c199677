"""The commands as a user types them, each in a process and a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from recap.compose import AS_RUN, CONF, Composer

ROOT = Path(__file__).resolve().parents[1]


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_composed_config_is_printed_with_everything_filled_in(tmp_path: Path):
    done = command(
        *("recap.train", "--cfg", "job", "--resolve"),
        *("experiment=kuairand", "optimizer=sgd", "schedule=constant"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    cfg = yaml.safe_load(done.stdout)
    assert {"training", "model", "train_data", "validation_data", "optimizer"} <= set(cfg)
    rates = cfg["optimizer"]["multi_task_learning_rates"]["tower_learning_rates"]
    assert list(rates) == list(cfg["model"]["tasks"])
    assert rates["like"]["_target_"] == "recap.schedule.Constant"
    assert "${" not in done.stdout
    assert list(tmp_path.iterdir()) == []  # to look is not to run


@pytest.mark.parametrize(
    "swept",
    [
        ["training.num_train_steps=2", "training.num_train_steps=4"],
        ["experiment=kuairand", "experiment=local_prod"],
        ["tracking=mlflow", "tracking=none"],
        ["data_root=x/a_b", "data_root=x/a/b"],
    ],
)
def test_the_jobs_of_a_sweep_have_a_folder_each(swept: list[str]):
    key = swept[0].split("=")[0]
    values = ",".join(job.removeprefix(f"{key}=") for job in swept)
    loader = Composer(create_config_search_path(str(CONF)))
    overrides = ["hydra.mode=MULTIRUN", f"{key}={values}"]  # as -m gives them
    master = loader.load_configuration("train", overrides, RunMode.MULTIRUN)
    folders = [loader.load_sweep_config(master, [job]).training.save_dir for job in swept]
    assert len(set(folders)) == 2
    assert {Path(folder).parent for folder in folders} == {Path(master.hydra.sweep.dir)}
    assert all(Path(folder).name.startswith(f"{key}=") for folder in folders)
    assert f"sweep-{key}=" in master.hydra.sweep.dir


def test_the_config_that_hydra_took_a_runs_mode_from_is_that_of_the_run():
    overrides = ["experiment=kuairand", "optimizer=sgd", "hydra.job.chdir=false"]

    def of_the_mode(loader: Composer) -> DictConfig:
        mode = RunMode.MULTIRUN  # Hydra does not know it yet
        return loader.load_configuration("train", overrides, mode, validate_sweep_overrides=False)

    loader = Composer(create_config_search_path(str(CONF)))
    first, as_run = of_the_mode(loader), [*overrides, AS_RUN]
    assert loader.load_configuration("train", as_run, RunMode.RUN) is first
    again = loader.load_configuration("train", as_run, RunMode.RUN)
    assert again is not first
    assert OmegaConf.to_yaml(again) == OmegaConf.to_yaml(first)
    of_the_mode(loader)
    other = loader.load_configuration("train", [*overrides, "training.seed=3", AS_RUN], RunMode.RUN)
    assert other.training.seed == 3


def test_a_list_of_values_without_a_sweep_is_refused(tmp_path: Path):
    done = command("recap.train", "training.seed=1,2", cwd=tmp_path)
    assert done.returncode == 1
    assert "add --multirun to your command line" in done.stderr


def test_all_that_is_misspelt_is_refused_without_a_trace(tmp_path: Path):
    done = command("recap.train", "training.sede=3", "optimizer=adm", cwd=tmp_path)
    assert done.returncode == 1
    assert "training.sede: there is no such key; close: training.seed" in done.stderr
    assert "optimizer=adm: there is no such choice; close: adam" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_says_how_a_run_is_evaluated(tmp_path: Path):
    done = command("recap.evaluate", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Evaluates the checkpoints of a run")
    assert done.stdout.count("  python -m recap.evaluate run=") == 2


@pytest.mark.parametrize(
    ("module", "says", "examples"),
    [
        ("recap.train", "Trains the ranker that an experiment describes", 2),
        ("recap.data.synthetic", "Writes a data set of the experiment's schema", 2),
        ("recap.data.convert", "Turns tables of CSV or Parquet files, or TFRecords", 3),
        ("recap.data.statistics", "Counts every dense column of train_data", 2),
    ],
)
def test_help_says_what_the_command_does_its_groups_and_gives_examples(
    module: str, says: str, examples: int, tmp_path: Path
):
    done = command(module, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(says)
    assert done.stdout.count(f"  python -m {module} ") == examples
    assert "optimizer: adagrad, adam, adamw, sgd\n" in done.stdout
    assert "experiment: kuairand, local_prod" in done.stdout
