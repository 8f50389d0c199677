"""Whether a job's notice before its end suffices: for the step it is in, and for a save."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


class Margin:
    """Warns as soon as a step and a save are known to take longer than a scheduler's notice.

    Args:
        delay_s: from the signal to the end of the job; None where there is no scheduler, and
            nothing is compared.
        longest_step_s: of the run so far, 0 where it is not known.
        save_s: how long its last save took, until it was written; 0 where it is not known.
    """

    def __init__(
        self, delay_s: float | None, *, longest_step_s: float = 0.0, save_s: float = 0.0
    ) -> None:
        self._delay_s = delay_s
        self._warned_of_s = 0.0
        self.longest_step_s, self.save_s = longest_step_s, save_s
        self._compare()

    @property
    def needed_s(self) -> float:
        """Seconds from a signal to a checkpoint, as far as they were measured."""
        return self.longest_step_s + self.save_s

    def stepped(self, seconds: float) -> None:
        """A step took so long: all between two places where a signal takes effect."""
        if seconds > self.longest_step_s:
            self.longest_step_s = seconds
            self._compare()

    @contextmanager
    def save(self) -> Iterator[None]:
        """Measures a save, until it was written."""
        began = time.monotonic()
        yield
        self.saved(time.monotonic() - began)

    def saved(self, seconds: float) -> None:
        """A save took so long, until it was written."""
        self.save_s = seconds
        self._compare()

    def _compare(self) -> None:
        """Without a save nothing is known; what was warned of is told again when it has doubled."""
        if self._delay_s is None or not self.save_s or self.needed_s <= self._delay_s:
            return
        if self.needed_s >= 2 * self._warned_of_s:
            self._warned_of_s = self.needed_s
            log.warning(
                "a step of %.1f s and a save of %.1f s take longer than the %g s between the "
                "scheduler's signal and the end of the job: the steps since the last checkpoint "
                "would be lost; raise launcher.signal_delay_s (--signal=USR2@SECONDS) above %.0f",
                self.longest_step_s,
                self.save_s,
                self._delay_s,
                2 * self.needed_s,
            )
