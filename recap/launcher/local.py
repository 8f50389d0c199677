"""Submissions to a queue over this machine's devices, and what that queue says."""

from __future__ import annotations

import json
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from recap.launcher.devices import share
from recap.launcher.settings import LocalSettings
from recap.launcher.slurm import FINAL, Entry, SubmissionError
from recap.launcher.submission import Submission, write_json

PLAN, QUEUE, LOG = "plan.json", "queue.json", "queue.log"
START_S = 60.0  # until the queue must have answered


def submit(
    folder: Path,
    settings: LocalSettings,
    jobs: Sequence[tuple[Any, ...]],
    run: Callable[..., Any],
    environment: Mapping[str, str],
) -> list[str]:
    """Starts a process that runs ``run(*arguments)`` for every job in turn; returns their ids.

    Raises:
        SubmissionError: that process does not start.
    """
    from submitit.core.utils import DelayedSubmission, JobPaths

    first = f"L{secrets.token_hex(3)}"
    ids = [first] if len(jobs) == 1 else [f"{first}_{index}" for index in range(len(jobs))]
    for job_id, arguments in zip(ids, jobs, strict=True):
        DelayedSubmission(run, *arguments).dump(JobPaths(folder, job_id).submitted_pickle)
    plan = {"jobs": ids, "settings": asdict(settings), "environment": dict(environment)}
    write_json(folder / PLAN, plan)
    with (folder / LOG).open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "recap.launcher.local_queue", str(folder)],
            start_new_session=True,  # Ctrl-C is for who waits, jobs go on
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    until = time.monotonic() + START_S
    while not (folder / QUEUE).exists():
        if process.poll() is not None or time.monotonic() > until:
            raise SubmissionError(
                f"the queue did not start: {(folder / LOG).read_text().strip() or 'no word of it'}"
            )
        time.sleep(0.02)
    return ids


def plan(settings: LocalSettings, run_dirs: Sequence[str]) -> str:
    """What ``submit`` would run, on which share of the machine."""
    of = share(settings)
    on = f"{of.job_gpus} of the GPUs {', '.join(of.gpus)}" if of.job_gpus else "no GPU"
    return "\n".join(
        [
            f"{len(run_dirs)} jobs of {settings.num_tasks} ranks, {of.at_once} at a time; each on "
            f"{on} and with OMP_NUM_THREADS={of.task_cpus} per rank:",
            *(f"  {run_dir}" for run_dir in run_dirs),
        ]
    )


def queue(submission: Submission) -> dict[str, Entry] | None:
    """Job id → entry of a submission's jobs; None where its queue has not begun."""
    try:
        told = json.loads((submission.folder / QUEUE).read_text())
    except FileNotFoundError:
        return None
    lost = told["host"] == platform.node() and not _lives(told["pid"], told["created"])
    return {
        job_id: Entry("FAILED", "", "its queue was killed")
        if lost and job["state"] not in FINAL
        else Entry(job["state"], "", job["where"])
        for job_id, job in told["jobs"].items()
    }


def cancel(submission: Submission, job_ids: Sequence[str]) -> None:
    """Asks the queue to end jobs, those that wait and those that run."""
    for job_id in job_ids:
        cancel_file(submission.folder, job_id).touch()


def cancel_file(folder: Path, job_id: str) -> Path:
    """The file that asks the queue to end a job."""
    return folder / f"{job_id}.cancel"


def this_process() -> dict[str, Any]:
    """What tells whether this process still lives, also after another one has got its number."""
    created = psutil.Process().create_time()
    return {"host": platform.node(), "pid": os.getpid(), "created": created}


def _lives(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
