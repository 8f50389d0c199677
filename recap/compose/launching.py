"""From composed configs to queued jobs and their outcome: what recap's Hydra launchers do.

The configs are checked and frozen, the jobs submitted and, unless ``launcher.detach``, waited for.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from recap.compose import Refused, frozen
from recap.compose.binding import any_at, binding_faults
from recap.launcher import local, slurm, snapshot
from recap.launcher.devices import share
from recap.launcher.settings import JobSettings, LocalSettings, SlurmSettings
from recap.launcher.states import states
from recap.launcher.submission import Job, Submission, new_folder, now, submissions_of
from recap.launcher.waiting import Found, Outcome, told, wait

KINDS: Mapping[str, type[JobSettings]] = {"slurm": SlurmSettings, "local": LocalSettings}


class JobFailed(CompactHydraException):
    """A job that did not end well; the message says which, where its log is and what it says."""


def launch_one(kind: str, function: Any, config: DictConfig) -> Any:
    """Queues the one run of a command without -m; returns what the run returned.

    Args:
        kind: slurm or local.
        function: of ``hydra_command``.
        config: the whole composed one, Hydra's own part included.

    Raises:
        Refused: a config or settings at fault, or SLURM does not take the job; nothing is queued.
        JobFailed: the job did not end well.
    """
    [done] = _launch(kind, function, config, [config], _run_dir(config))
    if done.status == JobStatus.FAILED:
        raise done._return_value  # Hydra's own return_value prints before it raises
    return done.return_value


def launch_sweep(
    kind: str, function: Any, master: DictConfig, configs: Sequence[DictConfig], first_number: int
) -> Sequence[JobReturn]:
    """Queues the jobs of a sweep, several as one array; see ``launch_one``.

    The return of one that did not end well raises JobFailed, that of one left in the queue is of
    status UNKNOWN.
    """
    configure_log(master.hydra.hydra_logging, master.hydra.verbose)
    for number, config in enumerate(configs):
        frozen.number(config, first_number + number)
    return _launch(kind, function, master, configs, Path(master.hydra.sweep.dir).absolute())


def settings_of(kind: str, plain: Mapping[str, Any]) -> JobSettings:
    """The settings in ``hydra.launcher``.

    Raises:
        Refused: keys that are not known, values of the wrong type or out of range; all at once.
    """
    made_of = KINDS[kind]
    node = {**plain, "_target_": f"{made_of.__module__}.{made_of.__qualname__}"}
    chosen = f"{made_of.__module__}.{made_of.__qualname__} takes"
    faults = [fault.replace(chosen, "there is") for fault in binding_faults(node, "launcher")]
    fitting = {
        key: value
        for key, value in plain.items()
        if key != "_target_" and not any_at(faults, f"launcher.{key}")
    }
    try:
        settings = made_of(**fitting)
        if isinstance(settings, LocalSettings):
            share(settings)
    except ValueError as error:
        raise Refused(faults + [f"launcher.{line}" for line in str(error).splitlines()]) from None
    if faults:
        raise Refused(faults)
    return settings


def _launch(
    kind: str, function: Any, master: DictConfig, configs: Sequence[DictConfig], place: Path
) -> list[JobReturn]:
    """Checks and queues the configs, all or none; records are kept below ``place``.

    What is in the queue already, the same command with the same config, is not queued again but
    waited for.
    """
    plain: Any = OmegaConf.to_container(master.hydra.launcher, resolve=True)
    try:
        settings, faults = settings_of(kind, plain), []
    except Refused as refused:
        settings, faults = LocalSettings(check=plain.get("check") is not False), refused.faults
    if settings.check:
        faults = [*faults, *_config_faults(function, configs, settings.num_tasks)]
    module = _module(function)
    if faults:
        raise Refused(faults)
    queued = _queued_before(module, configs, place)
    new = [index for index in range(len(configs)) if index not in queued]
    new_configs = [configs[index] for index in new]
    name = f"recap-{master.hydra.job.name}"
    if settings.preview:
        print(_preview(settings, name, new_configs, place) if new else "nothing to submit")
        return [_InQueue(overrides=_overrides(config)) for config in configs]
    if queued:
        print("queued before:")
        print(told(queued.values()), flush=True)
    if new:
        command = (module, function.__name__)
        submission = _submitted(kind, command, settings, name, new_configs, place)
        print(told([(submission, job) for job in submission.jobs]), flush=True)
        queued |= {i: (submission, job) for i, job in zip(new, submission.jobs, strict=True)}
    if settings.detach:
        return [_InQueue(overrides=_overrides(config)) for config in configs]
    try:
        outcomes = wait([queued[index] for index in range(len(configs))])
    except KeyboardInterrupt:  # who waits has gone, nothing has failed
        raise SystemExit(128 + signal.SIGINT) from None
    failed = [outcome for outcome in outcomes if not outcome.well]
    if failed and len(outcomes) > 1:  # a sweeper tells no more than the first of them
        print(f"{len(failed)} of {len(outcomes)} jobs did not end well:")
        print("\n".join(_told_failure(outcome) for outcome in failed), flush=True)
    return [_returned(*pair) for pair in zip(configs, outcomes, strict=True)]


class _InQueue(JobReturn):
    """What a job has returned that was not waited for."""

    @property
    def return_value(self) -> Any:
        """Nothing yet; Hydra's own raises where there is nothing."""
        return None

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


def _returned(config: DictConfig, outcome: Outcome) -> JobReturn:
    done = JobReturn(overrides=_overrides(config))
    done.status = JobStatus.COMPLETED if outcome.well else JobStatus.FAILED
    done.return_value = outcome.value if outcome.well else JobFailed(_told_failure(outcome))
    return done


def _told_failure(outcome: Outcome) -> str:
    job = outcome.job
    error = [f"  {line}" for line in (outcome.error or "").splitlines()]
    return "\n".join([f"{job.run_dir}: job {job.id} {outcome.state}, {outcome.log}", *error])


def _overrides(config: DictConfig) -> list[str]:
    return list(config.hydra.overrides.task)


def _queued_before(module: str, configs: Sequence[DictConfig], place: Path) -> dict[int, Found]:
    """Index of a config → the job that is to run it and is not over."""
    queued: dict[int, Found] = {}
    for submission in submissions_of(place):
        if submission.module != module or not all(job.id for job in submission.jobs):
            continue
        found = states(submission)
        for number, job in enumerate(submission.jobs):
            if found[job.id].final:
                continue
            for index, config in enumerate(configs):
                same_run = job.run_dir == str(_run_dir(config))
                if same_run and not frozen.differs(config, submission.config_file(number)):
                    queued.setdefault(index, (submission, job))
    return queued


def _config_faults(function: Any, configs: Sequence[DictConfig], num_ranks: int) -> list[str]:
    """What the command finds wrong with its configs, each told once with the jobs it is of."""
    check: Callable[[DictConfig, int], list[str]] | None = function.check
    if check is None:
        return []
    found: dict[str, list[str]] = {}
    before = HydraConfig.instance().cfg
    try:
        for config in configs:
            HydraConfig.instance().set_config(config)
            own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            for fault in check(own, num_ranks):
                found.setdefault(fault, []).append(_run_dir(config).name)
    finally:
        HydraConfig.instance().cfg = before
    return [
        fault if len(names) == len(configs) else f"{fault} ({', '.join(names)})"
        for fault, names in found.items()
    ]


def _submitted(
    kind: str,
    command: tuple[str, str],
    settings: JobSettings,
    name: str,
    configs: Sequence[DictConfig],
    place: Path,
) -> Submission:
    folder = new_folder(place)
    submission = Submission(
        folder,
        launcher=kind,
        module=command[0],
        function=command[1],
        argv=list(sys.argv),
        cwd=os.getcwd(),
        num_tasks=settings.num_tasks,
        jobs=[Job("", _run_dir(config).name, str(_run_dir(config))) for config in configs],
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


def _preview(settings: JobSettings, name: str, configs: Sequence[DictConfig], place: Path) -> str:
    folder = place / "jobs" / "NEW"
    environment = snapshot.environment(folder / "code") if settings.snapshot else {}
    if isinstance(settings, SlurmSettings):
        return slurm.script(folder, settings, name, len(configs), environment)
    assert isinstance(settings, LocalSettings)
    return local.plan(settings, [str(_run_dir(config)) for config in configs])


def _module(function: Any) -> str:
    """Where a job finds the command's function again."""
    if function.__module__ != "__main__":
        return function.__module__
    spec = sys.modules["__main__"].__spec__
    if spec is None:
        raise Refused(
            [f"{sys.argv[0]}: is run as a file, which a job cannot import; run it as python -m"]
        )
    return spec.name


def _run_dir(config: DictConfig) -> Path:
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
