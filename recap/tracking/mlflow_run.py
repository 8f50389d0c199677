"""An open MLflow run: metrics, artifacts and the outcome."""

from __future__ import annotations

import logging
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.entities import Run as StoredRun

from recap.outcome import message_of, status_of
from recap.tracking.provenance import without_passwords
from recap.tracking.sender import Point, Sender, first_line
from recap.tracking.system_metrics import SystemMetrics

log = logging.getLogger(__name__)

METRIC_NAME = re.compile(r"[\w\-. :/]{1,250}", re.ASCII)
MAX_METRICS_PER_CALL = 1000
MAX_MESSAGE_LENGTH = 5000


class MlflowRun:
    """An open MLflow run; see ``recap.tracking.Run``.

    A resumed run logs the steps between its checkpoint and its crash again. MLflow would keep both
    copies, so a point that the run already has is dropped: with settings and commit unchanged by
    its key and step (a resumed run repeats itself bit for bit, and of two measured speeds one is
    enough), otherwise only where the value is the same too. A run that is not ``owned`` by this
    process gets no outcome from it.
    """

    def __init__(
        self,
        client: MlflowClient,
        stored: StoredRun,
        uri: str,
        *,
        unchanged: bool,
        sample_every_s: float | None,
        owned: bool = True,
    ) -> None:
        self._client = client
        self._run_id = stored.info.run_id
        self._store = without_passwords(uri)
        self._unchanged = unchanged
        self._owned = owned
        self._last_step = {metric.key: metric.step for metric in stored.data.to_proto().metrics}
        self._taken: set[str] = set()  # names that MLflow takes
        self._known: dict[str, dict[int, list[float]]] = {}
        self._sender = Sender(
            self._send, store=f"tracking.uri={self._store}", max_points=MAX_METRICS_PER_CALL
        )
        self._system_metrics = (
            SystemMetrics(self._put, first_step=self._next_system_step(), every_s=sample_every_s)
            if sample_every_s
            else None
        )
        self.view = _view(self._store, stored)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one step; returns at once.

        Raises:
            ValueError: a name has a character that MLflow does not take.
        """
        for key in metrics.keys() - self._taken:
            if not METRIC_NAME.fullmatch(key):
                raise ValueError(
                    f"metric {key!r}: a name has 1 to 250 letters, digits, and _ - . / : space"
                )
            self._taken.add(key)
        self._put(step, metrics)

    def artifact(self, path: Path) -> None:
        """Record a copy of the file; a store that does not answer costs a warning."""
        try:
            self._client.log_artifact(self._run_id, str(path))
        except Exception as error:  # whatever a store raises: a run outlives its tracker
            log.warning("tracking: artifact %s was not stored: %s", path, first_line(error))

    def flush(self) -> None:
        """Wait until what was logged is stored, or the store is known not to answer."""
        self._sender.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._system_metrics:
            self._system_metrics.close()
        num_lost = self._sender.close()
        came_to = status_of(error)
        status = {"finished": "FINISHED", "pruned": "FINISHED", "stopped": "KILLED"}.get(
            came_to, "FAILED"
        )
        reason = ""
        try:
            if self._owned:
                # also where nothing is to be said, as a run that goes on may have failed before
                message = "" if error is None else message_of(error)[:MAX_MESSAGE_LENGTH]
                tags = [RunTag("outcome", came_to), RunTag("error", message)]
                self._client.log_batch(self._run_id, tags=tags)
                self._client.set_terminated(self._run_id, status)
        except Exception as unanswered:  # the run itself is done: say so and leave
            reason = f" and the status {status} ({first_line(unanswered)})"
        if num_lost or reason:
            log.warning(
                "tracking: tracking.uri=%s did not get %d metric values%s of run %s; they are lost",
                self._store,
                num_lost,
                reason,
                self._run_id,
            )

    def _put(self, step: int, metrics: Mapping[str, float]) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._sender.put([Point(k, float(v), now_ms, step) for k, v in metrics.items()])

    def _send(self, points: Sequence[Point]) -> None:
        metrics = [
            Metric(point.key, point.value, point.timestamp_ms, point.step)
            for point in points
            if self._is_new(point)
        ]
        if metrics:
            self._client.log_batch(self._run_id, metrics=metrics)

    def _is_new(self, point: Point) -> bool:
        if point.step > self._last_step.get(point.key, -1):
            return True
        if point.key not in self._known:
            values: dict[int, list[float]] = {}
            for metric in self._client.get_metric_history(self._run_id, point.key):
                values.setdefault(metric.step, []).append(metric.value)
            self._known[point.key] = values
        known = self._known[point.key].get(point.step)
        return known is None or not (self._unchanged or point.value in known)

    def _next_system_step(self) -> int:
        steps = [step for key, step in self._last_step.items() if key.startswith("system/")]
        return max(steps, default=-1) + 1


def _view(store: str, stored: StoredRun) -> str:
    run = stored.info
    # Without the workflow the UI opens on its pages for language models.
    page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}?workflowType=machine_learning"
    if store.startswith(("http://", "https://")):
        return f"{store.rstrip('/')}/{page}"
    ui = f"mlflow ui --backend-store-uri {shlex.quote(store)}"
    return f"{ui}, then http://127.0.0.1:5000/{page}"
