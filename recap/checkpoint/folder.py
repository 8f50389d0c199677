"""The folders of a run's checkpoints: what they are called, which are there, how they go."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8,})")


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, or does not fit what it is loaded into."""


def of_step(save_dir: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lies once it is whole."""
    return save_dir / "checkpoints" / f"step-{step:08d}"


def aside(checkpoint: Path) -> Path:
    """Where ``checkpoint`` lies while it is written."""
    return checkpoint.with_name(f".writing-{checkpoint.name}")


def latest(save_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run, None where there is none."""
    return (list(by_step(save_dir).values()) or [None])[-1]


def by_step(save_dir: Path) -> dict[int, Path]:
    """The whole checkpoints of a run by their step, oldest first."""
    folder = save_dir / "checkpoints"
    if not folder.is_dir():
        return {}
    named = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted((int(name[1]), path) for name, path in named if name))


def find(path: Path) -> Path:
    """The checkpoint that ``path`` names: the folder of a checkpoint, or of a run for its newest.

    Raises:
        CheckpointError: there is none.
    """
    found = path if (path / "manifest.json").is_file() else latest(path)
    if found is None:
        raise CheckpointError(
            f"{path} is neither a checkpoint nor the folder of a run that has one"
        )
    return found


def clear_left_overs(save_dir: Path) -> None:
    """Removes what a kill in the middle of a save or of a removal left."""
    for left_over in (save_dir / "checkpoints").glob(".*-step-*"):
        shutil.rmtree(left_over, ignore_errors=True)


def prune(save_dir: Path, max_to_keep: int) -> None:
    """Leaves only the newest ``max_to_keep``; one that cannot be removed is only warned of."""
    for old in list(by_step(save_dir).values())[:-max_to_keep]:
        try:
            # renamed first, so that no half of it ever bears a checkpoint's name
            away = old.rename(old.with_name(f".removing-{old.name}"))
            shutil.rmtree(away)
        except OSError as error:
            log.warning("%s is kept: it cannot be removed (%s)", old, error)


def set_aside(checkpoint: Path) -> Path:
    """Takes its name from a damaged checkpoint, so that its step can be saved again."""
    number, name = 1, f"damaged-{checkpoint.name}"
    while checkpoint.with_name(name).exists():
        number, name = number + 1, f"damaged-{checkpoint.name}-{number + 1}"
    away = checkpoint.rename(checkpoint.with_name(name))
    sync(away.parent)
    return away


def sync(folder: Path) -> None:
    """Brings the names in ``folder`` to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reason(error: BaseException) -> str:
    """The first line of what went wrong: torch hides a full disk behind a complaint of its own."""
    hidden: BaseException | None = error
    while hidden is not None and not isinstance(hidden, OSError):
        hidden = hidden.__cause__ or hidden.__context__
    return (str(hidden or error).splitlines() or [type(error).__name__])[0]
