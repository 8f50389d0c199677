"""Where a run is recorded: what every tracker offers, and the one that records nothing.

``MlflowTracker`` stands in ``recap.tracking.mlflow``, so that mlflow is imported only where it is
chosen. A tracker belongs to rank 0; every other rank uses ``NoTracker``.

A run directory is a run: opened again, it continues the run that was recorded for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

# Set here because mlflow reads them when it is imported; a value that the user has set stands.
# With its own retries a call would last for minutes; recap.tracking.sender tries again by itself.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# Jitter is drawn from the random state that a resumed run must find as it left it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


class Run(Protocol):
    """One recorded run, open inside its ``with`` block.

    The block's end records the outcome, see ``recap.outcome.status_of``, and an error's message:
    FINISHED, also of a pruned run, KILLED after KeyboardInterrupt or SystemExit, FAILED after any
    other exception.
    """

    @property
    def view(self) -> str:
        """How to look at the run: an address or a command; empty where nothing is recorded."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one step; returns at once, they are sent from another thread."""

    def artifact(self, path: Path) -> None:
        """Record a copy of the file."""

    def flush(self) -> None:
        """Wait until what was logged is stored, or the store is known not to answer.

        To be called before a checkpoint is written: a run killed afterwards resumes behind these
        steps and does not log them again.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Tracker(Protocol):
    """Opens runs."""

    def run(
        self,
        run_dir: Path,
        *,
        overrides: Sequence[str] = (),
        config_yaml: str = "",
        tags: Mapping[str, str] | None = None,
        name: str | None = None,
        parent: Path | None = None,
        resume_step: int = 0,
    ) -> Run:
        """The run of ``run_dir``: a new one, or the one that was recorded there, continued.

        Args:
            run_dir: directory of the run; keeps the run's id.
            overrides: what was given on the command line, ``key=value`` each.
            config_yaml: the composed config.
            tags: further facts about the run.
            name: shown for the run, unless the tracker's configuration names it.
            parent: directory of the sweep that this run is a job of.
            resume_step: update after which the run continues; 0 where it starts.
        """
        ...

    def join(self, run_dir: Path) -> Run:
        """The run recorded for ``run_dir``, to add metrics beside the process that it belongs to.

        What the run has already of a name and step stands; the run's outcome and facts are left to
        the other process.
        """
        ...

    def open_sweep(
        self, sweep_dir: Path, *, overrides: Sequence[str] = (), config_yaml: str = ""
    ) -> None:
        """Record a run for the sweep itself, or continue it; its id is kept in the directory.

        To be called before the first job starts; raises as ``run`` does.
        """

    def close_sweep(
        self,
        sweep_dir: Path,
        *,
        status: str,
        tags: Mapping[str, str] | None = None,
        objective: float | None = None,
    ) -> None:
        """Record the outcome of the sweep's run.

        Args:
            sweep_dir: as given to ``open_sweep``.
            status: FINISHED, FAILED, KILLED, or RUNNING where jobs are left in a queue.
            tags: facts about the outcome.
            objective: of the best point; tracked as ``objective``.
        """


class NoRun:
    """A run that is not recorded."""

    view = ""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def artifact(self, path: Path) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None


class NoTracker:
    """Records nothing and needs no mlflow: ``tracking=none``."""

    def run(
        self,
        run_dir: Path,
        *,
        overrides: Sequence[str] = (),
        config_yaml: str = "",
        tags: Mapping[str, str] | None = None,
        name: str | None = None,
        parent: Path | None = None,
        resume_step: int = 0,
    ) -> Run:
        """A run that is not recorded."""
        return NoRun()

    def join(self, run_dir: Path) -> Run:
        """A run that is not recorded."""
        return NoRun()

    def open_sweep(
        self, sweep_dir: Path, *, overrides: Sequence[str] = (), config_yaml: str = ""
    ) -> None:
        """Nothing."""

    def close_sweep(
        self,
        sweep_dir: Path,
        *,
        status: str,
        tags: Mapping[str, str] | None = None,
        objective: float | None = None,
    ) -> None:
        """Nothing."""
