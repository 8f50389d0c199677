"""How a run ends, noted for those who started it; see ``recap.outcome``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from omegaconf import DictConfig

from recap import outcome
from recap.compose.run_config import config_digest
from recap.outcome import Outcome

log = logging.getLogger(__name__)


class Counted(Protocol):
    """What counts the updates of a run."""

    step: int


@dataclass
class CameTo:
    """What a run tells of itself on the way."""

    at: Counted | None = None
    objective: float | None = None
    message: str = ""  # why the objective is no number


@contextmanager
def outcome_kept(run_dir: Path, cfg: DictConfig, *, first: bool = True) -> Iterator[CameTo]:
    """Keeps the outcome of the block in the run's folder; removes that of the time before.

    Args:
        run_dir: of the run, there already.
        cfg: that it runs with.
        first: whether this process is the one of the run that writes.
    """
    came_to = CameTo()
    if not first:
        yield came_to
        return
    outcome.remove(run_dir)
    config = config_digest(cfg)
    try:
        yield came_to
    except BaseException as error:
        _write(run_dir, came_to, config, error)
        raise
    _write(run_dir, came_to, config, None)


def _write(run_dir: Path, came_to: CameTo, config: str, error: BaseException | None) -> None:
    ended = Outcome(
        status=outcome.status_of(error),
        config=config,
        step=None if came_to.at is None else came_to.at.step,
        objective=came_to.objective,
        message=came_to.message if error is None else outcome.message_of(error),
    )
    try:
        outcome.write(run_dir, ended)
    except OSError as fault:  # a full disk, which is no reason to hide how the run ended
        log.warning("%s: the run's outcome, %s, was not kept: %s", run_dir, ended.status, fault)
