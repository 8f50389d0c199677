"""Dense inputs in narrower types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from recap.data.files import DataError
from recap.data.preprocess.step import missing_input
from recap.data.rows import BFLOAT16, Rows
from recap.schema import Schema

_INTEGERS = ("int8", "int16", "int32", "int64")
DOWNCASTS = {  # to what → from what
    "bfloat16": ("float32", "float64"),
    "float16": ("float32", "float64"),
    "uint8": _INTEGERS,
    "bool": ("uint8", *_INTEGERS),
}


@dataclass(frozen=True, kw_only=True)
class Downcast:
    """Gives dense inputs a narrower type; ``features``: input → bfloat16, float16, uint8 or bool.

    Floats become bfloat16 or float16, both from float32, rounded to nearest, ties to even; integers
    become uint8, or bool: whether they differ from 0. A batch is smaller by that, on its way to the
    device and there; the model computes in its own precision.
    """

    features: Mapping[str, str]

    @property
    def reads(self) -> tuple[str, ...]:
        """No input that the model does not read."""
        return ()

    def schema(self, schema: Schema) -> Schema:
        """``schema`` with the new types.

        Raises:
            ValueError: an unknown input, or a type that is no narrower one of the same kind; a line
                per fault.
        """
        if faults := [
            fault
            for name, dtype in self.features.items()
            if (fault := _fault(name, dtype, schema)) is not None
        ]:
            raise ValueError("\n".join(faults))
        cast = {
            name: replace(schema.dense[name], dtype=dtype) for name, dtype in self.features.items()
        }
        return replace(schema, dense={**schema.dense, **cast})

    def __call__(self, rows: Rows) -> Rows:
        """The rows with the inputs that are there in their new types.

        Raises:
            DataError: a number that the new type does not hold: below 0 or above 255 as uint8, a
                finite one that float16 would make infinite.
        """
        cast = {
            name: _cast(name, rows.dense[name], dtype)
            for name, dtype in self.features.items()
            if name in rows.dense
        }
        return replace(rows, dense={**rows.dense, **cast})


def _fault(name: str, dtype: str, schema: Schema) -> str | None:
    if name not in schema.dense:
        return f"features.{name}: {missing_input(name, schema)}"
    held = schema.dense[name].dtype
    if dtype not in DOWNCASTS:
        return f"features.{name}={dtype}: must be one of {', '.join(DOWNCASTS)}"
    if held not in DOWNCASTS[dtype]:
        possible = [to for to, sources in DOWNCASTS.items() if held in sources]
        hint = f"it can become {' or '.join(possible)}" if possible else "leave it out"
        return f"features.{name}={dtype}: the input is {held}; {hint}"
    return None


def _cast(name: str, numbers: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bool":
        return numbers != 0
    if dtype == "uint8":
        if numbers.size and (numbers.min() < 0 or numbers.max() > 255):
            raise _refused(name, numbers[(numbers < 0) | (numbers > 255)], dtype)
        return numbers.astype(np.uint8, copy=False)
    # torch rounds many times faster than numpy, and takes no array that cannot be written, as those
    # over a file's bytes are
    single = torch.from_numpy(numbers.astype(np.float32, copy=not numbers.flags.writeable))
    if dtype == "bfloat16":
        return single.to(torch.bfloat16).view(torch.int16).numpy().view(BFLOAT16)
    rounded = single.to(torch.float16).numpy()
    if np.isinf(rounded).any() and (wrong := np.isinf(rounded) & np.isfinite(numbers)).any():
        why = "float16, whose largest is 65504; bfloat16 holds it"
        raise _refused(name, numbers[wrong], why)
    return rounded


def _refused(name: str, numbers: np.ndarray, why: str) -> DataError:
    return DataError(f"downcast.features.{name}: {numbers[0]} does not fit {why}")
