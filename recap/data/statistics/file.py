"""The file of statistics, a Parquet table with a row per column.

``input`` (the schema's name), ``index`` in it, ``count`` of finite numbers, ``num_non_finite``
(left out of all else), and of the finite ones ``mean``, ``variance`` (of the population), ``std``,
``min`` and ``max``; the same again as ``log1p_abs_mean``, … of sign(x)·log(1 + abs(x)). Where count
is 0 they are null. Columns are those that a model reads: after the preprocessing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recap.data.files import DataError
from recap.data.statistics.columns import Columns, Statistics
from recap.data.statistics.moments import Moments

SCALES = ("", "log1p_abs_")  # prefixes of the file's columns
FIELDS = ("mean", "variance", "std", "min", "max")
COUNTS = ("count", "num_non_finite")


def write_statistics(statistics: Statistics, path: str | Path) -> None:
    """The file of ``statistics``, which takes its name when it is complete."""
    columns: dict[str, list] = {"input": [], "index": []}
    for name, found in statistics.items():
        width = len(found.raw.count)
        columns["input"] += [name] * width
        columns["index"] += range(width)
        for field in COUNTS:
            columns.setdefault(field, []).extend(getattr(found.raw, field).tolist())
        there = found.raw.count > 0
        for scale, moments in zip(SCALES, (found.raw, found.log1p_abs), strict=True):
            for field in FIELDS:
                values = np.sqrt(moments.variance) if field == "std" else getattr(moments, field)
                masked = pa.array(values, mask=~there).to_pylist()
                columns.setdefault(f"{scale}{field}", []).extend(masked)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".incomplete")
    try:
        pq.write_table(pa.table(columns, schema=_SCHEMA), temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_SCHEMA = pa.schema(
    [("input", pa.string()), *((name, pa.int64()) for name in ("index", *COUNTS))]
    + [(f"{scale}{field}", pa.float64()) for scale in SCALES for field in FIELDS]
)


def read_statistics(path: str | Path) -> Statistics:
    """What ``write_statistics`` wrote.

    Raises:
        DataError: no such file, or another one.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: {str(error).splitlines()[0]}") from error
    if lacking := [name for name in _SCHEMA.names if name not in table.schema.names]:
        raise DataError(f"{path} is no file of statistics: it has no column {lacking[0]}")
    names = np.array(table.column("input").to_pylist())
    numbers = {name: table.column(name).to_numpy() for name in _SCHEMA.names[2:]}
    return {
        str(name): Columns(*(_moments(numbers, names == name, scale) for scale in SCALES))
        for name in dict.fromkeys(names)
    }


def _moments(numbers: Mapping[str, np.ndarray], rows: np.ndarray, scale: str) -> Moments:
    there = numbers["count"][rows] > 0
    empty = {"mean": 0.0, "variance": 0.0, "min": np.inf, "max": -np.inf}
    counts = {field: numbers[field][rows] for field in COUNTS}
    values = {
        field: np.where(there, numbers[f"{scale}{field}"][rows], value)
        for field, value in empty.items()
    }
    return Moments(**counts, **values)
