"""A queue over this machine's devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recap.launcher.settings import LocalSettings
from recap.launcher.slurm import Entry, SubmissionError
from recap.launcher.submission import Submission


def submit(
    folder: Path,
    settings: LocalSettings,
    name: str,
    jobs: Sequence[tuple[Any, ...]],
    run: Callable[..., Any],
    environment: Mapping[str, str],
) -> list[str]:
    """Queues ``run(*arguments)`` for every job; returns their ids."""
    raise SubmissionError("hydra/launcher=submitit_local: is not there yet")


def queue(submission: Submission) -> dict[str, Entry] | None:
    """Job id → entry."""
    return None


def plan(settings: LocalSettings, run_dirs: Sequence[str]) -> str:
    """What would run."""
    return "\n".join(run_dirs)
