"""Positives that came too late to be due to the impression become negatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from recap.data.preprocess.step import missing_input
from recap.data.rows import Rows
from recap.nearest import nearest
from recap.schema import Schema

MS_PER_HOUR = 3_600_000


@dataclass(frozen=True, kw_only=True)
class RectifyLabels:
    """Keeps a positive only if impression and engagement came soon after serving.

    A label of 1 stays 1 if impressed − served and engaged − served are both under
    ``label_rectification_window_in_hours``; else it becomes 0. The times are dense inputs of one
    int64 a row, in ms (a null is the time 0); the model need not read them.

    Args:
        served_timestamp_field: the input that holds when the row was served.
        impressed_timestamp_field: the input that holds when the user saw it.
        label_to_engaged_timestamp_field: label → the input that holds when the user engaged.
        label_rectification_window_in_hours: the window, above 0.
    """

    served_timestamp_field: str
    impressed_timestamp_field: str
    label_to_engaged_timestamp_field: Mapping[str, str]
    label_rectification_window_in_hours: float = 3.0

    def __post_init__(self) -> None:
        if not self.label_rectification_window_in_hours > 0:
            raise ValueError(
                "label_rectification_window_in_hours="
                f"{self.label_rectification_window_in_hours} must be above 0"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs that hold times."""
        times = [self.served_timestamp_field, self.impressed_timestamp_field]
        return tuple(dict.fromkeys([*times, *self.label_to_engaged_timestamp_field.values()]))

    def schema(self, schema: Schema) -> Schema:
        """``schema`` as it is.

        Raises:
            ValueError: a label or a time that the schema does not name, or a time that is not one
                int64 a row; a line per fault.
        """
        fields = {
            "served_timestamp_field": self.served_timestamp_field,
            "impressed_timestamp_field": self.impressed_timestamp_field,
        }
        faults = []
        for label, field in self.label_to_engaged_timestamp_field.items():
            fields[f"label_to_engaged_timestamp_field.{label}"] = field
            if label not in schema.labels:
                faults.append(
                    f"label_to_engaged_timestamp_field.{label}: the schema has no such label; "
                    f"{nearest(label, schema.labels)}"
                )
        for key, field in fields.items():
            if field not in schema.dense:
                faults.append(f"{key}={field}: {missing_input(field, schema)}")
                continue
            dense = schema.dense[field]
            if dense.dtype != "int64" or dense.width != 1:
                faults.append(
                    f"{key}={field}: the input holds {dense.width} × {dense.dtype} a row; "
                    "a time in ms is 1 × int64"
                )
        if faults:
            raise ValueError("\n".join(faults))
        return schema

    def __call__(self, rows: Rows) -> Rows:
        """The rows with the labels that stay; weights stay those of the labels as stored."""
        served = rows.dense[self.served_timestamp_field].astype(np.int64, copy=False)
        impressed = rows.dense[self.impressed_timestamp_field]
        window = self.label_rectification_window_in_hours * MS_PER_HOUR
        seen = impressed - served < window
        labels = rows.labels.copy()
        for label, field in self.label_to_engaged_timestamp_field.items():
            if label in rows.tasks:
                kept = seen & (rows.dense[field] - served < window)  # [n, 1]
                labels[:, rows.tasks.index(label)] *= kept[:, 0]
        return replace(rows, labels=labels)
