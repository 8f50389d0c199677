"""CSV or Parquet tables → Parquet files that recap reads, joined, filtered and packed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from recap.data.convert.pack import Pack
from recap.data.convert.readers import name_of, read_batches
from recap.data.convert.reshape import (
    Join,
    SideTable,
    columns_read,
    derived,
    kept,
    renamed,
    require,
)
from recap.data.convert.target_files import TargetFiles, version
from recap.data.files import DataError, NamedFile, matching_paths
from recap.schema import Schema


@dataclass(frozen=True)
class ConvertReport:
    """Rows of each written file by its path; counted again in the files' footers."""

    rows: Mapping[Path, int]
    already_there: tuple[Path, ...]
    rows_read: int
    schema: Schema | None  # to read the files by; None where columns were not packed

    def table(self) -> str:
        """The counts as text, a line per file."""
        lines = [
            f"{path}: {rows} rows{' (already there)' if path in self.already_there else ''}"
            for path, rows in self.rows.items()
        ]
        total = sum(self.rows.values())
        return "\n".join(
            [*lines, f"{total} rows in {len(lines)} files; {self.rows_read} rows read"]
        )


def convert(
    sources: str | Sequence[str],
    target: str | Path,
    *,
    name: str | None = None,
    rows_per_file: int | None = None,
    types: Mapping[str, str] | None = None,
    rename: Mapping[str, str] | None = None,
    joins: Mapping[str, Join] | None = None,
    derive: Mapping[str, Any] | None = None,
    where: Mapping[str, Any] | None = None,
    columns: Sequence[str] | None = None,
    schema: Schema | None = None,
    stored: Mapping[str, str] | None = None,
    row_group_rows: int = 4096,
    compression: str = "lz4",
) -> ConvertReport:
    """Parquet files in the folder ``target``, in bounded memory (side tables are held whole).

    Every step is applied to the rows in the order: rename, joins, derive; a condition of ``where``
    as soon as its column is there. A file takes its name when complete: a call that is made again
    does the missing files only, and refuses to mix with files of other settings or inputs.

    Args:
        sources: paths or globs of .csv, .csv.gz and .parquet files.
        name: all rows go to ``<name>.parquet``; None: a file per source that keeps its name.
        rows_per_file: cut into ``<name or part>-00000.parquet``, … of so many rows.
        types: type by the files' own column names, where a CSV's first rows would mislead.
        rename: column of the sources → its new name.
        where, derive: see ``recap.data.convert.reshape``.
        columns: what is kept, None for everything; with a ``schema``, what is kept besides it.
        schema: what the rows hold. Each dense group, from a list or from scalar columns, becomes
            one column of raw bytes under the name of its column or, from scalar columns, of the
            group; labels become int8; ids stay. None: columns stay as they are.
        stored: group → the type it is stored in, e.g. int8 for an int64 group.

    Raises:
        DataError: files that are missing, all of them; a missing column or key, a key that stands
            twice in a side table, rows without a match, a value that does not fit, a schema that
            differs between files; with file.
    """
    if rows_per_file is not None and rows_per_file < 1:
        raise ValueError(f"rows_per_file={rows_per_file} must be 1 or more")
    joins = joins or {}
    found, sides = _files(sources, joins)
    settings = {
        "types": dict(types or {}),
        "rename": dict(rename or {}),
        "joins": {name: dataclasses.asdict(join) for name, join in joins.items()},
        "derive": derive or {},
        "where": where or {},
        "columns": columns,
        "schema": None if schema is None else dataclasses.asdict(schema),
        "stored": dict(stored or {}),
        "rows_per_file": rows_per_file,
        "row_group_rows": row_group_rows,
        "compression": compression,
        "side tables": [version(pair) for pair in sides],
    }
    rows = _Rows(
        types=types or {},
        rename=rename or {},
        joins={name: SideTable(name, join, types or {}) for name, join in joins.items()},
        keys=[key for join in joins.values() for key in join.keys],
        derive=derive or {},
        where=where or {},
        columns=columns,
        pack=None if schema is None else Pack(schema, stored or {}, columns or ()),
    )
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    files = TargetFiles(target, settings, row_group_rows, compression)
    if name is None and rows_per_file is None:
        names = [name_of(path) for _, path in found]
        if twice := [one for one in names if names.count(one) > 1]:
            raise DataError(f"sources: two files would both become {twice[0]}.parquet; give a name")
        for pair, own in zip(found, names, strict=True):
            files.write(own, [pair], rows.of([pair]), None)
    else:
        stream = _Cut(rows.of(found))
        number = 0
        while number == 0 or (rows_per_file is not None and stream.more()):
            own = name if rows_per_file is None else f"{name or 'part'}-{number:05d}"
            files.write(str(own), found, stream.take(rows_per_file), rows_per_file)
            number += 1
    for path, count in files.rows.items():
        if (held := pq.read_metadata(path).num_rows) != count:
            raise DataError(f"{path}: {count} rows were written and {held} are there")
    out = None if rows.pack is None else rows.pack.result
    return ConvertReport(files.rows, tuple(files.already_there), rows.num_read, out)


def _files(
    sources: str | Sequence[str], joins: Mapping[str, Join]
) -> tuple[list[NamedFile], list[NamedFile]]:
    """The files of the sources, and those of the side tables."""
    found: list[NamedFile] = []
    sides: list[NamedFile] = []
    faults = []
    for pattern in [sources] if isinstance(sources, str) else sources:
        try:
            found += matching_paths(pattern)
        except DataError as error:
            faults.append(f"sources={error}")
    for name, join in joins.items():
        try:
            sides += join.paths
        except DataError as error:
            faults.append(f"joins.{name}.source={error}")
    if faults:
        raise DataError("\n".join(faults))
    return found, sides


@dataclass
class _Rows:
    """The rows of sources after all steps; counts those that were read."""

    types: Mapping[str, str]
    rename: Mapping[str, str]
    joins: Mapping[str, SideTable]
    keys: Sequence[str]
    derive: Mapping[str, Any]
    where: Mapping[str, Any]
    columns: Sequence[str] | None
    pack: Pack | None
    num_read: int = 0
    _seen: set[str] = field(default_factory=set)  # columns of the sources, read or not

    def of(self, found: Sequence[tuple[fs.FileSystem, str]]) -> Iterator[pa.RecordBatch]:
        for filesystem, path in found:
            try:
                for batch in read_batches(filesystem, path, self.types, self._wanted):
                    self.num_read += batch.num_rows
                    table = self._reshaped(pa.Table.from_batches([batch]))
                    if len(table):
                        yield self._as_written(table)
            except DataError as error:
                place = "" if str(error).startswith(path) else f"{path}: "
                raise DataError(f"{place}{error}") from error

    def _wanted(self, column: str) -> bool:
        self._seen.add(column)
        if self.pack is None and self.columns is None:
            return True
        read = {*self.where, *self.keys, *(self.columns or ())}
        read.update(name for entry in self.derive.values() for name in columns_read(entry))
        if self.pack is not None:
            read.update(self.pack.columns)
        return self.rename.get(column, column) in read

    def _reshaped(self, table: pa.Table) -> pa.Table:
        table = renamed(table, self.rename, "rename")
        early = {
            column: self.where[column] for column in self.where if column in table.schema.names
        }
        table = kept(table, early)
        for join in self.joins.values():
            table = join(table)
        table = derived(table, self.derive)
        return kept(table, {c: self.where[c] for c in self.where if c not in early})

    def _as_written(self, table: pa.Table) -> pa.RecordBatch:
        if self.pack is not None:
            return self.pack(table)
        if self.columns is not None:
            require(self.columns, table, "columns", self._seen)
            table = table.select(list(self.columns))
        return _one_batch(table)


class _Cut:
    """Hands out a stream of batches in pieces of a number of rows."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._rest: pa.RecordBatch | None = None

    def more(self) -> bool:
        """Whether rows are left."""
        while self._rest is None or not self._rest.num_rows:
            self._rest = next(self._batches, None)
            if self._rest is None:
                return False
        return True

    def take(self, rows: int | None) -> Iterator[pa.RecordBatch]:
        """The next ``rows`` rows, or all that are left."""
        while (rows is None or rows > 0) and self.more():
            assert self._rest is not None
            piece = self._rest if rows is None else self._rest.slice(0, rows)
            self._rest = self._rest.slice(piece.num_rows)
            rows = None if rows is None else rows - piece.num_rows
            yield piece


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    arrays = [column.combine_chunks() for column in table.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)
