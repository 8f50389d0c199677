"""Row groups that are left out of a data set because they cannot be read."""

from __future__ import annotations

import logging
import threading

from recap.data.files import DataError

log = logging.getLogger(__name__)


class RowGroupError(DataError):
    """A row group that cannot be read or decoded; the message says which and why."""

    def __init__(self, path: str, row_group: int, rows: int, reason: object) -> None:
        reason = " ".join(str(reason).split())  # Arrow's own go over several lines
        super().__init__(f"{path}, row group {row_group}: {reason}")
        self.row_group = (path, row_group)
        self.rows = rows  # that its footer says it holds


class Ignored:
    """What is left out of one data set, each told in the log once; shared by its threads.

    Args:
        limit: the share of the data set's rows that may be left out, 0 to 1.
        num_rows: rows of the data set, by the footers of its files.
    """

    def __init__(self, limit: float, *, num_rows: int) -> None:
        self._limit, self._num_rows = limit, num_rows
        # row group → (fault, rows); the error itself would keep the block it came up in
        self._faults: dict[tuple[str, int], tuple[str, int]] = {}
        self._told = 0
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """Rows of the row groups that are left out, as far as they have been come across."""
        return sum(rows for _, rows in list(self._faults.values()))

    def __contains__(self, row_group: tuple[str, int]) -> bool:
        return row_group in self._faults

    def add(self, fault: RowGroupError) -> None:
        """Leaves the row group out from here on.

        Raises:
            DataError: see ``refuse_too_many``.
        """
        with self._lock:
            if fault.row_group not in self._faults:
                self._faults[fault.row_group] = (str(fault), fault.rows)
                log.warning("ignored: %s; it holds %d rows", str(fault), fault.rows)
        self.refuse_too_many()

    def refuse_too_many(self) -> None:
        """To be asked wherever rows are left out: who found them may have been ahead of all need.

        Raises:
            DataError: more is left out than may be, or all there is; lists it.
        """
        with self._lock:
            if self.rows > self._limit * self._num_rows or self.rows == self._num_rows:
                faults = "\n".join(fault for fault, _ in self._faults.values())
                raise DataError(
                    f"{self.summary()}, above the limit of {self._limit:.3%}, "
                    f"train_data.ignored_rows_limit={self._limit}:\n{faults}"
                )

    def summary(self) -> str:
        """How much is left out, in words."""
        share = f"{self.rows / self._num_rows:.3%}"
        return f"ignored {len(self._faults)} row groups with {self.rows} rows, {share} of the data"

    def tell(self) -> None:
        """Logs the summary, where there is more than it said the last time."""
        with self._lock:
            if self.rows > self._told:
                self._told = self.rows
                log.warning("%s", self.summary())
