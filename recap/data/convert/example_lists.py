"""Where the lists of values lie in a block of serialized tf.train.Examples.

Example {1: Features {1: map entry {1: name, 2: Feature {1 bytes | 2 float | 3 int64 list}}}}; a
list is {1: values}, packed into one piece or not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recap.data.convert.segdense import KINDS
from recap.data.convert.tfrecord import Block
from recap.data.convert.wire import (
    BYTES,
    FIXED32,
    VARINT,
    Fields,
    read_fields,
    read_varints,
    unpacked_varints,
)

Faults = list[tuple[int, str]]  # (row of the block, what is wrong with it)

_BROKEN = "not a tf.train.Example: its wire format is broken"
_FEW_BYTES = 64  # of a record, up to which gathering bytes beats a slice a record
_PACKED = 8 + BYTES
_UNPACKED = {"float_list": 8 + FIXED32, "int64_list": 8 + VARINT}


class Values:
    """One feature's list of every record of a block, as packed bytes.

    Attributes:
        kind: [B] number of the list's kind, see ``KINDS``; 0 where the feature is absent.
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


class Lists:
    """The lists of a block's records, of the features whose name has a ``place``.

    Of a name that stands twice in a record the last one counts, as in any map.

    Attributes:
        faults: records that are not Examples; grows while ``of`` is called.
    """

    def __init__(self, block: Block, place: Mapping[bytes, int]) -> None:
        self.faults: Faults = []
        self._block = block
        self._data = data = np.frombuffer(block.data, np.uint8)
        features = self._checked(read_fields(data, block.start, block.end)).of(1)
        inside = self._checked(read_fields(data, features.start, features.end), features.owner)
        entries = inside.of(1)
        if len(np.unique(features.owner)) < len(features.owner):  # several Features in a record
            entries = entries.at(np.argsort(entries.owner, kind="stable"))
        record = features.owner[entries.owner]
        parts = self._checked(read_fields(data, entries.start, entries.end), record)
        names, contents = parts.of(1), parts.of(2)
        spans = zip(names.start.tolist(), names.end.tolist(), strict=True)
        places = np.array([place.get(block.data[s:e], -1) for s, e in spans], np.int64)
        wanted = _picked(places, _last(names.owner, len(record)))
        known = np.flatnonzero(wanted >= 0)
        self._feature, self._record = wanted[known], record[known]
        content = _last(contents.owner, len(record))[known]
        start = np.maximum(_picked(contents.start, content), 0)
        end = np.maximum(_picked(contents.end, content), 0)
        kinds = self._checked(read_fields(data, start, end), self._record)
        kinds = kinds.at(np.flatnonzero((kinds.tag & 7 == BYTES) & (kinds.tag < 8 * 4)))
        self._kinds = kinds
        self._kind_of = _last(kinds.owner, len(known))
        self._several = np.bincount(kinds.owner, minlength=len(known)) > 1
        tag, after = read_varints(data, kinds.start)
        size, inner = read_varints(data, after)
        whole = (tag == _PACKED) & (size >= 0) & (inner <= kinds.end)
        whole &= (kinds.start < kinds.end) & (size == kinds.end - inner)
        self._regular = whole | (kinds.start == kinds.end)
        self._inner = np.where(whole, inner, kinds.end)

    def of(self, place: int, kind: str) -> Values:
        """The lists of the feature at ``place``; where it is not of ``kind``, only that is told."""
        mine = np.flatnonzero(self._feature == place)
        entry = _picked(mine, _last(self._record[mine], len(self._block)))
        field = _picked(self._kind_of, entry)
        present = field >= 0
        kinds = np.maximum(_picked(self._kinds.tag >> 3, field), 0)
        start = np.maximum(_picked(self._inner, field), 0)
        end = np.maximum(_picked(self._kinds.end, field), 0)
        values = Values(self._block.data, start, end, kinds)
        rows = np.flatnonzero(present & (kinds == KINDS[kind]))
        odd = ~self._regular[field[rows]] | self._several[entry[rows]]
        for row in rows[odd].tolist():
            piece = self._merged(int(entry[row]), kind)
            if piece is None:
                self.faults.append((row, _BROKEN))
            values.put(row, piece or b"")
        return values

    def _checked(self, fields: Fields, record: np.ndarray | None = None) -> Fields:
        for row in np.flatnonzero(fields.malformed)[:1].tolist():
            self.faults.append((row if record is None else int(record[row]), _BROKEN))
        return fields

    def _merged(self, entry: int, kind: str) -> bytes | None:
        """The packed values of a Feature whose list is not one packed piece; None if broken."""
        mine = np.flatnonzero(self._kinds.owner == entry)
        tags = self._kinds.tag[mine]
        others = np.flatnonzero(tags != tags[-1])  # a list of another kind takes the place of all
        pieces = []
        for field in mine[others[-1] + 1 if len(others) else 0 :].tolist():
            start, end = int(self._kinds.start[field]), int(self._kinds.end[field])
            piece = _packed(self._data, start, end, kind)
            if piece is None:
                return None
            pieces.append(piece)
        return b"".join(pieces)


def readable(packed: np.ndarray | bytes) -> bool:
    """Whether varints fill these bytes."""
    try:
        if len(packed):
            unpacked_varints(np.frombuffer(packed, np.uint8))
    except ValueError:
        return False
    return True


def _last(owner: np.ndarray, num_owners: int) -> np.ndarray:
    """[num_owners] the place of each owner's last field, -1 for those without one."""
    last = np.full(num_owners, -1)
    last[owner] = np.arange(len(owner))  # numpy assigns in order, so the last one stays
    return last


def _picked(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """``values[places]``, -1 where the place is -1."""
    if not len(values):
        return np.full(len(places), -1)
    return np.where(places >= 0, values[places], -1)


def _packed(data: np.ndarray, start: int, end: int, kind: str) -> bytes | None:
    """The values of a list message as one packed piece; None if the message is broken."""
    content = data[start:end]
    if kind == "float_list" and len(content) % 5 == 0 and (content[::5] == _UNPACKED[kind]).all():
        return content.reshape(-1, 5)[:, 1:].tobytes()
    if kind == "int64_list" and readable(content):
        numbers, last = unpacked_varints(content)
        if len(numbers) % 2 == 0 and (numbers[::2] == _UNPACKED[kind]).all():
            values = np.repeat(np.arange(len(numbers)) % 2 == 1, np.diff(last, prepend=-1))
            return content[values].tobytes()
    fields = read_fields(data, np.array([start]), np.array([end]))
    if fields.malformed.any():
        return None
    pieces = np.flatnonzero((fields.tag == _PACKED) | (fields.tag == _UNPACKED[kind]))
    spans = zip(fields.start[pieces].tolist(), fields.end[pieces].tolist(), strict=True)
    return b"".join(data[s:e].tobytes() for s, e in spans)
