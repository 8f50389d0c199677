"""The first columns of dense inputs, and those that a mask selects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from recap.data.rows import Rows
from recap.schema import Dense, Schema


@dataclass(frozen=True, kw_only=True)
class TruncateAndSlice:
    """Keeps the first columns of the continuous and binary inputs, then those a mask selects.

    A mask is the path of a ``.npy`` file with one entry per column that is left after truncation;
    columns with a non-zero entry are kept. null leaves an input as it is.
    """

    continuous_feature_truncation: int | None = None
    binary_feature_truncation: int | None = None
    continuous_feature_mask_path: str | None = None
    binary_feature_mask_path: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """No input that the model does not read."""
        return ()

    def schema(self, schema: Schema) -> Schema:
        """``schema`` with the widths that are left.

        Raises:
            ValueError: a truncation beyond the width, or a mask of another length.
        """
        return replace(
            schema,
            dense={name: self._kept(name, dense) for name, dense in schema.dense.items()},
        )

    def __call__(self, rows: Rows) -> Rows:
        """The rows with the columns that are kept; truncation is a view, a mask copies."""
        out = dict(rows.dense)
        for name in ("continuous", "binary"):
            if name in out:
                truncation, mask = self._of(name)
                out[name] = out[name][:, :truncation]
                if mask is not None:
                    kept = np.flatnonzero(self._masks[name])
                    out[name] = np.take(out[name], kept, axis=1)  # four times as fast as [:, kept]
        return replace(rows, dense=out)

    @cached_property
    def _masks(self) -> dict[str, np.ndarray]:
        paths = {name: self._of(name)[1] for name in ("continuous", "binary")}
        return {name: np.load(path) for name, path in paths.items() if path is not None}

    def _of(self, name: str) -> tuple[int | None, str | None]:
        truncation = getattr(self, f"{name}_feature_truncation")
        return truncation, getattr(self, f"{name}_feature_mask_path")

    def _kept(self, name: str, dense: Dense) -> Dense:
        if name not in ("continuous", "binary"):
            return dense
        truncation, mask = self._of(name)
        width = dense.width
        if truncation is not None:
            if not 0 < truncation <= width:
                raise ValueError(
                    f"{name}_feature_truncation={truncation} must lie in 1 … {width}, "
                    f"the length of {name}"
                )
            width = truncation
        if mask is not None:
            if len(entries := self._masks[name]) != width:
                raise ValueError(
                    f"{name}_feature_mask_path={mask} has {len(entries)} entries "
                    f"for {width} columns"
                )
            width = int(np.count_nonzero(entries))
        if width == dense.width:
            return dense
        # what is left has no file column of its own any more: a name stands in for it
        return Dense(column=dense.column or name, length=width, dtype=dense.dtype)
