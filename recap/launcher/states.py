"""The state of jobs, from the queue and from what their ranks recorded.

Accounting (sacct) is not asked: many clusters have none, and it lags behind.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from recap.launcher import local, slurm
from recap.launcher.ends import DONE, ends
from recap.launcher.ends import FAILED as ENDED_BADLY
from recap.launcher.submission import Submission, now

PENDING, RUNNING, COMPLETED, FAILED = "PENDING", "RUNNING", "COMPLETED", "FAILED"
UNKNOWN = "UNKNOWN"  # the queue does not answer


@dataclass(frozen=True)
class State:
    """How a job stands."""

    name: str  # as SLURM calls it
    final: bool
    elapsed_s: float | None = None
    where: str = ""  # the nodes that it runs on, or why it waits

    @property
    def well(self) -> bool:
        """Whether it came to its end without a failure."""
        return self.name == COMPLETED


def states(submission: Submission) -> dict[str, State]:
    """Job id → state of every job of a submission."""
    queued = local.queue(submission) if submission.launcher == "local" else slurm.queue()
    return {job.id: _state(submission, job.id, queued) for job in submission.jobs}


def _state(submission: Submission, job_id: str, queued: dict[str, slurm.Entry] | None) -> State:
    found = ends(submission, job_id)
    failed = any(end.state == ENDED_BADLY for end in found.values())
    done = len(found) == submission.num_tasks and all(end.state == DONE for end in found.values())
    started = min((end.started for end in found.values()), default=None)
    elapsed_s = None
    if started is not None:
        ended = max((end.ended or 0.0 for end in found.values()), default=0.0)
        over = done or failed
        elapsed_s = (ended if over else now()) - started
    if queued is None:
        return State(UNKNOWN, False, elapsed_s)
    entry = queued.get(job_id)
    if entry is not None:
        final = entry.state in slurm.FINAL
        if final and entry.state == COMPLETED and failed:
            return State(FAILED, True, elapsed_s, entry.reason)
        return State(entry.state, final, elapsed_s, entry.reason)
    # the queue has forgotten it: what its ranks recorded is left
    return State(COMPLETED if done else FAILED, True, elapsed_s)


def clock(seconds: float | None) -> str:
    """hours:minutes:seconds, "" for None."""
    if seconds is None:
        return ""
    return f"{int(seconds // 3600)}:{time.strftime('%M:%S', time.gmtime(seconds))}"
