"""Signals that ask a run to stop at its next step: Ctrl-C, SIGTERM, a scheduler's warnings."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_held: list[signal.Signals] = []  # what came before anyone listened
_listening: list[list[signal.Signals]] = []  # to at most one: what has come to this process


class Stopped(KeyboardInterrupt):
    """A command that a signal ended; a training, behind a checkpoint of its last ``step``."""

    def __init__(self, came: int, step: int | None = None) -> None:
        saved = "" if step is None else f"step {step} is saved, "
        super().__init__(f"{signal.Signals(came).name} came; {saved}the same command continues")
        self.came = signal.Signals(came)
        self.exit_code = 128 + came  # as a shell reports a process that a signal ended


def hold_warnings() -> None:
    """From now on SIGUSR1 and SIGUSR2 wait for ``stop_signals``, instead of ending the process."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: _held.append(signal.Signals(number)))


def ignore_warnings() -> None:
    """From now on SIGUSR1 and SIGUSR2 do nothing: a command at its end need not be warned.

    Python's own end would take every other handler away, and let them kill what is done.
    """
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def stop_signals(*, patient: bool = False) -> Iterator[list[signal.Signals]]:
    """A list that is empty until a signal asks this process to stop, and then holds it.

    The second signal, of any kind, takes its usual effect at once, and ends the process; unless it
    is ``patient``: a scheduler sends several, and kills who takes too long; then only Ctrl-C has
    it. Inside another one, the list is the outer one's, and what was held is in it: what comes
    before a run listens is not lost.
    """
    if _listening:
        yield _listening[0]
        return
    came: list[signal.Signals] = []
    before = {}

    def note(number: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(number))
        if not patient or number == signal.SIGINT:
            restore()
            log.info("%s: stopping after this step; once more stops without saving", came[-1].name)
        elif len(came) == 1:
            log.info("%s: stopping after this step", came[0].name)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    if threading.current_thread() is threading.main_thread():
        for number in STOPS:
            before[number] = signal.signal(number, note)
        _listening.append(came)
        came += _held
        _held.clear()
    try:
        yield came
    finally:
        _listening.clear()
        restore()
