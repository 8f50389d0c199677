"""What the points of a sweep came to, best first, as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from recap.outcome import Outcome
from recap.sweep.points import Point

Direction = Literal["minimize", "maximize"]
Results = Mapping[Point, Outcome | None]  # None: in a queue, or running


def direction(objective: str) -> Direction | None:
    """ "minimize" or "maximize", as the metric asks; None for one that has no better side."""
    metric = objective.rsplit("/", 1)[-1]
    known: dict[str, Direction] = {"log_loss": "minimize"}
    known |= dict.fromkeys(("auroc", "rce", "nrce"), "maximize")
    return known.get(metric)


def best_first(results: Results, wanted: str | None) -> list[Point]:
    """The points by their objective; those without one behind, in their own order."""

    def key(point: Point) -> tuple[int, float]:
        came_to = results[point]
        if came_to is None or came_to.status != "finished":
            return 2, 0.0
        if came_to.objective is None or not math.isfinite(came_to.objective):
            return 1, 0.0
        return 0, {"maximize": -1, "minimize": 1}.get(wanted or "", 0) * came_to.objective

    return sorted(results, key=key)


def sweep_table(results: Results, sweep_dir: Path, objective: str | None, best: str | None) -> str:
    """A line per point, best first, and below the messages of all that failed.

    Args:
        objective: the metric's name.
        best: "minimize" or "maximize"; None leaves the points in their order.
    """
    points = best_first(results, best)
    rows = [("", "status", objective or "objective", "run")]
    for place, point in enumerate(points, 1):
        came_to = results[point]
        status = "not ended" if came_to is None else came_to.status
        value = None if came_to is None else came_to.objective
        run = f"{point.told}{_folder(point, sweep_dir)}"
        rows.append((str(place), status, "–" if value is None else f"{value:.5f}", run))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{row[0]:>{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}"
        for row in rows
    ]
    lines += _messages(results, points)
    return "\n".join([f"sweep: {sweep_dir}", *lines])


def _messages(results: Results, points: Sequence[Point]) -> list[str]:
    lines = []
    for point in points:
        came_to = results[point]
        if came_to is not None and came_to.message:
            lines += ["", f"{came_to.status}: {point.told}"]
            lines += [f"    {line}" for line in came_to.message.splitlines()]
    return lines


def _folder(point: Point, sweep_dir: Path) -> str:
    """The run's folder, unless its name tells no more than the overrides do."""
    run_dir = point.run_dir
    if run_dir.parent == sweep_dir:
        return "" if run_dir.name == ",".join(point.told.split()) else f"  {run_dir.name}"
    return f"  {run_dir}"
