"""Waiting for jobs: a line when one starts, is queued again or ends, and how all of them ended."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recap.launcher.ends import ends, failure
from recap.launcher.states import RUNNING, State, clock, states
from recap.launcher.submission import Job, Submission

FIRST_POLL_S, LONGEST_POLL_S = 0.5, 10.0


Found = tuple[Submission, Job]


class Left(SystemExit):
    """Ctrl-C while jobs were waited for: they go on.

    Args:
        code: of the process that leaves.
        returned: what the launcher would return of jobs that it does not wait for.
    """

    def __init__(self, code: int, returned: Sequence[Any]) -> None:
        super().__init__(code)
        self.returned = returned


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    job: Job
    state: str
    well: bool
    value: Any  # what rank 0 returned
    log: Path  # of the rank that failed first, or of rank 0
    error: str | None  # that rank's


def told(jobs: Iterable[Found]) -> str:
    """What a person needs to find jobs again: ids, run folders, logs, and what to type."""
    lines, commands = [], {}
    for submission, job in jobs:
        ranks = f" (rank 0 of {submission.num_tasks})" if submission.num_tasks > 1 else ""
        lines.append(f"job {job.id}: {job.run_dir}")
        lines.append(f"  log: {submission.log_file(job.id, 0)}{ranks}")
        commands[submission.folder] = f"follow: {following(submission)}\n{cancelling(submission)}"
    return "\n".join([*lines, *commands.values()])


def following(submission: Submission) -> str:
    """The command that follows the first job."""
    return _command("follow", submission.jobs[0].id, submission)


def cancelling(submission: Submission) -> str:
    """The command that cancels all jobs, with what it does before it."""
    return f"cancel: {_command('cancel', submission.jobs[0].id.split('_')[0], submission)}"


def _command(name: str, job_id: str, submission: Submission) -> str:
    place = shlex.quote(str(submission.folder.parent.parent))
    return f"python -m recap.jobs {name} {job_id} --runs {place}"


def wait(jobs: Sequence[Found]) -> list[Outcome]:
    """Waits until every job has ended, and reports on the way.

    Raises:
        KeyboardInterrupt: Ctrl-C; the jobs go on.
    """
    before: dict[str, State] = {}
    poll_s = FIRST_POLL_S
    try:
        while True:
            found = {}
            for submission in {submission.folder: submission for submission, _ in jobs}.values():
                found |= states(submission)
            found = {job.id: found[job.id] for _, job in jobs}
            changed = _report([job for _, job in jobs], before, found)
            before = found
            if all(state.final for state in found.values()):
                return [_outcome(*each, found[each[1].id]) for each in jobs]
            # long jobs need no close look: a squeue of many users is load on the controller
            poll_s = FIRST_POLL_S if changed else min(LONGEST_POLL_S, 1.2 * poll_s)
            time.sleep(poll_s)
    except KeyboardInterrupt:
        print(f"\nThe jobs go on; the same command waits for them again.\n{told(jobs)}", flush=True)
        raise


def _report(jobs: Sequence[Job], before: dict[str, State], found: dict[str, State]) -> bool:
    """Prints what has changed; whether anything has."""
    lines = []
    over = sum(state.final for state in found.values())
    for job in jobs:
        old, new = before.get(job.id), found[job.id]
        if old is not None and old.name == new.name:
            continue
        if new.final:
            after = f" after {clock(new.elapsed_s)}" if new.elapsed_s is not None else ""
            lines.append(f"job {job.id} {new.name}{after}, {over} of {len(jobs)} over: {job.name}")
        elif new.name == RUNNING:
            lines.append(f"job {job.id} runs on {new.where}: {job.name}")
        elif old is not None and old.name == RUNNING:
            lines.append(f"job {job.id} {new.name} again: {job.name}")
    if lines:
        print("\n".join(lines), flush=True)
    return bool(lines)


def _outcome(submission: Submission, job: Job, state: State) -> Outcome:
    found = ends(submission, job.id)
    rank, error = (0, None) if state.well else failure(found) or (0, None)
    value = found[0].value if 0 in found else None
    return Outcome(job, state.name, state.well, value, submission.log_file(job.id, rank), error)
