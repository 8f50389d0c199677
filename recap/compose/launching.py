"""From composed configs to queued jobs and their outcome: what recap's Hydra launchers do.

The configs are checked and frozen, the jobs submitted and, unless ``launcher.detach``, waited for.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from recap.compose import Refused, frozen
from recap.compose.binding import any_at, binding_faults
from recap.compose.submitting import preview, run_dir, submit
from recap.launcher.devices import share
from recap.launcher.settings import JobSettings, LocalSettings, SlurmSettings
from recap.launcher.states import states
from recap.launcher.submission import submissions_of
from recap.launcher.waiting import Found, Left, Outcome, told, wait

SWEEPERS = "hydra_plugins.recap_plugins.sweeper."  # where recap's own are
KINDS: Mapping[str, type[JobSettings]] = {"slurm": SlurmSettings, "local": LocalSettings}


class JobFailed(CompactHydraException):
    """A job that did not end well; the message says which, where its log is and what it says.

    Args:
        message: all of that.
        where: the job, its state and its log, for a message of the run's own.
    """

    def __init__(self, message: str, where: str) -> None:
        super().__init__(message)
        self.where = where


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
    [done] = _launch(kind, function, config, [config], run_dir(config))
    if done.status == JobStatus.FAILED:
        raise done._return_value  # Hydra's own return_value prints before it raises
    return done.return_value


def launch_sweep(
    kind: str, function: Any, master: DictConfig, configs: Sequence[DictConfig], first_number: int
) -> Sequence[JobReturn]:
    """Queues the jobs of a sweep, several as one array; see ``launch_one``.

    The return of one that did not end well raises JobFailed, that of one left in the queue is of
    status UNKNOWN. A config at fault keeps no other from the queue: all faults are told before
    anything is queued, and the return of such a config raises Refused.

    Raises:
        Refused: settings at fault, or SLURM does not take the jobs; nothing is queued.
        Left: Ctrl-C while waiting.
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
    """Checks the configs and queues those without faults; records are kept below ``place``.

    Without a sweep a fault of the one config is raised.
    """
    plain: Any = OmegaConf.to_container(master.hydra.launcher, resolve=True)
    try:
        settings, faults = settings_of(kind, plain), []
    except Refused as refused:
        settings, faults = LocalSettings(check=plain.get("check") is not False), refused.faults
    found = _config_faults(function, configs, settings.num_tasks) if settings.check else {}
    command = (_module(function), function.__name__)
    if faults or (found and master.hydra.mode != RunMode.MULTIRUN):
        raise Refused([*faults, *_told_faults(found, configs)])
    if found:
        print("\n".join(["not queued:", *_told_faults(found, configs)]), flush=True)
    refused_at = {index for indices in found.values() for index in indices}
    taken = [config for index, config in enumerate(configs) if index not in refused_at]
    try:
        returned, left = _queue(kind, command, settings, master, taken, place), None
    except Left as error:
        returned, left = error.returned, error
    rest = iter(returned)
    every = [
        _refused(config, [fault for fault, indices in found.items() if index in indices])
        if index in refused_at
        else next(rest)
        for index, config in enumerate(configs)
    ]
    if left is not None:
        raise Left(128 + signal.SIGINT, every)
    return every


def _queue(
    kind: str,
    command: tuple[str, str],
    settings: JobSettings,
    master: DictConfig,
    configs: Sequence[DictConfig],
    place: Path,
) -> Sequence[JobReturn]:
    """Queues the configs, all or none, and waits for their jobs.

    What is in the queue already, the same command with the same config, is not queued again but
    waited for.
    """
    queued = _queued_before(command[0], configs, place)
    new = [index for index in range(len(configs)) if index not in queued]
    new_configs = [configs[index] for index in new]
    name = f"recap-{master.hydra.job.name}"
    if settings.preview:
        print(preview(settings, name, new_configs, place) if new else "nothing to submit")
        return [_InQueue(overrides=_overrides(config)) for config in configs]
    if queued:
        print("queued before:")
        print(told(queued.values()), flush=True)
    if new:
        submission = submit(kind, command, settings, name, new_configs, place)
        print(told([(submission, job) for job in submission.jobs]), flush=True)
        queued |= {i: (submission, job) for i, job in zip(new, submission.jobs, strict=True)}
    in_queue = [_InQueue(overrides=_overrides(config)) for config in configs]
    if settings.detach or not configs:
        return in_queue
    try:
        outcomes = wait([queued[index] for index in range(len(configs))])
    except KeyboardInterrupt:  # who waits has gone, nothing has failed
        raise Left(128 + signal.SIGINT, in_queue) from None
    failed = [outcome for outcome in outcomes if not outcome.well]
    # recap's sweepers tell it in their table, others no more than the first of them
    told_later = str(master.hydra.sweeper._target_).startswith(SWEEPERS)
    if failed and len(outcomes) > 1 and not told_later:
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
    done.return_value = outcome.value
    if not outcome.well:
        done.return_value = JobFailed(_told_failure(outcome), _where(outcome))
    return done


def _refused(config: DictConfig, faults: list[str]) -> JobReturn:
    done = JobReturn(overrides=_overrides(config))
    done.status = JobStatus.FAILED
    done.return_value = Refused(faults)
    return done


def _told_failure(outcome: Outcome) -> str:
    error = [f"  {line}" for line in (outcome.error or "").splitlines()]
    return "\n".join([f"{outcome.job.run_dir}: {_where(outcome)}", *error])


def _where(outcome: Outcome) -> str:
    return f"job {outcome.job.id} {outcome.state}, {outcome.log}"


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
                same_run = job.run_dir == str(run_dir(config))
                if same_run and not frozen.differs(config, submission.config_file(number)):
                    queued.setdefault(index, (submission, job))
    return queued


def _config_faults(
    function: Any, configs: Sequence[DictConfig], num_ranks: int
) -> dict[str, list[int]]:
    """What the command finds wrong with its configs: fault → indices of the configs it is of."""
    check: Callable[[DictConfig, int], list[str]] | None = function.check
    if check is None:
        return {}
    found: dict[str, list[int]] = {}
    before = HydraConfig.instance().cfg
    try:
        for index, config in enumerate(configs):
            HydraConfig.instance().set_config(config)
            own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            for fault in check(own, num_ranks):
                found.setdefault(fault, []).append(index)
    finally:
        HydraConfig.instance().cfg = before
    return found


def _told_faults(found: Mapping[str, list[int]], configs: Sequence[DictConfig]) -> list[str]:
    """Each fault once, with the folders' names of the runs it is of, unless it is of all."""
    return [
        fault
        if len(indices) == len(configs)
        else f"{fault} ({', '.join(run_dir(configs[index]).name for index in indices)})"
        for fault, indices in found.items()
    ]


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
