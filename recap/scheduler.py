"""The SLURM job that this process belongs to: its notice before an end, and its way back.

SLURM warns of a preemption or of the time limit by a signal (``--signal=USR2@SECONDS``), and says
``scancel`` by SIGTERM. After the first a run is to be queued again, after the other it is not.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

# set by recap's launcher; a batch script of one's own may export them, too
SIGNAL_DELAY = "RECAP_SIGNAL_DELAY_S"  # seconds between the warning and the end
REQUEUES = "RECAP_REQUEUE"  # how often the job may be queued again

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
# a batch script's own word for its notice; a shell that is signalled (B:) is not this process
_SIGNAL_OPTION = re.compile(r"^#SBATCH\s+--signal[=\s]R?:?[A-Z0-9]+@(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Fate:
    """What becomes of a job whose run has been saved."""

    returns: bool  # whether SLURM starts it again
    why: str


@dataclass(frozen=True)
class Job:
    """A job of SLURM, seen from one of its processes.

    Args:
        name: as scontrol and scancel call it: ``12``, or a single task of an array ``12_3``.
        restarts: how often it was started before.
        requeues: how often it may be queued again; None: as often as need be.
        delay_s: seconds from its warning to its end, where its environment states them.
    """

    name: str
    restarts: int = 0
    requeues: int | None = None
    delay_s: float | None = None

    def signal_delay_s(self) -> float | None:
        """Seconds from SLURM's warning to the end; None where neither job nor script state them."""
        if self.delay_s is not None:
            return self.delay_s
        # of an option on sbatch's own command line nothing can be asked
        stated = _SIGNAL_OPTION.search(_said("write", "batch_script", self.name, "-")[0])
        return None if stated is None else float(stated[1])

    def after(self, came: signal.Signals) -> Fate:
        """Queues the job again if that is what the signal asks for; by one process, after the save.

        SLURM ends this very job as it takes it back, so all its processes should be about to leave.
        """
        seen, fault = _fields(self.name)
        if fault:
            return Fate(False, f"job {self.name} cannot be queued again: {fault}")
        if int(seen.get("Restarts", 0)) > self.restarts:
            return Fate(True, f"SLURM has queued job {self.name} again")
        # of a job that ends, SLURM says why for the time limit alone
        over_time = seen.get("Reason") == "TimeLimit" or seen["JobState"] == "TIMEOUT"
        if seen["JobState"] not in ("RUNNING", "SUSPENDED") and not over_time:
            return Fate(False, f"job {self.name} was cancelled, so it is not queued again")
        preempted = seen.get("PreemptTime", "None") != "None"
        if came not in WARNINGS and not (over_time or preempted):
            return Fate(
                False, f"{came.name} came from no scheduler, so job {self.name} is not queued again"
            )
        return self._requeued(seen)

    def _requeued(self, seen: Mapping[str, str]) -> Fate:
        if reason := self._bar(seen):
            return Fate(False, f"job {self.name} is not queued again: {reason}")
        _, fault = _said("requeue", self.name)
        if fault:
            return Fate(False, f"job {self.name} cannot be queued again: {fault}")
        of = "" if self.requeues is None else f" of at most {self.requeues}"
        return Fate(True, f"job {self.name} is queued again, restart {self.restarts + 1}{of}")

    def _bar(self, seen: Mapping[str, str]) -> str:
        if self.requeues is not None and self.restarts >= self.requeues:
            return (
                f"it was restarted {self.restarts} times, and launcher.requeue={self.requeues} "
                "allows no more; the same command continues the run"
            )
        if seen.get("BatchFlag") == "0":
            return "only a job of sbatch can be"
        if seen.get("Requeue") == "0":
            return "it was submitted with --no-requeue; submit it with --requeue"
        return ""


def job(environment: Mapping[str, str] = os.environ) -> Job | None:
    """The job that this process belongs to; None outside SLURM.

    Raises:
        ValueError: a variable that recap reads holds no number.
    """
    if "SLURM_JOB_ID" not in environment:
        return None
    name = environment["SLURM_JOB_ID"]
    if "SLURM_ARRAY_TASK_ID" in environment:
        # the number of one of its tasks is also that of the whole array
        name = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    requeues, delay_s = (_number(environment, key) for key in (REQUEUES, SIGNAL_DELAY))
    return Job(name, int(environment.get("SLURM_RESTART_COUNT", 0)), requeues, delay_s)


def _number(environment: Mapping[str, str], key: str) -> int | None:
    stated = environment.get(key)
    if stated is not None and not stated.isdigit():
        raise ValueError(f"{key}={stated}: must be a whole number, 0 or more")
    return None if stated is None else int(stated)


def _fields(name: str) -> tuple[dict[str, str], str]:
    """What SLURM knows of a job, by its names for it; or why that is not known."""
    text, fault = _said("--oneliner", "show", "job", name)
    fields = dict(word.split("=", 1) for word in text.split() if "=" in word)
    return fields, fault or ("" if "JobState" in fields else f"scontrol says {text!r}")


def _said(*arguments: str) -> tuple[str, str]:
    """What scontrol prints, and what is wrong if it fails."""
    command: Sequence[str] = ("scontrol", *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"{' '.join(command)}: {error}"
    if done.returncode != 0:
        return "", f"{' '.join(command)}: {done.stderr.strip() or done.returncode}"
    return done.stdout, ""
