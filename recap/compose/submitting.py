"""From composed configs to queued jobs: a folder with all that they need, and their ids."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import recap
from recap.compose import Refused, frozen
from recap.launcher import local, slurm, snapshot
from recap.launcher.settings import JobSettings, LocalSettings, SlurmSettings
from recap.launcher.submission import Job, Submission, new_folder, now, write_json
from recap.tracking.provenance import CHECKOUT_FILE, checkout


def submit(
    kind: str,
    command: tuple[str, str],
    settings: JobSettings,
    name: str,
    configs: Sequence[DictConfig],
    place: Path,
) -> Submission:
    """Queues a job for each config, all or none; records are kept below ``place``.

    Args:
        kind: slurm or local.
        command: its module and its function there.
        settings: of the launcher.
        name: of the jobs.
        configs: whole composed ones, Hydra's own part included.
        place: the folder of the run or the sweep.

    Raises:
        Refused: the queue does not take them.
    """
    folder = new_folder(place)
    submission = Submission(
        folder,
        launcher=kind,
        module=command[0],
        function=command[1],
        argv=list(sys.argv),
        cwd=os.getcwd(),
        num_tasks=settings.num_tasks,
        jobs=[Job("", run_dir(config).name, str(run_dir(config))) for config in configs],
        submitted=now(),
        settings=asdict(settings),
    )
    for index, config in enumerate(configs):
        frozen.freeze(config, submission.config_file(index))
    environment = {}
    if settings.snapshot:
        submission = replace(submission, code=str(folder / "code"))
        packages = _packages(configs) | {command[0].split(".")[0], "recap"}
        snapshot.copy(folder / "code", packages)
        write_json(folder / "code" / CHECKOUT_FILE, checkout(Path(recap.__file__).parent))
        environment = snapshot.environment(folder / "code")
    submission.write()
    arguments = [(str(folder), index) for index in range(len(configs))]
    try:
        if isinstance(settings, SlurmSettings):
            ids = slurm.submit(folder, settings, name, arguments, frozen.run, environment)
        else:
            assert isinstance(settings, LocalSettings)
            ids = local.submit(folder, settings, arguments, frozen.run, environment)
    except slurm.SubmissionError as error:
        shutil.rmtree(folder)
        raise Refused([str(error)]) from error
    jobs = [replace(job, id=job_id) for job, job_id in zip(submission.jobs, ids, strict=True)]
    submission = replace(submission, jobs=jobs)
    submission.write()
    return submission


def preview(settings: JobSettings, name: str, configs: Sequence[DictConfig], place: Path) -> str:
    """What ``submit`` would hand to sbatch, or run on which share of this machine."""
    folder = place / "jobs" / "NEW"
    environment = snapshot.environment(folder / "code") if settings.snapshot else {}
    if isinstance(settings, SlurmSettings):
        return slurm.script(folder, settings, name, len(configs), environment)
    assert isinstance(settings, LocalSettings)
    return local.plan(settings, [str(run_dir(config)) for config in configs])


def run_dir(config: DictConfig) -> Path:
    """The folder of a run, absolute; of a command that has none, one that is named after it."""
    own = f"runs/{config.hydra.job.name}"
    if config.hydra.mode == RunMode.MULTIRUN:
        own = f"{config.hydra.sweep.dir}/{config.hydra.sweep.subdir}"
    return Path(OmegaConf.select(config, "training.save_dir") or own).absolute()


def _packages(configs: Sequence[DictConfig]) -> set[str]:
    """The packages that the configs name as targets."""
    return {
        str(value).split(".")[0]
        for config in configs
        for value in _targets(OmegaConf.to_container(config, resolve=False))
    }


def _targets(node: Any) -> list[Any]:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    own = [node["_target_"]] if isinstance(node, dict) and "_target_" in node else []
    return own + [target for value in inner for target in _targets(value)]
