"""Ctrl-C and SIGTERM: a request to stop at the next step, and a second one to stop at once."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)


class Stopped(KeyboardInterrupt):
    """A run that Ctrl-C or SIGTERM ended, behind a checkpoint of its last step."""

    def __init__(self, came: int, step: int) -> None:
        name = signal.Signals(came).name
        super().__init__(f"{name} came; step {step} is saved, the same command continues")
        self.came = signal.Signals(came)
        self.exit_code = 128 + came  # as a shell reports a process that a signal ended


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """A list that is empty until Ctrl-C or SIGTERM comes, and then holds it.

    The second signal, of either kind, takes its usual effect at once.
    """
    came: list[signal.Signals] = []
    before = {}

    def note(number: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(number))
        restore()
        log.info("%s: stopping after this step; once more stops without saving", came[0].name)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield came
    finally:
        restore()
