"""This machine's GPUs and cores, each taken by one job at a time, whoever queued it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from recap.launcher.settings import LocalSettings


@dataclass(frozen=True)
class Share:
    """What a job has of the machine."""

    gpus: Sequence[str]  # all that jobs may use
    cpus: int  # likewise
    job_gpus: int
    job_cpus: int  # cores that are its own; 0: there are fewer than jobs at a time
    task_cpus: int
    at_once: int  # jobs at the same time


def share(settings: LocalSettings) -> Share:
    """How jobs with these settings share this machine.

    Raises:
        ValueError: a job needs more than there is; a line for each, ``key=value: what there is``.
    """
    gpus = visible_gpus() if settings.gpus is None else [str(gpu) for gpu in settings.gpus]
    cpus = settings.cpus or len(os.sched_getaffinity(0))
    tasks, task_cpus = settings.tasks_per_node, settings.cpus_per_task
    job_gpus = settings.gpus_per_node
    if job_gpus is None:
        job_gpus = tasks if gpus else 0
    faults = []
    if job_gpus > len(gpus):
        key = "tasks_per_node" if settings.gpus_per_node is None else "gpus_per_node"
        faults.append(f"{key}={job_gpus}: there are {len(gpus)} GPUs for jobs on this machine")
    if tasks * (task_cpus or 0) > cpus:
        faults.append(f"cpus_per_task={task_cpus}: × {tasks} ranks are more than {cpus} cores")
    if faults:
        raise ValueError("\n".join(faults))
    if job_gpus:
        at_once = len(gpus) // job_gpus
    else:
        at_once = cpus // (tasks * task_cpus) if task_cpus else settings.array_parallelism or 1
    at_once = min(at_once, settings.array_parallelism or at_once)
    if task_cpus is None:
        return Share(
            gpus, cpus, job_gpus, cpus // at_once, max(1, cpus // (at_once * tasks)), at_once
        )
    return Share(gpus, cpus, job_gpus, tasks * task_cpus, task_cpus, at_once)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


@dataclass(frozen=True)
class Taken:
    """Devices that are one job's."""

    gpus: list[str]
    locks: ExitStack
    files: list[int]

    def free(self) -> None:
        """Leaves them to others. Who inherited ``files`` keeps them as long as it lives."""
        self.locks.close()


def take(of: Share) -> Taken | None:
    """A job's devices, if enough of them are free."""
    with ExitStack() as locks:
        gpus = _free("gpu", of.gpus, of.job_gpus, locks)
        cores = _free("core", [str(core) for core in range(of.cpus)], of.job_cpus, locks)
        if gpus is None or cores is None:
            return None
        files = [*gpus.values(), *cores.values()]
        return Taken(list(gpus), locks.pop_all(), files)
    return None


def _free(kind: str, names: Sequence[str], number: int, locks: ExitStack) -> dict[str, int] | None:
    """So many free ones with the file that locks each; None where there are fewer.

    The lock is the open file's, so that it ends with the last process that holds it: no device
    stays taken after a kill, and none is free while a job on it goes on.
    """
    folder = Path(tempfile.gettempdir()) / f"recap-devices-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found: dict[str, int] = {}
    for name in names:
        if len(found) == number:
            break
        file: IO[str] = (folder / f"{kind}-{name}").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        locks.enter_context(file)
        found[name] = file.fileno()
    return found if len(found) == number else None
