"""Steps from the rows of a table to those that are kept: joins, derived columns, conditions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute
from pyarrow import fs

from recap.data.convert.readers import Types, read_batches
from recap.data.files import DataError, matching_paths
from recap.nearest import nearest

pc: Any = pyarrow.compute  # made at import, so that type checkers see none of its functions

Unmatched = Literal["refuse", "null", "drop"]


@dataclass(frozen=True, kw_only=True)
class Join:
    """A side table whose columns are put beside every row with the same key.

    Args:
        source: path or glob of CSV or Parquet files; the table is held in memory.
        key: its column, or columns, by the names they have after renaming.
        rename: the side table's column → its name in the result.
        unmatched: what becomes of a row whose key the side table does not hold: ``refuse`` stops,
            ``null`` leaves its columns null, ``drop`` leaves the row out.
    """

    source: str | Sequence[str]
    key: str | Sequence[str]
    rename: Mapping[str, str] = field(default_factory=dict)
    unmatched: Unmatched = "refuse"

    def __post_init__(self) -> None:
        if self.unmatched not in get_args(Unmatched):
            allowed = ", ".join(get_args(Unmatched))
            raise ValueError(f"unmatched={self.unmatched!r} is not one of {allowed}")

    @property
    def keys(self) -> list[str]:
        """The names of the key's columns."""
        return [self.key] if isinstance(self.key, str) else list(self.key)

    @property
    def paths(self) -> list[tuple[fs.FileSystem, str]]:
        """The side table's files."""
        patterns = [self.source] if isinstance(self.source, str) else self.source
        return [found for pattern in patterns for found in matching_paths(pattern)]


class SideTable:
    """The table of one join, in memory.

    Raises DataError if a key's column is missing or a key stands there twice, which would multiply
    rows.
    """

    def __init__(self, name: str, join: Join, types: Types) -> None:
        self._name, self._join = f"join {name}", join
        parts = [
            pa.Table.from_batches(read_batches(filesystem, path, types, lambda column: True))
            for filesystem, path in join.paths
        ]
        table = renamed(pa.concat_tables(parts), join.rename, self._name)
        require(join.keys, table, self._name)
        self._values = [table.column(key).unique().drop_null() for key in join.keys]
        codes = self._codes(table)
        table, codes = table.filter(codes.is_valid()), codes.drop_null()
        counts = pc.value_counts(codes)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        if len(twice):
            rows = table.take(pc.index_in(twice.slice(0, 3), value_set=codes))
            raise DataError(
                f"{self._name}: {len(twice)} keys stand in {join.source} more than once and would "
                f"multiply rows: {_listed(rows.select(join.keys))}"
            )
        self._row_codes = codes
        self._columns = table.drop_columns(join.keys)

    def __call__(self, table: pa.Table) -> pa.Table:
        """``table`` with the side table's columns behind its own, rows in their order."""
        require(self._join.keys, table, self._name)
        if twice := [name for name in self._columns.column_names if name in table.column_names]:
            raise DataError(
                f"{self._name}: column {twice[0]!r} is in the rows already; rename it, e.g. "
                f"joins.{self._name.removeprefix('join ')}.rename.{twice[0]}=other_{twice[0]}"
            )
        place = pc.index_in(self._codes(table), value_set=self._row_codes)
        if place.null_count and self._join.unmatched != "null":
            lost = table.filter(place.is_null())
            if self._join.unmatched == "refuse":
                raise DataError(
                    f"{self._name}: {len(lost)} rows have a key that {self._join.source} does not "
                    f"hold: {_listed(lost.select(self._join.keys).slice(0, 3))}; unmatched=null "
                    "leaves their columns null, unmatched=drop leaves the rows out"
                )
            table, place = table.filter(place.is_valid()), place.drop_null()
        found = self._columns.take(place)
        for column, values in zip(found.schema, found.columns, strict=True):
            table = table.append_column(column, values)
        return table

    def _codes(self, table: pa.Table) -> pa.Array:
        """A number for each key of several columns [rows]; null where the side table has none."""
        code: pa.Array | None = None
        for key, values in zip(self._join.keys, self._values, strict=True):
            column = table.column(key).combine_chunks()
            if column.type != values.type:
                try:
                    column = column.cast(values.type)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise DataError(
                        f"{self._name}: key {key!r} is {column.type} in the rows and "
                        f"{values.type} in {self._join.source}; state one type for both, e.g. "
                        f"types.{key}=string"
                    ) from error
            place = pc.index_in(column, value_set=values).cast(pa.int64())
            code = place if code is None else pc.add(pc.multiply(code, len(values)), place)
        assert code is not None
        return code


def renamed(table: pa.Table, names: Mapping[str, str], where: str) -> pa.Table:
    """``table`` with columns renamed; DataError if two would have one name."""
    new = [names.get(name, name) for name in table.column_names]
    if twice := [name for name in new if new.count(name) > 1]:
        raise DataError(f"{where}: two columns would be named {twice[0]!r}; rename one of them")
    return table.rename_columns(new)


def kept(table: pa.Table, where: Mapping[str, Any]) -> pa.Table:
    """The rows that fulfil every condition: column → value, [first, last] or {in: [values]}.

    Both ends of a range belong to it and may be null for open. A null fulfils no condition.
    """
    for column, condition in where.items():
        require([column], table, "where")
        held = table.column(column)
        try:
            table = table.filter(_fulfilled(column, held, condition))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise DataError(f"where.{column}={condition} and a column of {held.type}") from error
    return table


def derived(table: pa.Table, derive: Mapping[str, Any]) -> pa.Table:
    """``table`` with a new column per entry, see :func:`evaluated`; later ones may read earlier."""
    for name, expression in derive.items():
        if name in table.column_names:
            raise DataError(f"derive.{name}: a column of this name is there already")
        try:
            values = evaluated(table, expression, f"derive.{name}")
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise DataError(f"derive.{name}: {error}") from error
        table = table.append_column(name, values)
    return table


def evaluated(table: pa.Table, expression: Any, place: str) -> Any:
    """The value of an expression: a column by its name, a number, or a function of expressions.

    A function is ``{function: NAME, of: [expressions], **options}`` with the names and options of
    ``pyarrow.compute``: ``{function: divide, of: [hourmin, 100]}`` is the hour.
    """
    if isinstance(expression, str):
        require([expression], table, place)
        return table.column(expression)
    if not isinstance(expression, Mapping):
        return expression
    options = dict(expression)
    name, of = options.pop("function", None), options.pop("of", None)
    known = [*pc.list_functions(), "cast"]
    if name not in known or not hasattr(pc, name) or not isinstance(of, Sequence):
        hint = "" if name in known else f"; {nearest(str(name), known)}"
        raise DataError(
            f"{place}: write {{function: a function of pyarrow.compute, of: [columns, numbers]}}, "
            f"not {dict(expression)}{hint}"
        )
    return getattr(pc, name)(*(evaluated(table, part, place) for part in of), **options)


def columns_read(expression: Any) -> Iterator[str]:
    """The names of the columns that an expression reads."""
    if isinstance(expression, str):
        yield expression
    elif isinstance(expression, Mapping):
        for part in expression.get("of", ()):
            yield from columns_read(part)


def require(
    columns: Sequence[str], table: pa.Table, where: str, known: Collection[str] = ()
) -> None:
    """DataError with the nearest of its and ``known`` names unless ``table`` has ``columns``."""
    faults = []
    for column in columns:
        if column not in table.column_names:
            names = [*dict.fromkeys([*table.column_names, *known])]
            faults.append(f"{where}: there is no column {column!r}; {nearest(column, names)}")
    if faults:
        raise DataError("\n".join(faults))


def _fulfilled(column: str, held: pa.ChunkedArray, condition: Any) -> pa.ChunkedArray:
    if isinstance(condition, Mapping) and set(condition) == {"in"}:
        return pc.is_in(held, value_set=pa.array(condition["in"], held.type), skip_nulls=True)
    if isinstance(condition, Sequence) and not isinstance(condition, str) and len(condition) == 2:
        first, last = condition
        result = held.is_valid()
        if first is not None:
            result = pc.and_(result, pc.greater_equal(held, pa.scalar(first, held.type)))
        if last is not None:
            result = pc.and_(result, pc.less_equal(held, pa.scalar(last, held.type)))
        return result
    if isinstance(condition, Sequence | Mapping) and not isinstance(condition, str):
        raise DataError(f"where.{column}={condition}: write a value, [first, last] or {{in: [a]}}")
    return pc.equal(held, pa.scalar(condition, held.type))


def _listed(keys: pa.Table) -> str:
    return ", ".join(
        " ".join(f"{name}={value}" for name, value in row.items()) for row in keys.to_pylist()
    )
