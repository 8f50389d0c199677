"""Whether a job's notice before its end suffices: for the step it is in, and for a save."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class Margin:
    """Warns as soon as a step and a save are known to take longer than a scheduler's notice.

    ``delay_s`` are the seconds from the scheduler's signal to the end of the job; None where there
    is no scheduler: nothing is compared. What was not measured yet counts as 0 s.
    """

    def __init__(self, delay_s: float | None) -> None:
        self._delay_s = delay_s
        self._warned_of_s = 0.0
        self.longest_step_s = 0.0
        self.save_s = 0.0

    @property
    def needed_s(self) -> float:
        """Seconds from a signal to a checkpoint: a step, a save on its way, and one more."""
        return self.longest_step_s + 2 * self.save_s

    def recall(self, *, longest_step_s: float, save_s: float) -> None:
        """What was measured before the run was stopped."""
        self.longest_step_s, self.save_s = longest_step_s, save_s
        self._compare()

    def stepped(self, seconds: float) -> None:
        """A step took so long: all between two places where a signal takes effect."""
        if seconds > self.longest_step_s:
            self.longest_step_s = seconds
            self._compare()

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
                "a step of %.1f s and two saves of %.1f s (one may be on its way) take longer than "
                "the %g s between the scheduler's signal and the end of the job: the steps since "
                "the last checkpoint would be lost; raise launcher.signal_delay_s "
                "(--signal=USR2@SECONDS) above %.0f",
                self.longest_step_s,
                self.save_s,
                self._delay_s,
                self.needed_s,
            )
