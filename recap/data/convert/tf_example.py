"""Blocks of serialized tf.train.Examples → Arrow record batches in recap's layout.

What is read follows tf.io.parse_example with FixedLenFeature, as the original calls it: a feature
that is absent, or has no list, is zeros; a list of another kind or length is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from recap.data.convert.example_lists import Faults, Lists, Values, readable
from recap.data.convert.segdense import ANY_LENGTH, KINDS, Feature
from recap.data.convert.tfrecord import Block
from recap.data.convert.wire import unpacked_varints
from recap.data.files import DataError
from recap.data.layout import raw_array, raw_field, storage_dtype
from recap.schema import Dense

_DTYPES = {"float_list": "float32", "int64_list": "int64"}


class ExampleDecoder:
    """Turns blocks into record batches of ``schema``; counts in which records features are absent.

    A feature becomes a column of its name: one value a number, several a fixed-size binary of raw
    numbers, any number of them a list. ``stored`` gives features a narrower type of their kind.

    Attributes:
        schema: of all batches.
        absent: feature → in how many records so far it was filled with zeros.
    """

    def __init__(self, features: Sequence[Feature], stored: Mapping[str, str]) -> None:
        names = [each.name for each in features]
        if unknown := [name for name in stored if name not in names]:
            raise ValueError(f"stored: no converted feature is named {', '.join(unknown)}")
        self._columns = [_Column(each, stored.get(each.name)) for each in features]
        self._place = {name.encode(): place for place, name in enumerate(names)}
        self.schema = pa.schema([column.field for column in self._columns])
        self.absent = dict.fromkeys(names, 0)

    def __call__(self, block: Block) -> pa.RecordBatch:
        """The block's records as rows.

        Raises:
            DataError: records that are no Examples or not as the schema says, by number; of each
                feature the first one in this block.
        """
        lists = Lists(block, self._place)
        arrays = []
        for place, column in enumerate(self._columns):
            values = lists.of(place, column.feature.kind)
            self.absent[column.feature.name] += int(np.count_nonzero(values.kind == 0))
            arrays.append(column.array(values, lists.faults))
        if lists.faults:
            faults = sorted(set(lists.faults))
            raise DataError("\n".join(f"record {block.first + row}: {why}" for row, why in faults))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


class _Column:
    """A feature as a column: its field, and its values as an array."""

    def __init__(self, feature: Feature, stored: str | None) -> None:
        self.feature = feature
        self._own = np.dtype(_DTYPES[feature.kind])
        dense = Dense(column=feature.name, length=abs(feature.length), dtype=self._own.name)
        self._dtype = storage_dtype(feature.name, dense, stored)
        arrow = pa.from_numpy_dtype(self._dtype.newbyteorder("="))
        if feature.length == 1:
            self.field = pa.field(feature.name, arrow, nullable=False)
        elif feature.length == ANY_LENGTH:
            self.field = pa.field(feature.name, pa.list_(arrow), nullable=False)
        else:
            self.field = raw_field(feature.name, self._dtype, feature.length)

    def array(self, values: Values, faults: Faults) -> pa.Array:
        """The column's values; adds what does not fit to ``faults``, its first record only."""
        feature = self.feature
        rows = len(values.size)
        other = (values.kind > 0) & (values.kind != KINDS[feature.kind])
        if other.any():
            row = int(np.argmax(other))
            name = {number: name for name, number in KINDS.items()}[int(values.kind[row])]
            faults.append(
                (row, f"feature {feature.name} is a {name}, the schema says {feature.kind}")
            )
            return pa.nulls(rows, self.field.type)
        if feature.length != ANY_LENGTH:
            width = self._own.itemsize if feature.kind == "float_list" else 1
            zeros = bytes(width * feature.length)
            for row in np.flatnonzero(values.kind == 0).tolist():
                values.put(row, zeros)
        counted = self._numbers(values, faults)
        if counted is None:
            return pa.nulls(rows, self.field.type)
        numbers, count = counted
        if feature.length != ANY_LENGTH and (count != feature.length).any():
            row = int(np.argmax(count != feature.length))
            fault = f"has {count[row]} values, its length is {feature.length}"
            faults.append((row, f"feature {feature.name} {fault}"))
            return pa.nulls(rows, self.field.type)
        return self._arrow(self._narrowed(numbers, count, faults), count)

    def _numbers(self, values: Values, faults: Faults) -> tuple[np.ndarray, np.ndarray] | None:
        """(all numbers, how many a record has)."""
        joined, size = values.joined(), values.size
        if self.feature.kind == "float_list":
            if (size % self._own.itemsize).any():
                row = int(np.argmax(size % self._own.itemsize != 0))
                faults.append((row, f"feature {self.feature.name}: its floats are cut off"))
                return None
            return joined.view("<f4"), size // self._own.itemsize
        if not len(joined):
            return np.zeros(0, np.int64), size
        stop = np.cumsum(size)
        cut = (size > 0) & (joined[stop - 1] > 127)
        if cut.any():
            row = int(np.argmax(cut))
            faults.append((row, f"feature {self.feature.name}: its last number is cut off"))
            return None
        try:
            numbers, last = unpacked_varints(joined)
        except ValueError as error:
            row = next(row for row in range(len(size)) if not readable(values.row(row)))
            faults.append((row, f"feature {self.feature.name}: {error}"))
            return None
        if len(numbers) == len(joined):
            return numbers, size
        return numbers, np.diff(np.searchsorted(last, stop), prepend=0)

    def _narrowed(self, numbers: np.ndarray, count: np.ndarray, faults: Faults) -> np.ndarray:
        if self._dtype == self._own:
            return numbers
        with np.errstate(over="ignore"):
            narrow = numbers.astype(self._dtype)
        lost = (
            narrow != numbers
            if narrow.dtype.kind in "iu"
            else np.isinf(narrow) != np.isinf(numbers)
        )
        if lost.any():
            place = int(np.argmax(lost))
            row = int(np.searchsorted(np.cumsum(count), place, side="right"))
            fault = f"{numbers[place]} does not fit {self._dtype.name}"
            faults.append((row, f"feature {self.feature.name}: {fault}"))
        return narrow

    def _arrow(self, numbers: np.ndarray, count: np.ndarray) -> pa.Array:
        if self.feature.length == ANY_LENGTH:
            offsets = pa.array(np.concatenate(([0], np.cumsum(count))).astype(np.int32))
            return pa.ListArray.from_arrays(offsets, pa.array(numbers)).cast(self.field.type)
        if self.feature.length == 1:
            return pa.array(numbers)
        return raw_array(numbers.reshape(-1, self.feature.length))
