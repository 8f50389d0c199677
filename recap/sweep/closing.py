"""The end of a sweep's run, also where nobody waits for the jobs: the last of them closes it.

While its jobs may still end, ``points.json`` in the sweep's folder says which they are. Who waits
holds the folder's lock, and closes the sweep itself; behind a command that has left, every job that
ends looks whether it was the last, and so does ``python -m recap.jobs`` for those that were killed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from filelock import FileLock, Timeout
from hydra.types import RunMode
from omegaconf import DictConfig

from recap import outcome
from recap.compose import nodes
from recap.launcher.states import states
from recap.launcher.submission import submissions_of
from recap.outcome import Outcome, Status
from recap.sweep.parent import POINTS, Parent, close, record_failure
from recap.sweep.points import Point
from recap.sweep.table import Results, best_first, direction


def record(parent: Parent, results: Results, wanted: str | None) -> None:
    """Notes the outcome of a sweep: its status, how many points ended how, the best of them."""
    statuses = ["not ended" if o is None else o.status for o in results.values()]
    # also of those that there are none of: the sweep may have been recorded before
    every = (*get_args(Status), "not ended")
    tags = {f"points.{s.replace(' ', '_')}": str(statuses.count(s)) for s in every}
    if "not ended" in statuses:
        parent.status = "RUNNING"
    elif "failed" in statuses or not {"finished", "pruned"} & set(statuses):
        parent.status = "FAILED"
    best = next(iter(best_first(results, wanted)), None)
    came_to = None if best is None else results[best]
    if wanted and best and came_to and _measured(came_to):
        tags |= {"best.overrides": best.told, "best.run": str(best.run_dir)}
        parent.objective = came_to.objective
    parent.tags = tags


def keep_points(sweep_dir: Path, points: Sequence[Point]) -> None:
    """Keeps which points the sweep has, until its run is closed; a crash leaves no half of them."""
    rows = [
        {
            "overrides": list(point.overrides),
            "told": point.told,
            "run_dir": os.path.relpath(point.run_dir, sweep_dir),
            "config": point.config,
        }
        for point in points
    ]
    aside = sweep_dir / f".{POINTS}.tmp"
    aside.write_text(json.dumps(rows, indent=1))
    aside.replace(sweep_dir / POINTS)


def in_queue(sweep_dir: Path) -> set[Path]:
    """The folders of the runs whose jobs, of this sweep, wait or run."""
    return {run_dir for run_dir, (final, _) in _jobs(sweep_dir).items() if not final}


def job_ended(config: DictConfig, error: BaseException | None) -> None:
    """Keeps the failure of a sweep's job that had no run yet, and closes the sweep as its last."""
    if config.hydra.mode != RunMode.MULTIRUN:
        return
    sweep_dir = Path(config.hydra.sweep.dir).absolute()
    run_dir = Path(config.training.save_dir).absolute()
    came_to = outcome.read(run_dir)
    status = outcome.status_of(error) if came_to is None else came_to.status
    if status == "stopped":  # it may return
        return
    for point in _points(sweep_dir):
        if point.run_dir == run_dir and came_to is None and error is not None:
            failed = Outcome(
                status="failed", config=point.config, message=outcome.message_of(error)
            )
            record_failure(config, nodes.section(config, "tracking"), run_dir, failed)
    close_if_over(sweep_dir, config)


def close_if_over(sweep_dir: Path, config: DictConfig) -> str | None:
    """Closes the run of a sweep that nobody waits for, if all its points have come to an end.

    A job that has left the queue without a word was killed: its point has failed. The config is
    any of the sweep's. Returns the status that was recorded, None where there is nothing to close.
    """
    if not (sweep_dir / POINTS).exists():
        return None
    # one looks at a time, so that of two that end at once the later one sees the other's outcome
    with FileLock(sweep_dir / ".closing.lock"):
        lock = FileLock(sweep_dir / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        try:
            results = _results(sweep_dir)
            if not results or None in results.values():
                return None
            parent = Parent(config, nodes.section(config, "tracking"))
            objective = config.training.objective
            record(parent, results, direction(objective) if objective else None)
            close(sweep_dir, parent)
            return parent.status
        finally:
            lock.release()


def _points(sweep_dir: Path) -> list[Point]:
    try:
        rows = json.loads((sweep_dir / POINTS).read_text())
    except FileNotFoundError:
        return []
    return [
        Point(
            tuple(row["overrides"]),
            row["told"],
            Path(os.path.normpath(sweep_dir / row["run_dir"])),
            row["config"],
        )
        for row in rows
    ]


def _results(sweep_dir: Path) -> dict[Point, Outcome | None]:
    """What the points came to; None for one that has not ended, or may return."""
    jobs = _jobs(sweep_dir)
    results: dict[Point, Outcome | None] = {}
    for point in _points(sweep_dir):
        came_to = point.outcome
        final, told = jobs.get(point.run_dir, (False, ""))
        if came_to is None and final:
            came_to = Outcome(status="failed", config=point.config, message=told)
        elif came_to is not None and came_to.status == "stopped" and not final:
            came_to = None
        results[point] = came_to
    return results


def _jobs(sweep_dir: Path) -> Mapping[Path, tuple[bool, str]]:
    """Folder of a run → whether its latest job is over, and what to say of that."""
    found = {}
    for submission in submissions_of(sweep_dir):
        known = states(submission)
        for job in submission.jobs:
            if job.id:
                state = known[job.id]
                told = f"job {job.id} {state.name}, {submission.log_file(job.id, 0)}"
                found[Path(job.run_dir)] = (state.final, told)
    return found


def _measured(came_to: Outcome) -> bool:
    value = came_to.objective
    return came_to.status == "finished" and value is not None and math.isfinite(value)
