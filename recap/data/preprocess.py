"""Steps applied to decoded rows before they become batches, in the order they are written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from recap.schema import Dense, Schema


class Step(Protocol):
    """One step: what it makes of the schema, and of the rows."""

    def schema(self, schema: Schema) -> Schema:
        """The schema of the rows that come out when rows of ``schema`` go in."""
        ...

    def __call__(self, dense: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The dense inputs [n, width] by name, transformed."""
        ...


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

    def schema(self, schema: Schema) -> Schema:
        """``schema`` with the widths that are left.

        Raises:
            ValueError: a truncation beyond the width, or a mask of another length.
        """
        return replace(
            schema,
            dense={name: self._kept(name, dense) for name, dense in schema.dense.items()},
        )

    def __call__(self, dense: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``dense`` with the columns that are kept; truncation is a view, a mask copies."""
        out = dict(dense)
        for name in ("continuous", "binary"):
            if name in dense:
                truncation, mask = self._of(name)
                out[name] = out[name][:, :truncation]
                if mask is not None:
                    out[name] = out[name][:, np.flatnonzero(self._masks[name])]
        return out

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
