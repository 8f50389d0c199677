"""Submissions to SLURM, by submitit; the batch script, the queue as squeue tells it, scancel."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recap.launcher.settings import SlurmSettings
from recap.launcher.submission import NO_HANDLER

if TYPE_CHECKING:
    from submitit.slurm.slurm import SlurmExecutor

log = logging.getLogger(__name__)

# of squeue, of which no other state follows
FINAL = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "TIMEOUT"),
}


# the warning comes to nothing until the run itself listens, also while Python starts
_PYTHON = shlex.join(["/bin/sh", "-c", 'trap "" USR2; exec "$0" "$@"', sys.executable])


class SubmissionError(RuntimeError):
    """SLURM did not take the jobs; nothing is queued."""


@dataclass(frozen=True)
class Entry:
    """A job in SLURM's queue."""

    state: str
    elapsed: str  # days-hours:minutes:seconds
    reason: str  # why it waits, or where it runs


def submit(
    folder: Path,
    settings: SlurmSettings,
    name: str,
    jobs: Sequence[tuple[Any, ...]],
    run: Callable[..., Any],
    environment: Mapping[str, str],
) -> list[str]:
    """Queues ``run(*arguments)`` for every job, several as one array; returns their ids.

    Raises:
        SubmissionError: SLURM is not there or refuses them.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise SubmissionError(
            "hydra/launcher=slurm: there is no sbatch on this machine; submit where SLURM's "
            "commands are, or choose hydra/launcher=submitit_local"
        )
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = _executor(folder)
    executor.update_parameters(**_parameters(settings, name, environment))
    try:
        with executor.batch():
            queued = [executor.submit(run, *arguments) for arguments in jobs]
    except (FailedJobError, FailedSubmissionError) as error:
        raise SubmissionError(f"sbatch refused: {str(error).strip()}") from error
    return [job.job_id for job in queued]


def script(
    folder: Path,
    settings: SlurmSettings,
    name: str,
    num_jobs: int,
    environment: Mapping[str, str],
) -> str:
    """The batch script that ``submit`` would hand to sbatch."""
    from submitit.slurm import slurm

    class Described(slurm.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 1  # a script can be shown where there is no SLURM

    executor = Described(folder, python=_PYTHON)
    executor.update_parameters(**_parameters(settings, name, environment))
    if num_jobs > 1:
        executor.parameters["map_count"] = num_jobs
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def _executor(folder: Path) -> SlurmExecutor:
    from submitit.slurm.slurm import SlurmExecutor

    return SlurmExecutor(folder, python=_PYTHON)


def _parameters(
    settings: SlurmSettings, name: str, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Settings as submitit calls them; what it does not know goes to sbatch as it is."""
    options: dict[str, Any] = {
        "signal": f"USR2@{settings.signal_delay_s}",
        "requeue" if settings.requeue else "no-requeue": True,
        **({} if settings.memory is None else {"mem": settings.memory}),
        **{option: value for option, value in settings.sbatch.items() if value is not False},
    }
    # what the run needs to know when it is warned, see recap.scheduler
    told = {"RECAP_SIGNAL_DELAY_S": settings.signal_delay_s, "RECAP_REQUEUE": settings.requeue}
    exported = {**NO_HANDLER, **told, **environment}
    setup = [f"export {key}={shlex.quote(str(value))}" for key, value in exported.items()]
    srun = ["--kill-on-bad-exit=1"]
    if settings.cpus_per_task is not None:
        srun.append(f"--cpus-per-task={settings.cpus_per_task}")  # no longer taken from sbatch
        setup.append(f"export OMP_NUM_THREADS={settings.cpus_per_task}")
    return {
        "job_name": name,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "gres": settings.gres,
        "nodes": settings.nodes,
        "ntasks_per_node": settings.tasks_per_node,
        "gpus_per_node": settings.gpus_per_node or None,
        "cpus_per_task": settings.cpus_per_task,
        "time": settings.time_min,
        "signal_delay_s": settings.signal_delay_s,
        "array_parallelism": settings.array_parallelism or 10**6,
        "wckey": None,  # a cluster that knows no key "submitit" would refuse it
        "stderr_to_stdout": True,
        # the user's lines come last: what they export stands
        "setup": [*setup, *settings.setup],
        "srun_args": [*srun, *settings.srun],
        "additional_parameters": options,
    }


def queue() -> dict[str, Entry] | None:
    """Job id → entry for all of the user's jobs that SLURM still knows; None if it cannot be asked.

    It forgets an ended job after its MinJobAge, 300 s where nothing else is configured.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", "--user", str(os.getuid())]
    try:
        done = subprocess.run(
            [*command, "--format=%i|%T|%M|%R"], capture_output=True, text=True, timeout=60
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        log.debug("squeue: %s", error)
        return None
    if done.returncode != 0:
        log.debug("squeue: %s", done.stderr.strip())
        return None
    rows = [line.split("|", 3) for line in done.stdout.splitlines() if line.count("|") >= 3]
    return {job_id: Entry(state, elapsed, reason) for job_id, state, elapsed, reason in rows}


def cancel(job_ids: Sequence[str]) -> str:
    """Cancels jobs, those that wait and those that run; returns what scancel complains of."""
    done = subprocess.run(["scancel", *job_ids], capture_output=True, text=True, timeout=60)
    return done.stderr.strip()
