"""Row groups that are left out of a data set because they cannot be read."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from recap.data.files import DataError

Found = Mapping[tuple[str, int], tuple[str, int]]  # row group → what is wrong with it, its rows

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

    A rank comes across what it reads itself. What is counted, and limited, is what all ranks came
    across until they last agreed, and this one since then.

    Args:
        limit: the share of the data set's rows that may be left out, 0 to 1.
        num_rows: rows of the data set, by the footers of its files.
    """

    def __init__(self, limit: float, *, num_rows: int) -> None:
        self._limit, self._num_rows = limit, num_rows
        # words and numbers: the errors themselves would keep the blocks they came up in
        self._faults: dict[tuple[str, int], tuple[str, int]] = {}
        self._elsewhere: dict[tuple[str, int], tuple[str, int]] = {}
        self._told = 0
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """Rows of the row groups that are left out, as far as they have been come across."""
        return _rows(self._all)

    @property
    def _all(self) -> Found:
        return self._elsewhere | self._faults

    def __contains__(self, row_group: tuple[str, int]) -> bool:
        """Whether this rank has come across it: what it reads does not wait for the others."""
        return row_group in self._faults

    def agree(self, gathered: Callable[[Found], Sequence[Found]]) -> None:
        """Counts what any rank has come across; to be called by all of them at the same step.

        A row group that several ranks read counts once. Behind it ``refuse_too_many`` decides the
        same on all ranks.

        Args:
            gathered: gives all ranks' values for this rank's one.
        """
        everywhere = gathered(dict(self._faults))
        with self._lock:
            for found in everywhere:
                self._elsewhere |= found

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
            found = self._all
            if _rows(found) > self._limit * self._num_rows or _rows(found) == self._num_rows:
                faults = "\n".join(found[row_group][0] for row_group in sorted(found))
                raise DataError(
                    f"{self._words(found)}, above the limit of {self._limit:.3%}, "
                    f"train_data.ignored_rows_limit={self._limit}:\n{faults}"
                )

    def tell(self) -> None:
        """Logs how much this rank left out, where that is more than was said the last time."""
        with self._lock:
            if (rows := _rows(self._faults)) > self._told:
                self._told = rows
                log.warning("%s", self._words(self._faults))

    def _words(self, found: Found) -> str:
        rows = _rows(found)
        share = f"{rows / self._num_rows:.3%}"
        return f"ignored {len(found)} row groups with {rows} rows, {share} of the data"


def _rows(found: Found) -> int:
    return sum(rows for _, rows in found.values())
