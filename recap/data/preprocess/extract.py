"""Single columns of dense inputs as inputs of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recap.data.preprocess.step import missing_input
from recap.data.rows import Rows
from recap.schema import Dense, Schema

_KEYS = {"name": str, "source_tensor": str, "index": int}


@dataclass(frozen=True, kw_only=True)
class ExtractFeatures:
    """Makes columns of dense inputs new dense inputs [n, 1], for the model and later steps.

    Each row of ``extract_feature_table`` is ``{name, source_tensor, index}``: the new input's name,
    the input it is taken from and which of its columns it is, from 0 on, as the steps before have
    left them. The source keeps the column.
    """

    extract_feature_table: Sequence[Mapping[str, Any]]

    def __post_init__(self) -> None:
        faults = []
        for number, row in enumerate(self.extract_feature_table):
            if {key: type(value) for key, value in row.items()} != _KEYS:
                faults.append(
                    f"extract_feature_table.{number}={dict(row)}: must be "
                    "{name: …, source_tensor: …, index: …}, index a whole number"
                )
        if faults:
            raise ValueError("\n".join(faults))

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs that columns are taken from."""
        return tuple(dict.fromkeys(row["source_tensor"] for row in self.extract_feature_table))

    def schema(self, schema: Schema) -> Schema:
        """``schema`` with the new inputs, of their sources' types.

        Raises:
            ValueError: an unknown source, an index beyond its columns, a name that is taken; a line
                per fault.
        """
        new: dict[str, Dense] = {}
        faults = []
        names = Counter([*schema.dense, *schema.sparse])
        for number, row in enumerate(self.extract_feature_table):
            name, source, index = row["name"], row["source_tensor"], row["index"]
            place = f"extract_feature_table.{number}"
            names[name] += 1
            if names[name] > 1:
                faults.append(f"{place}.name={name}: an input has this name; choose another")
            if source not in schema.dense:
                faults.append(f"{place}.source_tensor={source}: {missing_input(source, schema)}")
            elif not 0 <= index < (width := schema.dense[source].width):
                faults.append(
                    f"{place}.index={index} must lie in 0 … {width - 1}, the columns of {source}"
                )
            else:
                # it has no file column of its own: a name stands in for it
                column = f"{source}[{index}]"
                new[name] = Dense(column=column, length=1, dtype=schema.dense[source].dtype)
        if faults:
            raise ValueError("\n".join(faults))
        return replace(schema, dense={**schema.dense, **new})

    def __call__(self, rows: Rows) -> Rows:
        """The rows with the new inputs, which are views of their sources."""
        new = {
            row["name"]: rows.dense[row["source_tensor"]][:, row["index"] : row["index"] + 1]
            for row in self.extract_feature_table
        }
        return replace(rows, dense={**rows.dense, **new})
