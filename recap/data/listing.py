"""The files of a data set as one process found them: what all ranks read by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from recap.data.files import DataError, ParquetSource


@dataclass(frozen=True)
class Listing:
    """What was found: files with their footers read, or why there are none.

    It can be pickled, and is small: files with the same columns share one schema, those of one
    place one file system, which opens anew where it is unpickled.
    """

    found: tuple[ParquetSource, ...] = ()
    left_out: tuple[str, ...] = ()  # what is wrong with files of which no row is read or counted
    error: str | None = None  # why the data set cannot be read

    @property
    def sources(self) -> tuple[ParquetSource, ...]:
        """The files.

        Raises:
            DataError: they could not be found or opened.
        """
        if self.error is not None:
            raise DataError(self.error)
        return self.found

    @cached_property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(source.num_rows for source in self.sources)

    def digest(self, *settings: object) -> str:
        """16 hex digits that stand for the files' names and row groups, and for the settings.

        Names count below the folder that all files lie in: a copy elsewhere is the same data set.
        """
        digest = hashlib.sha256(repr(settings).encode())
        for name, source in zip(self._names(), self.sources, strict=True):
            digest.update(repr((name, source.row_group_rows)).encode())
        return digest.hexdigest()[:16]

    def _names(self) -> list[str]:
        paths = [source.path.split("/") for source in self.sources]
        folders = [path[:-1] for path in paths]
        shared = 0
        for parts in zip(*folders, strict=False):
            if len(set(parts)) > 1:
                break
            shared += 1
        return ["/".join(path[shared:]) for path in paths]
