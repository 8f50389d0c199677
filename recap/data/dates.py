"""The files of the last days or hours up to a date: one folder a day or an hour."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from pyarrow import fs

from recap.data.files import DataError, NamedFile, located, parquet_files_in

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExplicitDateInputs:
    """The ``*.parquet`` files of ``days`` days: ``data_root/%Y/%m/%d``, the end among them.

    Args:
        data_root: the folder above the years; a path or the URI of any pyarrow file system.
        end_date: the last day that is read: 2023-01-31, 2023/01/31 or 20230131.
        days: days that are read, counted back from the end; the oldest comes first.
        num_missing_days_tol: days that may lack a folder, or have one without a ``*.parquet`` in
            it. That many are told in the log, more are refused.
    """

    data_root: str
    end_date: str | int
    days: int
    num_missing_days_tol: int = 0

    def __post_init__(self) -> None:
        faults = _count_faults("days", self.days, self.num_missing_days_tol)
        try:
            _first(day_of(self.end_date), timedelta(days=1), self.days)
        except ValueError as error:
            faults.append(f"end_date={self.end_date}: {error}")
        if faults:
            raise ValueError("\n".join(faults))

    def folders(self) -> list[str]:
        """The folder of each day below ``data_root``, the oldest first: ``2023/01/31``."""
        first = _first(day_of(self.end_date), timedelta(days=1), self.days)
        return [_slashed(first + timedelta(days=i)) for i in range(self.days)]

    def files(self) -> list[NamedFile]:
        """The files of all days, by day and name.

        Raises:
            DataError: more days than tolerated, or all of them, have no file; names them.
        """
        return _files(self.data_root, self.folders(), "days", self.num_missing_days_tol)


@dataclass(frozen=True, kw_only=True)
class ExplicitDatetimeInputs:
    """The ``*.parquet`` files of ``hours`` hours: ``data_root/%Y/%m/%d/%H``, the end among them.

    Args:
        data_root: the folder above the years; a path or the URI of any pyarrow file system.
        end_datetime: the last hour that is read: 2023-01-31T05, 2023-01-31 05:00, 2023/01/31/05 or
            2023013105; a whole hour, in the time zone that the folders are named in.
        hours: hours that are read, counted back from the end; the oldest comes first.
        num_missing_hours_tol: hours that may lack a folder, or have one without a ``*.parquet`` in
            it. That many are told in the log, more are refused.
    """

    data_root: str
    end_datetime: str | int
    hours: int
    num_missing_hours_tol: int = 0

    def __post_init__(self) -> None:
        faults = _count_faults("hours", self.hours, self.num_missing_hours_tol)
        try:
            _first(hour_of(self.end_datetime), timedelta(hours=1), self.hours)
        except ValueError as error:
            faults.append(f"end_datetime={self.end_datetime}: {error}")
        if faults:
            raise ValueError("\n".join(faults))

    def folders(self) -> list[str]:
        """The folder of each hour below ``data_root``, the oldest first: ``2023/01/31/05``."""
        first = _first(hour_of(self.end_datetime), timedelta(hours=1), self.hours)
        hours = [first + timedelta(hours=i) for i in range(self.hours)]
        return [f"{_slashed(hour)}/{hour.hour:02}" for hour in hours]

    def files(self) -> list[NamedFile]:
        """The files of all hours, by hour and name.

        Raises:
            DataError: more hours than tolerated, or all of them, have no file; names them.
        """
        return _files(self.data_root, self.folders(), "hours", self.num_missing_hours_tol)


def day_of(text: str | int) -> datetime:
    """Midnight of a written day.

    Raises:
        ValueError: it is no day; says how one is written.
    """
    match = re.fullmatch(r"(\d{4})([-/]?)(\d\d)\2(\d\d)", str(text))
    if match is None:
        raise ValueError("write a day as 2023-01-31")
    return datetime(int(match[1]), int(match[3]), int(match[4]))


def hour_of(text: str | int) -> datetime:
    """The beginning of a written hour.

    Raises:
        ValueError: it is no whole hour; says how one is written.
    """
    match = re.fullmatch(r"(\d{4}([-/]?)\d\d\2\d\d)[T /]?(\d\d)(:?00){0,2}", str(text))
    if match is None:
        raise ValueError("write a whole hour as 2023-01-31T05")
    return day_of(match[1]).replace(hour=int(match[3]))


def _count_faults(unit: str, count: int, tolerated: int) -> list[str]:
    faults = []
    if count < 1:
        faults.append(f"{unit}={count} must be 1 or more")
    if tolerated < 0:
        faults.append(f"num_missing_{unit}_tol={tolerated} must be 0 or more")
    return faults


def _first(end: datetime, step: timedelta, count: int) -> datetime:
    try:
        return end - step * (count - 1)
    except OverflowError:
        raise ValueError(f"{count} of them reach back before the year 1") from None


def _slashed(day: datetime) -> str:
    return f"{day.year:04}/{day.month:02}/{day.day:02}"  # strftime pads no years before 1000


def _files(root: str, folders: Sequence[str], unit: str, tolerated: int) -> list[NamedFile]:
    filesystem, top = located(root)

    def files_of(folder: str) -> list[NamedFile]:
        return parquet_files_in(filesystem, f"{top.rstrip('/')}/{folder}")

    if filesystem.get_file_info(top).type != fs.FileType.Directory:
        raise DataError(f"data_root={root}: no such folder")
    with ThreadPoolExecutor(max_workers=8) as pool:
        found = list(pool.map(files_of, folders))
    missing = [folder for folder, files in zip(folders, found, strict=True) if not files]
    told = f"{len(missing)} of {len(folders)} {unit} have no *.parquet below {root}"
    told = f"{told}: {', '.join(missing)}"
    if len(missing) > tolerated:
        raise DataError(f"{told}; num_missing_{unit}_tol={tolerated} allows fewer")
    if len(missing) == len(folders):
        raise DataError(f"{told}; not one is there")
    if missing:
        log.warning("%s; num_missing_%s_tol=%d allows it", told, unit, tolerated)
    return list(chain.from_iterable(found))
