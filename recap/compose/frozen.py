"""A job's config as it was composed when the job was submitted, and the run of it later.

Nothing is composed again where the job runs, so YAML files may be edited in the meantime.
"""

from __future__ import annotations

import importlib
import logging
import os
import platform
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime, run_job, setup_globals
from hydra.types import HydraContext, RunMode
from omegaconf import Container, DictConfig, OmegaConf, flag_override, open_dict

from recap.launcher.ends import Task, recorded, this_task
from recap.launcher.submission import read_submission
from recap.signals import hold_warnings, ignore_warnings

log = logging.getLogger(__name__)


def freeze(config: DictConfig, path: Path) -> None:
    """Keeps a composed config, Hydra's own node included, for ``thawed``; only its user reads it.

    References stay, since a run keeps them in its config.yaml; only times are settled: every rank
    would read another clock.
    """
    config = config.copy()
    _settle(config)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:  # it may hold the password of a tracking server
        file.write(OmegaConf.to_yaml(config))


def differs(config: DictConfig, path: Path) -> bool:
    """Whether a config is another one than that of ``path``, apart from Hydra's own part."""
    config, kept = config.copy(), thawed(path)
    _settle(config)
    for each in (config, kept):
        with open_dict(each):
            del each["hydra"]
    return OmegaConf.to_container(config) != OmegaConf.to_container(kept)


def thawed(path: Path) -> DictConfig:
    """The config that ``freeze`` kept."""
    config = OmegaConf.create({"hydra": OmegaConf.structured(HydraConf)})
    OmegaConf.set_struct(config.hydra, False)  # Hydra's own groups add to it, too
    config.merge_with(OmegaConf.load(path))
    OmegaConf.set_struct(config.hydra, None)
    OmegaConf.set_struct(config, True)
    return config


def run(folder: str, index: int) -> Any:
    """Runs a job of a submission on this rank, as Hydra runs one at home; returns what it returns.

    Called by submitit, on every rank. What the command raises is raised, so that the process ends
    with a traceback and an exit code that SLURM sees.
    """
    listen_no_longer()
    logging.getLogger("submitit").propagate = False  # it prints by itself
    submission = read_submission(Path(folder))
    task = this_task()
    with recorded(submission.end_file(task.job_id, task.rank)) as returned:
        os.chdir(submission.cwd)
        sys.argv = list(submission.argv)  # a run records the command that it was started by
        module = importlib.import_module(submission.module)
        print(
            f"job {task.job_id}, rank {task.rank} of {submission.num_tasks} on {platform.node()}: "
            f"{submission.config_file(index)}, code of {Path(__file__).resolve().parents[1]}",
            flush=True,
        )
        command = getattr(module, submission.function)
        config = thawed(submission.config_file(index))
        try:
            returned[0] = _run(config, command.runs)
        except BaseException as error:
            _ended(command, config, task, error)
            raise
        _ended(command, config, task, None)
    ignore_warnings()
    return returned[0]


def listen_no_longer() -> None:
    """Takes submitit's signal handlers away: they requeue on rank 0 only, without saving."""
    for number in (signal.SIGTERM, signal.SIGCONT, signal.SIGURG):
        signal.signal(number, signal.SIG_DFL)
    hold_warnings()


def _run(config: DictConfig, function: Any) -> Any:
    version.setbase(str(config.hydra.runtime.version_base))
    setup_globals()
    JobRuntime.instance().set("name", config.hydra.job.name)
    sweep = config.hydra.mode == RunMode.MULTIRUN
    try:
        done = run_job(
            # nothing composes here, so that there is no loader
            hydra_context=HydraContext(config_loader=None, callbacks=Callbacks(config)),  # type: ignore[arg-type]
            task_function=function,
            config=config,
            job_dir_key="hydra.sweep.dir" if sweep else "hydra.run.dir",
            job_subdir_key="hydra.sweep.subdir" if sweep else None,
        )
        return done.return_value
    finally:
        Singleton.instance(HydraConfig).cfg = None


def _ended(command: Any, config: DictConfig, task: Task, error: BaseException | None) -> None:
    if task.rank != 0 or command.ended is None:
        return
    try:
        command.ended(config, error)
    except Exception:  # it is about others, and hides no error of the run
        log.warning("after the end of job %s", task.job_id, exc_info=True)


def _settle(config: DictConfig) -> None:
    for node, key in list(_clock_readings(config)):
        # Hydra's own part is read-only by flags of its own
        with flag_override(node, ["struct", "readonly"], [False, False]):
            node[key] = node[key]


def _clock_readings(node: Any) -> Iterator[tuple[Any, Any]]:
    """The places of a config whose values refer to the clock."""
    for key in range(len(node)) if OmegaConf.is_list(node) else list(node):
        inner: Any = node._get_node(key)
        if isinstance(inner, Container) and not (inner._is_none() or inner._is_interpolation()):
            yield from _clock_readings(inner)
        elif inner is not None and "${now:" in str(inner._value()):
            yield node, key


def number(config: DictConfig, place: int) -> None:
    """Writes a job's place in the sweep into its config, as Hydra's own launcher does."""
    with open_dict(config):
        config.hydra.job.id = str(place)
        config.hydra.job.num = place
