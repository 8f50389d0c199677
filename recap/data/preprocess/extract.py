"""Single columns of dense inputs as inputs of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from recap.data.preprocess.step import missing_input
from recap.data.rows import Rows
from recap.schema import Dense, Schema


@dataclass(frozen=True, kw_only=True)
class ExtractedFeature:
    """The new dense input ``name``: column ``index``, from 0 on, of the input ``source_tensor``."""

    name: str
    source_tensor: str
    index: int


@dataclass(frozen=True, kw_only=True)
class ExtractFeatures:
    """Makes columns of dense inputs new dense inputs [n, 1], for the model and later steps.

    Columns count as the steps before have left them. The source keeps the column.
    """

    extract_feature_table: Sequence[ExtractedFeature]

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs that columns are taken from."""
        return tuple(dict.fromkeys(row.source_tensor for row in self.extract_feature_table))

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
            name, source, index = row.name, row.source_tensor, row.index
            width = schema.dense[source].width if source in schema.dense else 0
            place = f"extract_feature_table.{number}"
            names[name] += 1
            if names[name] > 1:
                faults.append(f"{place}.name={name}: an input has this name; choose another")
            if source not in schema.dense:
                faults.append(f"{place}.source_tensor={source}: {missing_input(source, schema)}")
            elif not 0 <= index < width:
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
            row.name: rows.dense[row.source_tensor][:, row.index : row.index + 1]
            for row in self.extract_feature_table
        }
        return replace(rows, dense={**rows.dense, **new})
