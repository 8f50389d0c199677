"""Sends metrics from a thread of its own, so that a slow or absent store never holds up a step."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

log = logging.getLogger(__name__)


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    timestamp_ms: int
    step: int


class Sender:
    """Hands points to ``send`` in the order in which they came, many at a time.

    A point leaves the queue after ``send`` returned, so a point may be sent twice (the store took
    it, and its answer was lost) but is not skipped. While ``send`` raises, points stay in memory
    and are tried again. One warning says when that begins.

    Args:
        send: stores the points, or raises.
        store: name of the store, for the log.
        max_points: of one call.
        collect_s: seconds to wait for more points before a call, unless ``max_points`` wait or
            somebody flushes. A call costs MLflow's stores the time of a hundred points.
        retry_s: seconds between attempts while ``send`` raises.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Point]], None],
        *,
        store: str,
        max_points: int = 1000,
        collect_s: float = 5.0,
        retry_s: float = 2.0,
    ) -> None:
        self._send = send
        self._store = store
        self._max_points = max_points
        self._collect_s = collect_s
        self._retry_s = retry_s
        self._waiting: deque[Point] = deque()
        self._change = threading.Condition()
        self._num_put = 0
        self._num_sent = 0
        self._urgent = 0  # so many points of all that were put are to be sent at once
        self._failing = False
        self._give_up_at: float | None = None
        self._thread = threading.Thread(target=self._work, name="metric-sender", daemon=True)
        self._thread.start()

    def put(self, points: Sequence[Point]) -> None:
        """Queue the points; never blocks."""
        with self._change:
            self._waiting.extend(points)
            self._num_put += len(points)
            self._change.notify_all()

    def flush(self) -> None:
        """Wait until what was put before is sent or the store does not answer; from any thread."""
        with self._change:
            wanted = self._urgent = self._num_put
            self._change.notify_all()
            self._change.wait_for(lambda: self._failing or self._num_sent >= wanted)

    def close(self, *, patience_s: float = 5.0) -> int:
        """Number of points that could not be sent; tries for ``patience_s`` while ``send`` raises.

        A ``send`` that hangs is left alone 30 s after that.
        """
        with self._change:
            self._give_up_at = time.monotonic() + patience_s
            self._change.notify_all()
        while self._thread.is_alive() and not self._is_stuck():
            self._thread.join(timeout=0.5)
        return len(self._waiting)

    def _is_stuck(self) -> bool:
        assert self._give_up_at is not None
        return self._failing and time.monotonic() > self._give_up_at + 30

    def _work(self) -> None:
        while points := self._next():
            try:
                self._send(points)
            except Exception as error:  # whatever a store raises: a run outlives its tracker
                if not self._wait_to_retry(error):
                    return
            else:
                self._sent(len(points))

    def _next(self) -> list[Point]:
        """The points to send now; empty when the sender closes and none is left."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._give_up_at is not None)
            if not self._failing:
                self._change.wait_for(self._is_due, timeout=self._collect_s)
            return list(islice(self._waiting, self._max_points))

    def _is_due(self) -> bool:
        closing = self._give_up_at is not None
        return closing or self._urgent > self._num_sent or len(self._waiting) >= self._max_points

    def _sent(self, num_points: int) -> None:
        with self._change:
            for _ in range(num_points):
                self._waiting.popleft()
            self._num_sent += num_points
            if self._failing:
                log.info("tracking: %s answers again", self._store)
            self._failing = False
            self._change.notify_all()

    def _wait_to_retry(self, error: Exception) -> bool:
        """False when it is time to give up."""
        with self._change:
            if not self._failing:
                log.warning(
                    "tracking: %s does not take metrics (%s); the run goes on, they are kept in "
                    "memory and sent later",
                    self._store,
                    first_line(error),
                )
            self._failing = True
            self._change.notify_all()
            # Closing ends the pause at once, for one more attempt; then it is the deadline's turn.
            closing = self._give_up_at is not None
            self._change.wait_for(
                lambda: not closing and self._give_up_at is not None, timeout=self._retry_s
            )
            return self._give_up_at is None or time.monotonic() < self._give_up_at


def first_line(error: BaseException) -> str:
    """What went wrong, in at most 300 characters: the system's error where one is behind it."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return str(link)
        link = link.__cause__ or link.__context__
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line if len(line) <= 300 else line[:299] + "…"
