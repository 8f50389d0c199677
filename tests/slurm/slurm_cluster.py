"""A SLURM of two nodes on this machine, for as long as a process of the tests uses it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")
SUPERVISOR = Path(__file__).with_name("slurm_supervisor.py")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
# Debian keeps daemons where only root's PATH looks
PATH = f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"


def missing() -> str:
    """Why no cluster can be started here; "" where one can."""
    lacks = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    return f"no SLURM here ({', '.join(lacks)}): apt-get install slurm-wlm munge" if lacks else ""


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process uses; it runs for as long as anyone does."""

    folder: Path
    lock: int  # file descriptor: shared lock of the folder

    @classmethod
    def started(cls) -> Cluster:
        """A new one. Three attempts, since another process may take a port that was free."""
        for attempt in (1, 2, 3):
            folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # sockets: 107 bytes
            lock = _locked(folder)
            with (folder / "supervisor.log").open("w") as log:
                # a session of its own: what ends the tests' process group must not end it
                subprocess.run(
                    [sys.executable, SUPERVISOR, folder],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    check=True,
                )
            wait_for(partial(_decided, folder), "SLURM to start", seconds=120)
            if (folder / "ready").exists():
                return cls(folder, lock)
            said = "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.log")))
            os.close(lock)
            shutil.rmtree(folder)
            if attempt == 3:
                raise RuntimeError(f"SLURM does not start:\n{said}")
        raise AssertionError

    @classmethod
    def joined(cls, folder: Path) -> Cluster | None:
        """The cluster of that folder; None if it has ended."""
        try:
            cluster = cls(folder, _locked(folder))
        except OSError:
            return None
        if (folder / "ready").exists() and cluster.run("scontrol", "ping").returncode == 0:
            return cluster
        cluster.leave()
        return None

    def leave(self) -> None:
        """Without users the cluster ends within a second, with all its jobs."""
        os.close(self.lock)

    @property
    def environment(self) -> dict[str, str]:
        """For any command of SLURM."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": PATH}

    def run(self, *command: object, **options) -> subprocess.CompletedProcess[str]:
        """A command with this cluster's SLURM, to its end."""
        environment = {**os.environ, **options.pop("env", {}), **self.environment}
        return subprocess.run(
            [str(word) for word in command],
            env=environment,
            text=True,
            capture_output=True,
            timeout=120,
            **options,
        )

    def preempt(self) -> None:
        """Has a job of the other partition take all nodes for a moment."""
        options = ("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null")
        assert self.run("sbatch", *options, "--wrap=true").returncode == 0

    def jobs(self) -> list[str]:
        """Ids of the jobs that have not ended."""
        return self.run("squeue", "--noheader", "--array", "--format=%A").stdout.split()

    def shown(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says, field by field; a job is known for minutes more."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job)
        assert shown.returncode == 0, shown.stderr
        return dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)

    def state(self, job: str) -> str:
        """RUNNING, COMPLETED, …"""
        return self.shown(job)["JobState"]

    def cleared(self) -> None:
        """Returns once no job is left: those of a test that failed are cancelled."""
        wait_for(lambda: not self._cancelled(), "the jobs to end", seconds=60)

    def _cancelled(self) -> list[str]:
        """Ids of the jobs that had not ended; again and again, since one may queue itself again."""
        if jobs := self.jobs():
            self.run("scancel", *jobs)
            self.run("scancel", "--signal=KILL", *jobs)
        return jobs


def wait_for(condition: Callable[[], Found], what: str, *, seconds: float) -> Found:
    """What ``condition`` says as soon as it says anything.

    Raises:
        TimeoutError: it has not for so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.1)
    return value


def _decided(folder: Path) -> bool:
    """The supervisor has said whether the cluster runs."""
    return (folder / "ready").exists() or (folder / "failed").exists()


def _locked(folder: Path) -> int:
    """A file descriptor that holds the folder's shared lock.

    Raises:
        OSError: the supervisor holds it alone, since nobody else did, or there is no such folder.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
