"""Statistics of the columns of dense inputs, of a whole data set or of parts that are merged."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from recap.data.parquet import ParquetData
from recap.data.statistics.moments import Moments


@dataclass(frozen=True)
class Columns:
    """Statistics of the columns of one dense input, as they are and as log1p_abs."""

    raw: Moments
    log1p_abs: Moments

    @staticmethod
    def of(numbers: np.ndarray) -> Columns:
        """Of the columns of ``numbers`` [n, W], which may be of any type."""
        numbers = numbers.astype(np.float64)
        return Columns(Moments.of(numbers), Moments.of(log1p_abs(numbers)))

    def merge(self, other: Columns) -> Columns:
        """Of the rows of both."""
        return Columns(self.raw.merge(other.raw), self.log1p_abs.merge(other.log1p_abs))


Statistics = Mapping[str, Columns]  # dense input → its columns


def log1p_abs(numbers: np.ndarray) -> np.ndarray:
    """sign(x)·log(1 + abs(x)), elementwise, as the model's featurizations scale."""
    return np.copysign(np.log1p(np.abs(numbers)), numbers)


def statistics_of(data: ParquetData, *, inputs: Collection[str] | None = None) -> Statistics:
    """Of the dense inputs of ``data`` after its preprocessing, every row that it leaves once.

    Memory holds what a stream of batches does and a few numbers per column. ``inputs``: None means
    all dense ones.

    Raises:
        ValueError: an input that is no dense one, or nothing to read.
        DataError: see ``ParquetData.batches``.
    """
    dense = data.schema.dense
    chosen = tuple(dense) if inputs is None else tuple(inputs)
    if unknown := [name for name in chosen if name not in dense]:
        raise ValueError(
            f"inputs: no dense input {', '.join(unknown)}; there is {', '.join(dense) or 'none'}"
        )
    if not chosen:
        raise ValueError("inputs: there is no dense input to count")
    found: dict[str, Columns] = {}
    batches = data.batches(tasks=(), inputs=chosen, shuffle_seed=None, epochs=1)
    with closing(batches):
        for batch, _ in batches:
            for name in chosen:
                # a float64 tensor first: numpy has no bfloat16
                columns = Columns.of(batch.dense[name].double().numpy())
                found[name] = found[name].merge(columns) if name in found else columns
    return found


def merged(parts: Iterable[Statistics]) -> Statistics:
    """Of the rows of all ``parts`` together.

    Raises:
        ValueError: there are none, or they are not of the same inputs and widths.
    """
    whole: dict[str, Columns] = {}
    for part in parts:
        if whole and (before := _widths(whole)) != (now := _widths(part)):
            raise ValueError(
                f"statistics of {now} cannot be merged with those of {before}; "
                "make them with the same schema and preprocessing"
            )
        whole = {name: whole[name].merge(c) if whole else c for name, c in part.items()}
    if not whole:
        raise ValueError("merge=[] must name at least one file of statistics")
    return whole


def _widths(statistics: Statistics) -> str:
    return ", ".join(f"{name} [{len(c.raw.count)}]" for name, c in sorted(statistics.items()))


def summary(statistics: Statistics) -> str:
    """A line per input: its columns, its rows, and what is unusual."""
    lines = []
    for name, found in statistics.items():
        raw = found.raw
        rows = int((raw.count + raw.num_non_finite).max())
        constant = int(((raw.count > 0) & (raw.min == raw.max)).sum())
        lines.append(
            f"{name}: {len(raw.count)} columns of {rows} rows; {constant} constant, "
            f"{int((raw.num_non_finite > 0).sum())} with numbers that are not finite, "
            f"{int((raw.count == 0).sum())} without a finite one"
        )
    return "\n".join(lines)
