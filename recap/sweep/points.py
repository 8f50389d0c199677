"""The points of a sweep: composed before any is run, run where they are missing."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from recap import outcome
from recap.compose import Refused
from recap.compose.run_config import config_digest, read_config
from recap.outcome import Outcome

log = logging.getLogger(__name__)

MAX_TOLD = 5  # of the values that differ


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Args:
        overrides: of its job.
        told: those that tell it from the other points, for people.
        run_dir: the run's folder, absolute.
        config: digest of its composed config.
    """

    overrides: tuple[str, ...]
    told: str
    run_dir: Path
    config: str

    @property
    def outcome(self) -> Outcome | None:
        """What the point came to; None where it has not ended, or was another config's."""
        kept = outcome.read(self.run_dir)
        return kept if kept is not None and kept.config == self.config else None

    @property
    def has_result(self) -> bool:
        """Whether nothing is left to run: a run that came to no number would do so again."""
        return (kept := self.outcome) is not None and kept.status in ("finished", "not finite")

    @property
    def is_running(self) -> bool:
        """Whether a process trains in its folder, as one that a launcher has left in a queue."""
        lock = FileLock(self.run_dir / ".lock")
        if not self.run_dir.exists():
            return False
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False


def composed(
    loader: ConfigLoader, config: DictConfig, jobs: Sequence[Sequence[str]]
) -> list[Point]:
    """The points whose jobs have these overrides.

    Raises:
        Refused: with the faults of all that cannot be composed, and the folders that several share.
    """
    common = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    points, faults = [], []
    configs: list[DictConfig] = []
    for overrides in jobs:
        told = [o for o in overrides if o not in common and not o.startswith("hydra.")]
        try:
            cfg = loader.load_sweep_config(config, list(overrides))
        except CompactHydraException as error:
            faults += str(error).splitlines()
            continue
        configs.append(cfg)
        run_dir = Path(cfg.training.save_dir).absolute()
        points.append(Point(tuple(overrides), " ".join(told), run_dir, config_digest(cfg)))
    folders: dict[Path, list[Point]] = defaultdict(list)
    for point in points:
        folders[point.run_dir].append(point)
    for run_dir, sharing in folders.items():
        if len(sharing) > 1:
            shown = "; ".join(point.told for point in sharing[:MAX_TOLD])
            faults.append(
                f"training.save_dir={run_dir}: {len(sharing)} points of the sweep would train in "
                f"this folder ({shown}); hydra.sweep.dir=… names the folder of the sweep, in "
                "which each has its own"
            )
    if faults:
        raise Refused(list(dict.fromkeys(faults)))
    for point, cfg in zip(points, configs, strict=True):
        _tell_changes(point, cfg)
    return points


def launched(launcher: Launcher, points: Sequence[Point], first: int) -> list[Outcome | None]:
    """What the points come to as jobs, numbered from ``first``; None for one left in a queue.

    Raises:
        Refused: the launcher takes none of them.
    """
    for point in points:  # so that what is there afterwards is of this run
        outcome.remove(point.run_dir)
    jobs = launcher.launch([list(point.overrides) for point in points], initial_job_idx=first)
    return came_to(points, jobs)


def came_to(points: Sequence[Point], jobs: Sequence[JobReturn]) -> list[Outcome | None]:
    """What the points came to whose jobs a launcher has returned; None for one left in a queue."""
    return [_ended(point, job) for point, job in zip(points, jobs, strict=True)]


def _ended(point: Point, job: JobReturn) -> Outcome | None:
    kept = outcome.read(point.run_dir)
    if job.status != JobStatus.FAILED:
        return kept  # a launcher that does not wait returns before there is one
    error = job._return_value  # the property raises it
    if not isinstance(error, CompactHydraException) and isinstance(error, BaseException):
        log.error("%s", point.told, exc_info=error)
    message = outcome.message_of(error) if isinstance(error, BaseException) else str(error)
    if kept is None:
        return Outcome(status="failed", config=point.config, message=message)
    where = getattr(error, "where", "")  # of a job: its log
    told = [kept.message, where] if kept.status in ("failed", "not finite") else [kept.message]
    return replace(kept, message="\n".join(filter(None, told)))


def _tell_changes(point: Point, cfg: DictConfig) -> None:
    """Warns of a run that was made under other values than those it would go on with."""
    kept = outcome.read(point.run_dir)
    if kept is None or kept.config == point.config:
        return
    try:
        before = read_config(point.run_dir)
    except ValueError:
        return
    differing = _differing(before, cfg)
    told = ", ".join(differing[:MAX_TOLD]) + (", …" if len(differing) > MAX_TOLD else "")
    log.warning(
        "%s: its config has changed since it was last run%s; it goes on from its last checkpoint",
        point.run_dir,
        f" ({told})" if told else "",
    )


def _differing(before: DictConfig, now: DictConfig) -> list[str]:
    """``path: old → new`` of every value of two configs that differs."""
    old, new = (dict(_leaves(OmegaConf.to_container(cfg), "")) for cfg in (before, now))
    paths = [p for p in dict.fromkeys([*old, *new]) if not p.startswith(("hydra.", "tracking."))]
    none = "nothing"
    return [
        f"{path}: {old.get(path, none)} → {new.get(path, none)}"
        for path in paths
        if old.get(path, none) != new.get(path, none) and path != "training.save_dir"
    ]


def _leaves(node: object, path: str) -> list[tuple[str, object]]:
    if not isinstance(node, dict):
        return [(path, node)]
    return [
        leaf
        for key, value in node.items()
        for leaf in _leaves(value, f"{path}.{key}" if path else str(key))
    ]
