"""A run that is opened beside the work that comes before its first metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Self

from recap.tracking import Run


class Opening:
    """The run that ``open`` returns, called in a thread; to be used as that run.

    mlflow takes as long to import as torch, and a new database several seconds to be made, in which
    a model's first update can be computed. What is logged meanwhile is kept. Every other method
    waits until the run is open, and raises what keeps it from being opened; so does ``ready``.
    """

    def __init__(self, open: Callable[[], Run]) -> None:
        self._open = open
        self._run: Run | None = None
        self._error: Exception | None = None
        self._kept: list[tuple[int, Mapping[str, float]]] = []
        self._change = Lock()
        self._thread = Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def ready(self) -> Run:
        """The run itself, as soon as it is open."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._run is not None
        return self._run

    @property
    def view(self) -> str:
        """See ``recap.tracking.Run``, as for the methods."""
        return self.ready().view

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one step; returns at once."""
        with self._change:
            if self._run is None:
                self._kept.append((step, metrics))
                return
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
        self._thread.join()
        if self._run is not None:
            self._run.__exit__(kind, error, traceback)
        elif kind is None and self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            run = self._open().__enter__()
            with self._change:
                for step, metrics in self._kept:
                    run.log(step, metrics)
                self._run = run
        except Exception as error:
            self._error = error
