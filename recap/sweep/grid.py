"""Every combination of the values that a command line lists, run where it is missing."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from recap.compose import LAUNCHERS, Refused
from recap.launcher.waiting import Left
from recap.outcome import Outcome
from recap.sweep.closing import close_if_over, in_queue, keep_points, record
from recap.sweep.parent import Parent, sweep_run
from recap.sweep.points import Point, came_to, composed, launched
from recap.sweep.table import direction, sweep_table

log = logging.getLogger(__name__)


def combinations(loader: ConfigLoader, overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every job of a sweep over these.

    Raises:
        Refused: values that cannot be listed, as those of an interval.
    """
    values: dict[str, list[str]] = {}
    faults = []
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)):
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [str(override.input_line)]  # as it was written, which names folders
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            faults.append(
                f"{override.input_line}: an interval has no list of values; search in it with "
                "hydra/sweeper=optuna, or list values as a,b,c or range(start,stop,step)"
            )
    if faults:
        raise Refused(faults)
    return [list(job) for job in itertools.product(*values.values())]


def sweep(
    config: DictConfig,
    loader: ConfigLoader,
    launcher: Launcher,
    overrides: Sequence[str],
    max_batch_size: int | None,
) -> None:
    """Runs what is missing of the sweep and prints what all points came to, best first.

    A point that fails stops no other, nor does one whose config is refused: where a launcher queues
    the points, all faults are told before it does, and the others are queued. Points in its queue
    already are waited for. With ``launcher.detach``, or after Ctrl-C, the last job closes the
    sweep's run; see ``recap.sweep.closing``.

    Raises:
        Refused: before anything is run; see ``composed`` and ``sweep_run``.
        SystemExit: with 1, where a point failed by an error or none came to its end.
    """
    if max_batch_size is not None and not (isinstance(max_batch_size, int) and max_batch_size > 0):
        raise Refused(
            [f"hydra.sweeper.max_batch_size={max_batch_size}: must be 1 or more, or null"]
        )
    points = composed(loader, config, combinations(loader, overrides))
    if config.hydra.launcher.get("preview"):  # shows what is missing, and changes nothing
        missing = [list(point.overrides) for point in points if not point.has_result]
        launcher.launch(missing, initial_job_idx=0)
        return
    sweep_dir = Path(config.hydra.sweep.dir).absolute()
    try:
        with sweep_run(config) as parent:
            _run(config, loader, launcher, points, max_batch_size, parent)
    finally:
        close_if_over(sweep_dir, config)  # what ended while this process was about to leave
    if parent.status == "FAILED":
        raise SystemExit(1)


def _run(
    config: DictConfig,
    loader: ConfigLoader,
    launcher: Launcher,
    points: Sequence[Point],
    max_batch_size: int | None,
    parent: Parent,
) -> None:
    sweep_dir = Path(config.hydra.sweep.dir).absolute()
    keep_points(sweep_dir, points)
    queued = in_queue(sweep_dir)
    if str(config.hydra.launcher._target_).startswith(LAUNCHERS):
        waited_for, elsewhere = queued, set()  # by the launcher, which queues none of them again
    else:
        waited_for, elsewhere = set(), queued
    found: dict[Point, Outcome | None] = {}
    found |= {point: point.outcome for point in points if point.has_result}
    num_results = len(found)
    for point in points:
        away = point.is_running or point.run_dir in elsewhere
        if point not in found and away and point.run_dir not in waited_for:
            found[point] = None
    missing = [point for point in points if point not in found]
    log.info(
        "%d points, of which %d have a result and %d are running",
        len(points),
        num_results,
        len(points) - num_results - len(missing),
    )
    size = max_batch_size or max(1, len(missing))
    for first in range(0, len(missing), size):
        # a job that was in the queue a moment ago may have come to its end
        over = {p: p.outcome for p in missing[first : first + size] if p.has_result}
        found |= over
        batch = [point for point in missing[first : first + size] if point not in over]
        try:
            ended, left = launched(launcher, batch, first), None
        except Left as error:
            ended, left = came_to(batch, error.returned), error
        found |= dict(zip(batch, ended, strict=True))
        for point in batch:
            parent.record_failure(point, found[point], loader)
        if left is not None and first + size < len(missing):
            raise SystemExit(left.code)  # nobody is left who queues the rest
        if left is not None:
            raise left
    results = {point: found[point] for point in points}
    objective = config.training.objective
    wanted = direction(objective) if objective else None
    log.info("\n%s", sweep_table(results, sweep_dir, objective, wanted))
    record(parent, results, wanted)
