"""What launchers may be told, where, and the batch script that comes of it; nothing is queued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra._internal.utils import create_config_search_path
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from queued_command import queue

from recap.compose import CONF, Composer, Refused
from recap.compose.launching import settings_of
from recap.launcher.devices import share
from recap.launcher.settings import LocalSettings, SlurmSettings


def composed(*overrides: str) -> DictConfig:
    loader = Composer(create_config_search_path(str(CONF)))
    return loader.load_configuration("train", list(overrides), RunMode.RUN)


def test_a_launchers_settings_are_set_as_launcher_and_are_no_overrides_of_the_run():
    cfg = composed("hydra/launcher=slurm", "launcher.detach=true", "training.seed=3")
    assert cfg.hydra.launcher.detach is True
    assert cfg.hydra.overrides.task == ["training.seed=3"]  # nor of its folder's name
    assert cfg.training.save_dir == "runs/local_prod/training.seed=3"
    with pytest.raises(CompactHydraException, match=r"^launcher\.tim: .* launcher\.time_min"):
        composed("hydra/launcher=slurm", "launcher.tim=3")
    with pytest.raises(CompactHydraException, match=r"^launcher\.time_min: no launcher that takes"):
        composed("launcher.time_min=3")


@pytest.mark.parametrize("name", ["slurm", "submitit_local"])
def test_every_key_of_a_launchers_yaml_is_one_that_it_takes_and_has_its_default(name: str):
    kind, made_of = {
        "slurm": ("slurm", SlurmSettings),
        "submitit_local": ("local", LocalSettings),
    }[name]
    file = CONF / "hydra/launcher" / f"{name}.yaml"
    plain: Any = OmegaConf.to_container(OmegaConf.load(file))
    assert {*plain, "_target_"} == {*made_of.__dataclass_fields__, "_target_"}
    assert settings_of(kind, plain).requeue == 100


def refused(**settings: object) -> list[str]:
    with pytest.raises(Refused) as refusal:
        settings_of("slurm", settings)
    return refusal.value.faults


def test_all_settings_at_fault_are_told_at_once_with_their_keys():
    faults = refused(
        nodes=0, memory="64", sbatch={"time": 3, "--exclude": "n1", "output": "x"}, partion="gpu"
    )
    assert faults == [
        "launcher.partion: there is no such key; close: partition",
        "launcher.nodes=0: must be 1 or more",
        "launcher.memory=64: must be a whole number and a unit, 64G or 800M, per node",
        "launcher.sbatch.time: has a key of its own, time_min",
        "launcher.sbatch.--exclude: is written without dashes before it, exclude",
        "launcher.sbatch.output: recap sets this option itself",
    ]
    assert refused(time_min="4h", setup="module load cuda") == [
        "launcher.time_min='4h': must be int or null",
        "launcher.setup='module load cuda': must be Sequence[str]",
    ]
    assert refused(time_min=1, signal_delay_s=60) == [
        "launcher.signal_delay_s=60: must be less than time_min=1, 60 s: the signal would come at "
        "the start"
    ]


def test_the_batch_script_of_a_clusters_own_preset(tmp_path: Path):
    preset = tmp_path / "my/hydra/launcher/mycluster.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text(
        "defaults: [slurm]\npartition: gpu\naccount: team\nqos: high\nconstraint: a100\n"
        "gres: gpu:4\nmemory: 64G\nsbatch: {exclude: n3}\nsetup: [module load cuda]\n"
    )
    (tmp_path / "my/queued.yaml").write_text("value: 0\nrefuse: null\nhydra: {run: {dir: .}}\n")
    done = queue(
        *("-m", "hydra/launcher=mycluster", "value=1,2,3", "--preview", "launcher.nodes=2"),
        *("launcher.time_min=90", "launcher.tasks_per_node=4", "launcher.gpus_per_node=4"),
        *("launcher.cpus_per_task=8", "launcher.array_parallelism=2", "launcher.snapshot=true"),
        *("launcher.signal_delay_s=300", "launcher.requeue=0", "launcher.srun=['--mpi=none']"),
        cwd=tmp_path,
        conf=tmp_path / "my",
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    options = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert {
        *("account=team", "array=0-2%2", "constraint=a100", "cpus-per-task=8", "exclude=n3"),
        *("gpus-per-node=4", "gres=gpu:4", "job-name=recap-queued_command", "mem=64G", "nodes=2"),
        *("no-requeue", "ntasks-per-node=4", "open-mode=append", "partition=gpu", "qos=high"),
        *("signal=USR2@300", "time=90"),
    } == {option for option in options if not option.startswith("output=")}
    assert "export OMP_NUM_THREADS=8" in lines
    assert lines.index("module load cuda") < lines.index("export SUBMITIT_EXECUTOR=slurm")
    assert any(line.startswith("export PYTHONPATH=") and "/code:" in line for line in lines)
    [srun] = [line for line in lines if line.startswith("srun ")]
    assert " --kill-on-bad-exit=1 --cpus-per-task=8 --mpi=none /bin/sh " in srun
    assert not list(tmp_path.rglob("jobs"))


def test_a_local_jobs_share_of_the_machine():
    def shares(**settings) -> tuple[int, int, int]:
        of = share(LocalSettings(**{"gpus": [], "cpus": 8, **settings}))
        return of.job_gpus, of.task_cpus, of.at_once

    assert shares() == (0, 8, 1)
    assert shares(array_parallelism=4, tasks_per_node=2) == (0, 1, 4)
    assert shares(cpus_per_task=2) == (0, 2, 4)
    assert shares(gpus=[0, 1, 2, 3]) == (1, 2, 4)
    assert shares(gpus=[0, 1, 2, 3], tasks_per_node=2) == (2, 2, 2)
    assert shares(gpus=[0, 1, 2, 3], gpus_per_node=4, array_parallelism=3) == (4, 8, 1)
    with pytest.raises(ValueError, match=r"^gpus_per_node=1: there are 0 GPUs for jobs"):
        shares(gpus_per_node=1)
    with pytest.raises(ValueError, match=r"^cpus_per_task=5: × 2 ranks are more than 8 cores"):
        shares(cpus_per_task=5, tasks_per_node=2)
