"""A run that is opened when its first metrics are there to be recorded, not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from recap.tracking import Run


class Opening:
    """The run that ``open`` returns, opened at its first use but ``log``; to be used as that run.

    mlflow takes longer to import than torch, and a new database several seconds to be made: a
    training's first update need not wait for them. In a thread beside it they would take turns with
    the threads that compute, which slows both. What is logged before is kept. A run that ends
    before it was opened is opened and ended, so that it is recorded however it ends.
    """

    def __init__(self, open: Callable[[], Run]) -> None:
        self._open = open
        self._run: Run | None = None
        self._kept: list[tuple[int, Mapping[str, float]]] = []

    def ready(self) -> Run:
        """The run itself, open; raises what keeps it from being opened, as every method but one."""
        if self._run is None:
            run = self._open().__enter__()
            for step, metrics in self._kept:
                run.log(step, metrics)
            self._run = run
        return self._run

    @property
    def view(self) -> str:
        """See ``recap.tracking.Run``, as for the methods."""
        return self.ready().view

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one step; returns at once."""
        if self._run is None:
            self._kept.append((step, metrics))
        else:
            self._run.log(step, metrics)

    def artifact(self, path: Path) -> None:
        """Record a copy of the file."""
        self.ready().artifact(path)

    def flush(self) -> None:
        """Wait until what was logged is stored."""
        self.ready().flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.ready()
        else:
            with suppress(Exception):  # the error that came first is the one to be told
                self.ready()
        if self._run is not None:
            self._run.__exit__(kind, error, traceback)
