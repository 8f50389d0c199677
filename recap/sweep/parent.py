"""The run that stands for a whole sweep: made before its first job, closed with its outcome."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from recap import nodes
from recap.compose import Refused
from recap.distributed.launched import launched
from recap.tracking.provenance import without_passwords

log = logging.getLogger(__name__)


@dataclass
class Parent:
    """What is recorded of a sweep when its block ends.

    Args:
        status: "FINISHED" or "FAILED"; "RUNNING" for one whose jobs are left in a queue.
        tags: facts about the outcome.
        objective: the best point's.
    """

    status: str = "FINISHED"
    tags: Mapping[str, str] = field(default_factory=dict)
    objective: float | None = None


@contextmanager
def sweep_run(config: DictConfig) -> Iterator[Parent]:
    """The sweep's run, in a folder that no other process sweeps in meanwhile.

    Jobs find the run through the folder: ``tracker.run(…, parent=Path(hydra.sweep.dir))``; its
    database and experiment are there before the first job starts. After an error it is FAILED,
    after Ctrl-C KILLED, whatever the block has said.

    Raises:
        Refused: another process sweeps here, or the tracking cannot be used.
    """
    if (process := launched()).world_size > 1:
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
        config_yaml = OmegaConf.to_yaml(
            OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
        )
        (sweep_dir / "multirun.yaml").write_text(without_passwords(OmegaConf.to_yaml(config)))
        try:
            overrides = list(config.hydra.overrides.task)
            tracker.open_sweep(sweep_dir, overrides=overrides, config_yaml=config_yaml)
        except (ConnectionError, ValueError) as error:
            raise CompactHydraException(str(error)) from error
        parent = Parent()
        try:
            yield parent
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            parent.status = "KILLED" if stopped else "FAILED"
            raise
        finally:
            _close(tracker, sweep_dir, parent)
    finally:
        lock.release()


def _close(tracker: object, sweep_dir: Path, parent: Parent) -> None:
    try:
        tracker.close_sweep(  # type: ignore[attr-defined]
            sweep_dir, status=parent.status, tags=parent.tags, objective=parent.objective
        )
    except ConnectionError as error:  # the sweep itself is done
        log.warning("tracking: the sweep's outcome %s was not stored: %s", parent.status, error)
