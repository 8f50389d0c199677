"""The run that stands for a whole sweep: made before its first job, closed with its outcome."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.config_loader import ConfigLoader
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recap import outcome
from recap.compose import Refused, nodes
from recap.distributed.launched import launched
from recap.launcher.waiting import Left
from recap.outcome import Outcome
from recap.sweep.points import Point
from recap.tracking import Tracker
from recap.tracking.provenance import without_passwords

log = logging.getLogger(__name__)

POINTS = "points.json"  # in the folder of a sweep that is open, see recap.sweep.closing


class PointFailed(RuntimeError):
    """What a point's run is recorded to have ended with, where it could not say so itself."""


@dataclass
class Parent:
    """The sweep's run while it is open, and what is recorded of it when its block ends.

    Args:
        config: of the sweep.
        tracker: that records it.
        status: "FINISHED" or "FAILED"; "RUNNING" for one whose jobs are left in a queue.
        tags: facts about the outcome.
        objective: the best point's.
    """

    config: DictConfig
    tracker: Tracker
    status: str = "FINISHED"
    tags: Mapping[str, str] = field(default_factory=dict)
    objective: float | None = None

    def record_failure(self, point: Point, came_to: Outcome | None, loader: ConfigLoader) -> None:
        """Records a point that failed before it had a run, or was killed, as failed.

        Nothing of one that has said it itself, or whose folder another process trains in.
        """
        if came_to is None or came_to.status != "failed" or outcome.read(point.run_dir):
            return
        cfg = loader.load_sweep_config(self.config, list(point.overrides))
        record_failure(cfg, self.tracker, point.run_dir, came_to)


def record_failure(cfg: DictConfig, tracker: Tracker, run_dir: Path, came_to: Outcome) -> None:
    """Records a sweep's run as failed that could not say so itself; ``cfg`` is its job's config.

    Nothing where another process trains in its folder.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return
    try:
        outcome.write(run_dir, came_to)
        run = tracker.run(
            run_dir,
            overrides=list(cfg.hydra.overrides.task),
            config_yaml=config_yaml(cfg),
            name=run_dir.name,
            parent=Path(cfg.hydra.sweep.dir).absolute(),
        )
        with suppress(PointFailed), run:
            raise PointFailed(came_to.message)
    except (OSError, ValueError) as error:
        log.warning("tracking: the failure of %s was not recorded: %s", run_dir, error)
    finally:
        lock.release()


def config_yaml(cfg: DictConfig) -> str:
    """A composed config without Hydra's section, as text; resolved where that is possible."""
    rest = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    try:
        return OmegaConf.to_yaml(rest, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_yaml(rest)


@contextmanager
def sweep_run(config: DictConfig) -> Iterator[Parent]:
    """The sweep's run, in a folder that no other process sweeps in meanwhile.

    Jobs find the run through the folder: ``tracker.run(…, parent=Path(hydra.sweep.dir))``; its
    database and experiment are there before the first job starts. After an error it is FAILED,
    after Ctrl-C KILLED, whatever the block has said; RUNNING where its jobs go on.

    Raises:
        Refused: another process sweeps here, or the tracking cannot be used.
    """
    try:
        process = launched()
    except ValueError as error:
        raise Refused([str(error)]) from error
    if process.world_size > 1:
        raise Refused(
            [
                f"{process.world_size} processes were started for this sweep: start it by one; "
                "hydra/launcher=… starts several for each of its runs"
            ]
        )
    sweep_dir = Path(config.hydra.sweep.dir).absolute()
    try:
        tracker = nodes.section(config, "tracking")
        sweep_dir.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        raise Refused(str(error).splitlines()) from error
    except OSError as error:
        raise Refused([f"hydra.sweep.dir={sweep_dir}: {error}"]) from error
    lock = FileLock(sweep_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise Refused(
            [
                f"hydra.sweep.dir={sweep_dir}: another process is running this sweep; wait for "
                "its end, or name another folder"
            ]
        ) from error
    try:
        (sweep_dir / "multirun.yaml").write_text(without_passwords(OmegaConf.to_yaml(config)))
        try:
            overrides = list(config.hydra.overrides.task)
            tracker.open_sweep(sweep_dir, overrides=overrides, config_yaml=config_yaml(config))
        except (ConnectionError, ValueError) as error:
            raise CompactHydraException(str(error)) from error
        parent = Parent(config, tracker)
        try:
            yield parent
        except Left:
            parent.status = "RUNNING"
            raise
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            parent.status = "KILLED" if stopped else "FAILED"
            raise
        finally:
            close(sweep_dir, parent)
    finally:
        lock.release()


def close(sweep_dir: Path, parent: Parent) -> None:
    """Records the sweep's outcome; only one that is RUNNING stays open for its last job."""
    if parent.status != "RUNNING":
        (sweep_dir / POINTS).unlink(missing_ok=True)
    try:
        parent.tracker.close_sweep(
            sweep_dir, status=parent.status, tags=parent.tags, objective=parent.objective
        )
    except ConnectionError as error:  # the sweep itself is done
        log.warning("tracking: the sweep's outcome %s was not stored: %s", parent.status, error)
