"""Every combination of the values that a command line lists, run where it is missing."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from recap.compose import Refused
from recap.outcome import Outcome
from recap.sweep.parent import Parent, sweep_run
from recap.sweep.points import Point, composed, launched
from recap.sweep.table import Results, best_first, direction, sweep_table

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

    A point that fails stops no other.

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
    with sweep_run(config) as parent:
        found: dict[Point, Outcome | None] = {}
        found |= {point: point.outcome for point in points if point.has_result}
        num_results = len(found)
        found |= {point: None for point in points if point not in found and point.is_running}
        missing = [point for point in points if point not in found]
        log.info(
            "%d points, of which %d have a result and %d are running",
            len(points),
            num_results,
            len(points) - num_results - len(missing),
        )
        size = max_batch_size or max(1, len(missing))
        for first in range(0, len(missing), size):
            batch = missing[first : first + size]
            found |= dict(zip(batch, launched(launcher, batch, first), strict=True))
            for point in batch:
                parent.record_failure(point, found[point], loader)
        results = {point: found[point] for point in points}
        objective = config.training.objective
        wanted = direction(objective) if objective else None
        sweep_dir = Path(config.hydra.sweep.dir).absolute()
        log.info("\n%s", sweep_table(results, sweep_dir, objective, wanted))
        record(parent, results, wanted)
    if parent.status == "FAILED":
        raise SystemExit(1)


def record(parent: Parent, results: Results, wanted: str | None) -> None:
    """Notes the outcome of a sweep: its status, how many points ended how, the best of them."""
    statuses = ["not ended" if o is None else o.status for o in results.values()]
    tags = {
        f"points.{s.replace(' ', '_')}": str(statuses.count(s)) for s in dict.fromkeys(statuses)
    }
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


def _measured(came_to: Outcome) -> bool:
    value = came_to.objective
    return came_to.status == "finished" and value is not None and math.isfinite(value)
