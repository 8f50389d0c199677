"""Statistics of every dense column of a data set, in one pass, for inputs that are scaled by them.

    python -m recap.data.statistics experiment=local_prod data_root=data/local_prod
    python -m recap.data.statistics statistics.merge=[a.parquet,b.parquet] statistics.target=c

The file is a Parquet table with a row per column: ``input`` (the schema's name), ``index`` in it,
``count`` of finite numbers, ``num_non_finite`` (left out of all the rest), and of the finite ones
``mean``, ``variance`` (of the population), ``std``, ``min`` and ``max``; the same again as
``log1p_abs_mean``, … of sign(x)·log(1 + abs(x)). Where count is 0 they are null. Columns are those
that a model reads: after the preprocessing.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recap.data.files import DataError
from recap.data.moments import Moments
from recap.data.parquet import ParquetData

SCALES = ("", "log1p_abs_")  # prefixes of the file's columns
FIELDS = ("mean", "variance", "std", "min", "max")
COUNTS = ("count", "num_non_finite")


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


def _write(cfg: Any) -> None:
    from omegaconf import OmegaConf

    from recap.compose import Refused

    settings: dict[str, Any] = OmegaConf.to_container(cfg.statistics, resolve=True)  # pyright: ignore[reportAssignmentType]
    if faults := list(_setting_faults(settings)):
        raise Refused(faults)
    try:
        if (parts := _listed(settings["merge"])) is not None:
            statistics = merged(read_statistics(path) for path in parts)
        else:
            inputs = _listed(settings["inputs"])
            statistics = statistics_of(_data(cfg, inputs), inputs=inputs)
    except ValueError as error:
        raise Refused(str(error).splitlines()) from error
    write_statistics(statistics, settings["target"])
    print(f"{summary(statistics)}\nwritten to {settings['target']}")


def _setting_faults(settings: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(settings["target"], str):
        yield f"statistics.target={settings['target']!r}: must be the path of the file to write"
    for key in ("inputs", "merge"):
        value = settings[key]
        names = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(name, str) for name in names):
            yield f"statistics.{key}={value!r}: must be null, a name or a list of names"


def _data(cfg: Any, inputs: list[str] | None) -> ParquetData:
    """``train_data`` as it is composed, whose files hold these inputs."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from recap.binding import binding_faults, completed
    from recap.compose import Refused

    if not OmegaConf.is_dict(cfg.train_data):
        raise Refused([f"train_data={cfg.train_data}: must be a mapping, {{_target_: …}}"])
    plain = completed(OmegaConf.to_container(cfg.train_data, resolve=True))
    if faults := list(binding_faults(plain, "train_data")):
        raise Refused(faults)
    try:
        data: ParquetData = instantiate(OmegaConf.create(plain), _convert_="object")
    except InstantiationException as error:
        raise Refused(f"train_data: {error.__cause__ or error}".splitlines()) from error
    if faults := data.faults((), inputs):
        hint = "statistics.inputs=null reads every dense input; it may name those to read"
        raise Refused(faults if inputs else [*faults, hint])
    return data


def _listed(names: str | Sequence[str] | None) -> list[str] | None:
    if names is None:
        return None
    return [names] if isinstance(names, str) else list(names)


def main() -> None:
    """Writes the file that the composed config's ``statistics`` section says."""
    from recap.compose import hydra_command

    hydra_command("statistics")(_write)()


if __name__ == "__main__":
    main()
