"""Blocks of serialized tf.train.Examples → Arrow record batches in recap's layout.

Example {1: Features {1: map entry {1: name, 2: Feature {1 bytes | 2 float | 3 int64 list}}}}; a list
is {1: values}, packed into one piece or not. What is read follows tf.io.parse_example with
FixedLenFeature, as the original calls it: an absent feature, or one without a list, is zeros; of a
name that stands twice the last one counts; a list of another kind or length is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from recap.data.files import DataError
from recap.data.layout import raw_array, raw_field, storage_dtype
from recap.data.segdense import ANY_LENGTH, KINDS, Feature
from recap.data.tfrecord import Block
from recap.data.wire import (
    BYTES,
    FIXED32,
    VARINT,
    Fields,
    read_fields,
    read_varints,
    unpacked_varints,
)
from recap.schema import Dense

_PACKED = 8 + BYTES
_UNPACKED = {"float_list": 8 + FIXED32, "int64_list": 8 + VARINT}
_BROKEN = "not a tf.train.Example: its wire format is broken"
_FEW_BYTES = 64  # of a record, up to which gathering bytes beats a slice a record
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
        self._columns = [_Column(each, stored.get(each.name)) for each in features]
        self._place = {each.name.encode(): place for place, each in enumerate(features)}
        self.schema = pa.schema([column.field for column in self._columns])
        self.absent = {each.name: 0 for each in features}

    def __call__(self, block: Block) -> pa.RecordBatch:
        """The block's records as rows.

        Raises:
            DataError: records that are not such Examples, each feature's first one, by number.
        """
        lists = _Lists(block, self._place)
        faults = lists.faults
        arrays = []
        for place, column in enumerate(self._columns):
            values = lists.of(place, column.feature.kind)
            self.absent[column.feature.name] += int(np.count_nonzero(values.kind == 0))
            arrays.append(column.array(values, faults))
        if faults:
            raise DataError(
                "\n".join(f"record {block.first + row}: {fault}" for row, fault in sorted(faults))
            )
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


Faults = list[tuple[int, str]]  # (row of the block, what is wrong)


class _Values:
    """One feature's list of every record of a block, as packed bytes.

    Attributes:
        kind: [B] number of the list's kind, 0 where the feature is absent.
        size: [B] bytes of the values.
    """

    def __init__(self, data: bytes, start: np.ndarray, end: np.ndarray, kind: np.ndarray) -> None:
        self.kind = kind
        self.size = end - start
        self._data, self._start = data, start
        self._pieces: dict[int, bytes] = {}

    def put(self, row: int, values: bytes) -> None:
        """Gives the record at ``row`` these values."""
        self._pieces[row] = values
        self.size[row] = len(values)

    def row(self, row: int) -> bytes:
        """The values of one record."""
        start = int(self._start[row])
        return self._pieces.get(row, self._data[start : start + int(self.size[row])])

    def joined(self) -> np.ndarray:
        """[N] uint8, the values of all records one after the other."""
        total = int(self.size.sum())
        if not self._pieces and total <= _FEW_BYTES * len(self.size):
            before = np.cumsum(self.size) - self.size
            places = np.repeat(self._start - before, self.size) + np.arange(total)
            return np.frombuffer(self._data, np.uint8)[places]
        view = memoryview(self._data)
        stop = self._start + self.size
        spans = zip(self._start.tolist(), stop.tolist(), strict=True)
        pieces: list[memoryview | bytes] = [view[s:e] for s, e in spans]
        for row, piece in self._pieces.items():
            pieces[row] = piece
        return np.frombuffer(b"".join(pieces), np.uint8)


class _Lists:
    """Where the lists of a block's records lie."""

    def __init__(self, block: Block, place: Mapping[bytes, int]) -> None:
        self.faults: Faults = []
        self._block = block
        self._data = data = np.frombuffer(block.data, np.uint8)
        features = self._checked(read_fields(data, block.start, block.end), None).of(1)
        entries = self._checked(read_fields(data, features.start, features.end), features.owner)
        entries = entries.of(1)
        if len(np.unique(features.owner)) < len(features.owner):  # several Features in one record
            entries = entries.at(np.argsort(entries.owner, kind="stable"))
        record = features.owner[entries.owner]
        parts = self._checked(read_fields(data, entries.start, entries.end), record)
        names, contents = parts.of(1), parts.of(2)
        name_of = _last(names.owner, len(record))
        content_of = _last(contents.owner, len(record))
        wanted = np.full(len(record), -1)
        get = place.get
        spans = zip(names.start.tolist(), names.end.tolist(), strict=True)
        found = np.array([get(block.data[s:e], -1) for s, e in spans], np.int64)
        named = name_of >= 0
        wanted[named] = found[name_of[named]]
        known = np.flatnonzero(wanted >= 0)
        self._feature, self._record = wanted[known], record[known]
        content = content_of[known]
        start = (
            np.where(content >= 0, contents.start[content], 0)
            if len(contents.start)
            else content * 0
        )
        end = np.where(content >= 0, contents.end[content], 0) if len(contents.start) else start
        kinds = self._checked(read_fields(data, start, end), self._record)
        kinds = kinds.at(np.flatnonzero((kinds.tag & 7 == BYTES) & (kinds.tag < 8 * 4)))
        self._kinds = kinds
        self._kind_of = _last(kinds.owner, len(known))
        self._split = np.bincount(kinds.owner, minlength=len(known)) > 1
        tag, after = read_varints(data, kinds.start)
        size, inner = read_varints(data, after)
        empty = kinds.start == kinds.end
        whole = (tag == _PACKED) & (inner + size == kinds.end)
        self._regular = whole | empty
        self._inner = np.where(whole, inner, kinds.end)

    def _checked(self, fields: Fields, record: np.ndarray | None) -> Fields:
        for row in np.flatnonzero(fields.malformed)[:1].tolist():
            number = row if record is None else int(record[row])
            self.faults.append((number, _BROKEN))
        return fields

    def of(self, place: int, kind: str) -> _Values:
        """The lists of the feature at ``place``, those of ``kind`` as packed values."""
        mine = np.flatnonzero(self._feature == place)
        entry = _last(self._record[mine], len(self._block))
        entry[entry >= 0] = mine[entry[entry >= 0]]
        found = entry >= 0
        field = np.where(found, self._kind_of[entry], -1) if len(mine) else entry
        present = field >= 0
        if not present.any():
            return _Values(b"", *np.zeros((3, len(self._block)), np.int64))
        start = np.where(present, self._inner[field], 0)
        end = np.where(present, self._kinds.end[field], 0)
        kinds = np.where(present, self._kinds.tag[field] >> 3, 0)
        values = _Values(self._block.data, start, end, kinds)
        odd = present & (~self._regular[field] | self._split[entry]) & (kinds == KINDS[kind])
        for row in np.flatnonzero(odd).tolist():
            piece = self._merged(int(entry[row]), kind)
            if piece is None:
                self.faults.append((row, _BROKEN))
            values.put(row, piece or b"")
        return values

    def _merged(self, entry: int, kind: str) -> bytes | None:
        """The packed values of a Feature whose list is not one packed piece."""
        mine = np.flatnonzero(self._kinds.owner == entry)
        tags = self._kinds.tag[mine]
        others = np.flatnonzero(tags != tags[-1])  # a list of another kind takes the place of all
        mine = mine[others[-1] + 1 if len(others) else 0 :]
        pieces = [
            _packed(self._data, int(self._kinds.start[field]), int(self._kinds.end[field]), kind)
            for field in mine
        ]
        return None if any(piece is None for piece in pieces) else b"".join(pieces)  # pyright: ignore


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

    def array(self, values: _Values, faults: Faults) -> pa.Array:
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
            faults.append(
                (
                    row,
                    f"feature {feature.name} has {count[row]} values, its length is {feature.length}",
                )
            )
            return pa.nulls(rows, self.field.type)
        return self._arrow(self._narrowed(numbers, count, faults), count)

    def _numbers(self, values: _Values, faults: Faults) -> tuple[np.ndarray, np.ndarray] | None:
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
            row = next(row for row in range(len(size)) if not _readable(values.row(row)))
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
            faults.append(
                (
                    row,
                    f"feature {self.feature.name}: {numbers[place]} does not fit {self._dtype.name}",
                )
            )
        return narrow

    def _arrow(self, numbers: np.ndarray, count: np.ndarray) -> pa.Array:
        if self.feature.length == ANY_LENGTH:
            offsets = pa.array(np.concatenate(([0], np.cumsum(count))).astype(np.int32))
            return pa.ListArray.from_arrays(offsets, pa.array(numbers)).cast(self.field.type)
        if self.feature.length == 1:
            return pa.array(numbers)
        return raw_array(numbers.reshape(-1, self.feature.length))


def _last(owner: np.ndarray, num_owners: int) -> np.ndarray:
    """[num_owners] the place of each owner's last field, -1 for those without one."""
    last = np.full(num_owners, -1)
    last[owner] = np.arange(len(owner))  # numpy assigns in order, so the last one stays
    return last


def _packed(data: np.ndarray, start: int, end: int, kind: str) -> bytes | None:
    """The values of a list message as one packed piece; None if the message is broken."""
    content = data[start:end]
    if kind == "float_list" and len(content) % 5 == 0 and (content[::5] == _UNPACKED[kind]).all():
        return content.reshape(-1, 5)[:, 1:].tobytes()
    if kind == "int64_list" and _readable(content):
        numbers, last = unpacked_varints(content)
        if len(numbers) % 2 == 0 and (numbers[::2] == _UNPACKED[kind]).all():
            values = np.repeat(np.arange(len(numbers)) % 2 == 1, np.diff(last, prepend=-1))
            return content[values].tobytes()
    fields = read_fields(data, np.array([start]), np.array([end]))
    if fields.malformed.any():
        return None
    values = np.flatnonzero((fields.tag == _PACKED) | (fields.tag == _UNPACKED[kind]))
    spans = zip(fields.start[values].tolist(), fields.end[values].tolist(), strict=True)
    return b"".join(data[s:e].tobytes() for s, e in spans)


def _readable(packed: np.ndarray | memoryview | bytes) -> bool:
    """Whether varints fill these bytes."""
    try:
        if len(packed):
            unpacked_varints(np.frombuffer(packed, np.uint8))
    except ValueError:
        return False
    return True
