"""The process behind ``hydra/launcher=submitit_local``: runs a submission's jobs as devices allow.

``python -m recap.launcher.local_queue FOLDER``, started by ``recap.launcher.local``. Every rank is
a process of submitit, as on a cluster. What SLURM does for a job is done here: devices, ranks, the
warning before the time limit, the end of all ranks when one fails, another start after a warning.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recap.launcher import devices
from recap.launcher.local import PLAN, QUEUE, cancel_file, this_process
from recap.launcher.settings import LocalSettings
from recap.launcher.submission import NO_HANDLER, write_json

TICK_S = 0.1
KILL_WAIT_S = 30.0  # between SIGTERM and SIGKILL, as SLURM's KillWait
WARNED = 128 + signal.SIGUSR2  # exit code of a run that left, saved, after the warning
LEFT = {WARNED, 128 + signal.SIGTERM, 128 + signal.SIGINT}
# of another launcher around this queue: its ranks are not these
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PR_SET_PDEATHSIG = 1


@dataclass
class Running:
    """A job's processes."""

    tasks: list[subprocess.Popen[bytes]]
    taken: devices.Taken
    started: float
    warned: set[int] = field(default_factory=set)  # their pids
    ending: float | None = None  # when its ranks are killed
    state: str | None = None  # what it ends as, once that is decided


@dataclass
class Queued:
    """A job as the queue knows it."""

    id: str
    state: str = "PENDING"
    where: str = ""
    starts: int = 0
    running: Running | None = field(default=None, repr=False)


class Queue:
    """Jobs in their order, on this machine's devices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        plan = json.loads((folder / PLAN).read_text())
        self.settings = LocalSettings(**plan["settings"])
        self.environment: Mapping[str, str] = plan["environment"]
        self.share = devices.share(self.settings)
        self.jobs = [Queued(job_id) for job_id in plan["jobs"]]
        self.told = ""
        self.over = False

    def run(self) -> None:
        """Returns when every job has ended."""
        signal.signal(signal.SIGTERM, self._cancel_all)
        while True:
            for job in self.jobs:
                self._tend(job)
            self._tell()
            if all(job.state not in ("PENDING", "RUNNING") for job in self.jobs):
                return
            time.sleep(TICK_S)

    def _tell(self) -> None:
        jobs = {job.id: {"state": job.state, "where": job.where} for job in self.jobs}
        if (text := json.dumps(jobs)) != self.told:
            write_json(self.folder / QUEUE, {**this_process(), "jobs": jobs})
            self.told = text

    def _tend(self, job: Queued) -> None:
        cancelled = self.over or cancel_file(self.folder, job.id).exists()
        if job.state == "PENDING":
            busy = sum(other.state == "RUNNING" for other in self.jobs)
            if cancelled:
                job.state = "CANCELLED"
            elif busy < self.share.at_once and (taken := devices.take(self.share)) is not None:
                job.running = self._started(job, taken)
                job.state = "RUNNING"
        elif job.state == "RUNNING":
            assert job.running is not None
            if cancelled:
                self._end(job.running, "CANCELLED")
            self._watch(job, job.running)

    def _started(self, job: Queued, taken: devices.Taken) -> Running:
        job.starts += 1
        job.where = f"GPU {', '.join(taken.gpus)}" if taken.gpus else "this machine"
        ranks = range(self.settings.num_tasks)
        port = _free_port()
        tasks = [self._start(job.id, rank, port, job.starts, taken) for rank in ranks]
        return Running(tasks, taken, time.monotonic())

    def _start(
        self, job_id: str, rank: int, port: int, starts: int, taken: devices.Taken
    ) -> subprocess.Popen[bytes]:
        settings, num_tasks = self.settings, self.settings.num_tasks
        around = {
            key: value
            for key, value in os.environ.items()
            if key not in RANKS and not key.startswith(("SLURM_", "TORCHELASTIC_"))
        }
        environment = {
            **around,
            **NO_HANDLER,
            **self.environment,
            "OMP_NUM_THREADS": str(self.share.task_cpus),
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_JOB_ID": job_id,
            "SUBMITIT_LOCAL_NTASKS": str(num_tasks),
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_GLOBALID": str(rank),
            "SUBMITIT_LOCAL_LOCALID": str(rank),
        }
        if self.share.gpus:  # a job without GPUs sees none
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(taken.gpus)
        if num_tasks > 1:
            environment |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(num_tasks),
                "LOCAL_WORLD_SIZE": str(num_tasks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        command = [sys.executable, "-u", "-m", "submitit.core._submit", str(self.folder)]
        if settings.setup:
            command = ["bash", "-c", "\n".join([*settings.setup, f"exec {shlex.join(command)}"])]
        with (self.folder / f"{job_id}_{rank}_log.out").open("a") as log:
            if starts > 1:
                print(f"start {starts} of job {job_id}", file=log, flush=True)
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a rank's own children are ended with it
                pass_fds=taken.files,  # devices are taken as long as a rank lives
                preexec_fn=_before_a_rank,
            )

    def _watch(self, job: Queued, running: Running) -> None:
        now, limit_min = time.monotonic(), self.settings.time_min
        codes = [task.poll() for task in running.tasks]
        failed = {code for code in codes if code}
        if None not in codes:
            running.taken.free()
            self._ended(job, running, failed)
            return
        if failed and running.ending is None:
            if failed <= LEFT:  # the others leave by themselves, as they agreed to
                running.ending = now + self.settings.signal_delay_s
            else:
                self._end(running, "FAILED")
        if limit_min is not None:
            left_s = running.started + 60 * limit_min - now
            if left_s <= self.settings.signal_delay_s:
                _warn(running)
            if left_s <= 0:
                self._end(running, "TIMEOUT")
        if running.ending is not None and now >= running.ending:
            _signal(running, signal.SIGKILL)

    def _end(self, running: Running, state: str) -> None:
        """Ends a job's ranks: SIGTERM now, SIGKILL if that does not do."""
        if running.state is None:
            running.state = state
            running.ending = time.monotonic() + KILL_WAIT_S
            _signal(running, signal.SIGTERM)

    def _ended(self, job: Queued, running: Running, failed: set[int]) -> None:
        job.running, job.where = None, ""
        if running.state is None and WARNED in failed and job.starts <= self.settings.requeue:
            job.state = "PENDING"
        elif running.state is None and WARNED in failed and running.warned:
            job.state = "TIMEOUT"
        elif failed or running.state == "CANCELLED":
            job.state = running.state or "FAILED"
        else:
            job.state = "COMPLETED"

    def _cancel_all(self, number: int, frame: Any) -> None:
        self.over = True


def _signal(running: Running, number: signal.Signals) -> None:
    for task in running.tasks:
        if task.poll() is None:
            with suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(task.pid, number)
                else:
                    task.send_signal(number)


def _warn(running: Running) -> None:
    """Sends USR2, once to every rank; one that still starts gets it when it listens."""
    for task in running.tasks:
        if task.pid not in running.warned and task.poll() is None and _listens(task.pid):
            running.warned.add(task.pid)
            task.send_signal(signal.SIGUSR2)


def _listens(pid: int) -> bool:
    """Whether USR2 is not ignored by a process; yes where the system does not tell."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        if ignored := re.search(r"^SigIgn:\s*([0-9a-f]+)", status, re.MULTILINE):
            return not int(ignored[1], 16) >> (signal.SIGUSR2 - 1) & 1
    return True


def _free_port() -> int:
    """A port for the ranks to meet at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _before_a_rank() -> None:
    """In a rank's process: no warning until it listens, and SIGTERM when the queue is killed."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    Queue(Path(sys.argv[1])).run()
