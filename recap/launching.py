"""From composed configs to queued jobs and their outcome: what recap's Hydra launchers do.

The configs are checked and frozen, the jobs submitted and, unless ``launcher.detach``, waited for.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.errors import CompactHydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from recap import frozen
from recap.binding import binding_faults
from recap.compose import Refused
from recap.launcher import local, slurm, snapshot
from recap.launcher.ends import ends
from recap.launcher.settings import JobSettings, LocalSettings, SlurmSettings
from recap.launcher.submission import Job, Submission, new_folder, now
from recap.launcher.waiting import Outcome, told, wait

if TYPE_CHECKING:
    from hydra_plugins.recap_plugins.launcher import QueueLauncher

log = logging.getLogger(__name__)

KINDS: Mapping[str, type[JobSettings]] = {"slurm": SlurmSettings, "local": LocalSettings}


class JobsFailed(CompactHydraException):
    """Jobs that did not end well; the message lists all of them."""


def launch_one(function: Any, config: DictConfig) -> Any:
    """Queues the one run of a command without -m; returns what the run returned.

    ``config`` is the whole composed one, Hydra's own part included.

    Raises:
        Refused: a config or settings at fault, or SLURM does not take the job; nothing is queued.
        JobsFailed: the job did not end well.
    """
    launcher: Any = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(GlobalHydra.instance().config_loader(), Callbacks()),
        task_function=function,
        config=config,
    )
    value = _launch(launcher, [config])[0]._return_value  # of a failed job, return_value prints
    if isinstance(value, JobsFailed):
        raise value
    return value


def launch_sweep(
    launcher: QueueLauncher, job_overrides: Sequence[Sequence[str]], first_number: int
) -> Sequence[JobReturn]:
    """Queues the jobs of a sweep; see ``launch_one``. A failed one's return raises JobsFailed."""
    loader = launcher.hydra_context.config_loader
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    configs = [
        frozen.with_job_number(
            loader.load_sweep_config(launcher.config, list(overrides)), first_number + number
        )
        for number, overrides in enumerate(job_overrides)
    ]
    return _launch(launcher, configs, place=Path(launcher.config.hydra.sweep.dir))


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
        if key != "_target_" and not any(fault.startswith(f"launcher.{key}") for fault in faults)
    }
    try:
        settings = made_of(**fitting)
    except ValueError as error:
        faults += [f"launcher.{line}" for line in str(error).splitlines()]
    if faults:
        raise Refused(faults)
    return settings


def _launch(
    launcher: QueueLauncher, configs: Sequence[DictConfig], place: Path | None = None
) -> list[JobReturn]:
    plain: Any = OmegaConf.to_container(launcher.config.hydra.launcher, resolve=True)
    try:
        settings, faults = settings_of(launcher.kind, plain), []
    except Refused as refused:
        settings, faults = JobSettings(check=plain.get("check") is not False), refused.faults
    if settings.check:
        faults = [*faults, *_config_faults(launcher.task_function, configs)]
    if faults:
        raise Refused(faults)
    if settings.preview:
        print(_preview(launcher, settings, configs, place))
        return [_returned(config, None) for config in configs]
    submission = _submitted(launcher, settings, configs, place or _run_dir(configs[0]))
    print(told(submission), flush=True)
    if settings.detach:
        return [_returned(config, None) for config in configs]
    outcomes = wait(submission)
    failed = [outcome for outcome in outcomes if not outcome.well]
    error = JobsFailed("\n".join(_told_failures(submission, failed, len(outcomes))))
    return [
        _returned(config, ends(submission, outcome.job.id)[0].value)
        if outcome.well
        else _failed(config, error)
        for config, outcome in zip(configs, outcomes, strict=True)
    ]


def _config_faults(function: Any, configs: Sequence[DictConfig]) -> list[str]:
    """What the command finds wrong with its configs, each told once with the jobs it is of."""
    check: Callable[[DictConfig], list[str]] | None = function.check
    if check is None:
        return []
    found: dict[str, list[str]] = {}
    before = HydraConfig.instance().cfg
    try:
        for config in configs:
            HydraConfig.instance().set_config(config)
            own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            for fault in check(own):
                found.setdefault(fault, []).append(_name(config))
    finally:
        HydraConfig.instance().cfg = before
    return [
        fault if len(names) == len(configs) else f"{fault} ({', '.join(names)})"
        for fault, names in found.items()
    ]


def _submitted(
    launcher: QueueLauncher, settings: JobSettings, configs: Sequence[DictConfig], place: Path
) -> Submission:
    folder = new_folder(place.absolute())
    function = launcher.task_function
    submission = Submission(
        folder,
        launcher=launcher.kind,
        module=_module(function),
        function=function.__name__,
        argv=[sys.argv[0], *sys.argv[1:]],
        cwd=os.getcwd(),
        num_tasks=getattr(settings, "num_tasks", 1),
        jobs=[Job("", _name(config), str(_run_dir(config))) for config in configs],
        submitted=now(),
        settings=_plain(settings),
    )
    for index, config in enumerate(configs):
        frozen.freeze(config, submission.config_file(index))
    environment = {}
    if settings.snapshot:
        code = snapshot.copied(folder / "code", _packages(configs))
        submission = replace(submission, code=str(code))
        environment = snapshot.environment(code)
    submission.write()
    arguments = [(str(folder), index) for index in range(len(configs))]
    name = f"recap-{launcher.config.hydra.job.name}"
    if isinstance(settings, SlurmSettings):
        try:
            ids = slurm.submit(folder, settings, name, arguments, frozen.run, environment)
        except slurm.SubmissionError as error:
            raise Refused([str(error)]) from error
    else:
        assert isinstance(settings, LocalSettings)
        ids = local.submit(submission, settings, arguments, frozen.run, environment)
    jobs = [replace(job, id=job_id) for job, job_id in zip(submission.jobs, ids, strict=True)]
    submission = replace(submission, jobs=jobs)
    submission.write()
    return submission


def _preview(
    launcher: QueueLauncher,
    settings: JobSettings,
    configs: Sequence[DictConfig],
    place: Path | None,
) -> str:
    folder = (place or _run_dir(configs[0])).absolute() / "jobs" / "NEW"
    environment = snapshot.environment(folder / "code") if settings.snapshot else {}
    name = f"recap-{launcher.config.hydra.job.name}"
    if isinstance(settings, SlurmSettings):
        return slurm.script(folder, settings, name, len(configs), environment)
    assert isinstance(settings, LocalSettings)
    return local.plan(settings, [str(_run_dir(config)) for config in configs])


def _told_failures(submission: Submission, failed: Sequence[Outcome], of: int) -> list[str]:
    lines = [f"{len(failed)} of {of} jobs did not end well:"]
    for outcome in failed:
        lines.append(
            f"  {outcome.job.run_dir}: job {outcome.job.id} {outcome.state}, {outcome.log}"
        )
        lines += [f"    {line}" for line in (outcome.error or "").splitlines()[-5:]]
    return lines


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
    save_dir = OmegaConf.select(config, "training.save_dir")
    return Path(save_dir or f"runs/{config.hydra.job.name}").absolute()


def _name(config: DictConfig) -> str:
    return _run_dir(config).name


def _packages(configs: Sequence[DictConfig]) -> set[str]:
    """The packages that the configs name as targets."""
    targets = {
        str(value).split(".")[0]
        for config in configs
        for value in _targets(OmegaConf.to_container(config, resolve=False))
    }
    return targets | {"recap", "hydra_plugins"}


def _targets(node: Any) -> list[Any]:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    own = [node["_target_"]] if isinstance(node, dict) and "_target_" in node else []
    return own + [target for value in inner for target in _targets(value)]


def _plain(settings: JobSettings) -> dict[str, Any]:
    names = settings.__dataclass_fields__
    values = {name: getattr(settings, name) for name in names}
    return {
        name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()
    }


def _returned(config: DictConfig, value: Any) -> JobReturn:
    done = JobReturn(overrides=list(config.hydra.overrides.task), status=JobStatus.COMPLETED)
    done.return_value = value
    return done


def _failed(config: DictConfig, error: JobsFailed) -> JobReturn:
    done = JobReturn(overrides=list(config.hydra.overrides.task), status=JobStatus.FAILED)
    done.return_value = error
    return done
