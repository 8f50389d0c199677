"""Waiting for jobs: a line when one starts, is queued again or ends, and how all of them ended."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from recap.launcher.ends import ends, first_failure
from recap.launcher.states import RUNNING, State, clock, states
from recap.launcher.submission import Job, Submission

FIRST_POLL_S, LONGEST_POLL_S = 0.5, 10.0


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    job: Job
    state: str
    well: bool
    log: Path  # of the rank that failed first, or of rank 0
    error: str | None  # that rank's


def told(submission: Submission) -> str:
    """What a person needs to find the jobs again: ids, run folders, logs, and what to type."""
    lines = [f"{len(submission.jobs)} jobs:" if len(submission.jobs) > 1 else "1 job:"]
    for job in submission.jobs:
        lines += [f"  {job.id}  {job.run_dir}", f"    log: {submission.log_file(job.id, 0)}"]
        if submission.num_tasks > 1:
            lines[-1] += f" (rank 0 of {submission.num_tasks})"
    return "\n".join([*lines, _commands(submission)])


def wait(submission: Submission) -> list[Outcome]:
    """Waits until every job has ended, and reports on the way.

    Raises:
        KeyboardInterrupt: Ctrl-C; the jobs go on.
    """
    before: dict[str, State] = {}
    poll_s = FIRST_POLL_S
    try:
        while True:
            found = states(submission)
            changed = _report(submission, before, found)
            before = found
            if all(state.final for state in found.values()):
                return [_outcome(submission, job, found[job.id]) for job in submission.jobs]
            # long jobs need no close look: a squeue of many users is load on the controller
            poll_s = FIRST_POLL_S if changed else min(LONGEST_POLL_S, 1.2 * poll_s)
            time.sleep(poll_s)
    except KeyboardInterrupt:
        print(f"\nThe jobs go on.\n{_commands(submission)}", flush=True)
        raise


def _report(submission: Submission, before: dict[str, State], found: dict[str, State]) -> bool:
    changed = False
    over = sum(state.final for state in found.values())
    for job in submission.jobs:
        old, new = before.get(job.id), found[job.id]
        if (old is None or old.name != new.name) and (new.final or new.name == RUNNING):
            changed = True
            if new.final:
                after = f" after {clock(new.elapsed_s)}" if new.elapsed_s is not None else ""
                print(f"job {job.id} {new.name}{after}, {over} of {len(found)} over: {job.name}")
            else:
                print(f"job {job.id} runs on {new.where}: {job.name}", flush=True)
        elif old is not None and old.name == RUNNING and new.name != RUNNING:
            changed = True
            print(f"job {job.id} {new.name} again: {job.name}", flush=True)
    return changed


def _outcome(submission: Submission, job: Job, state: State) -> Outcome:
    failure = first_failure(ends(submission, job.id))
    rank, error = (0, None) if failure is None else (failure[0], failure[1].error)
    return Outcome(job, state.name, state.well, submission.log_file(job.id, rank), error)


def _commands(submission: Submission) -> str:
    root = submission.folder.parent.parent
    job_id = submission.jobs[0].id.split("_")[0]
    first = submission.jobs[0].id
    return (
        f"follow: python -m recap.jobs follow {first} --runs {root}\n"
        f"cancel: python -m recap.jobs cancel {job_id} --runs {root}"
    )
