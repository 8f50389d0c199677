"""The wire format of protocol buffers, read of many messages at once with numpy.

Messages lie in one array of bytes. What one of them needs per field is done for all of them
together: every message has a cursor, and all cursors take their next field in the same step. So the
cost of Python is paid per step, not per message and never per number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; the groups, 3 and 4, are refused
VARINT_BYTES = 10  # at most, of a 64 bit number
PADDING = bytes(2 * VARINT_BYTES)  # a cursor before the end may read a tag and a size beyond it


@dataclass(frozen=True)
class Fields:
    """The fields of many messages, F in all: those of one message stand in their order.

    Attributes:
        owner: [F] the message that a field belongs to.
        tag: [F] 8 · field number + wire type.
        start, end: [F] where the content lies.
        malformed: [M] bool, the messages that do not end where they should or hold a group.
    """

    owner: np.ndarray
    tag: np.ndarray
    start: np.ndarray
    end: np.ndarray
    malformed: np.ndarray

    def of(self, number: int) -> Fields:
        """The fields of this number that are messages, strings or packed numbers."""
        chosen = np.flatnonzero(self.tag == 8 * number + BYTES)
        if len(chosen) == len(self.tag):
            return self
        return self.at(chosen)

    def at(self, places: np.ndarray) -> Fields:
        """The fields at ``places``."""
        return Fields(
            self.owner[places],
            self.tag[places],
            self.start[places],
            self.end[places],
            self.malformed,
        )


def read_fields(data: np.ndarray, start: np.ndarray, end: np.ndarray) -> Fields:
    """All fields of the messages ``data[start:end]``; ``data`` [N] uint8 ends in PADDING."""
    malformed = np.zeros(len(start), bool)
    owner = np.flatnonzero(start < end)
    cursor, stop = start[owner], end[owner]
    steps: list[tuple[np.ndarray, ...]] = []
    while len(owner):
        tag, content = read_varints(data, cursor)
        size, after = _sizes(data, tag & 7, content)
        field_end = after + size
        whole = (tag >= 8) & (size >= 0) & (after <= stop) & (size <= stop - after)
        if not whole.all():
            malformed[owner[~whole]] = True
            owner, tag, after, field_end, stop = (
                each[whole] for each in (owner, tag, after, field_end, stop)
            )
        steps.append((owner, tag, after, field_end))
        more = field_end < stop
        if more.all():
            cursor = field_end
        else:
            owner, cursor, stop = owner[more], field_end[more], stop[more]
    if not steps:
        none = np.zeros(0, np.int64)
        return Fields(none, none, none, none, malformed)
    owner, tag, content, field_end = (np.concatenate(each) for each in zip(*steps, strict=True))
    return Fields(owner, tag, content, field_end, malformed)


def read_varints(data: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(number, place behind it) of the varint at each place; -1 for one that is too long."""
    byte = data[at]
    value = (byte & 127).astype(np.int64)
    after = at + 1
    more = np.flatnonzero(byte > 127)
    shift = 7
    while len(more):
        if shift == 7 * VARINT_BYTES:
            value[more] = -1
            break
        byte = data[after[more]]
        value[more] |= (byte & 127).astype(np.int64) << shift
        after[more] += 1
        more = more[byte > 127]
        shift += 7
    return value, after


def _sizes(data: np.ndarray, kind: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bytes, place) of the contents that follow tags; -1 for a kind that cannot be."""
    if (kind == BYTES).all():
        return read_varints(data, at)
    size = np.full(len(at), -1, np.int64)
    place = at.copy()
    bytes_ = np.flatnonzero(kind == BYTES)
    size[bytes_], place[bytes_] = read_varints(data, at[bytes_])
    varint = np.flatnonzero(kind == VARINT)
    _, after = read_varints(data, at[varint])
    size[varint] = after - at[varint]
    size[kind == FIXED32] = 4
    size[kind == FIXED64] = 8
    return size, place


def unpacked_varints(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(numbers [V] int64, place of each one's last byte) of the varints that fill ``packed``.

    Raises:
        ValueError: a varint that does not end or is longer than 10 bytes.
    """
    final = packed < 128
    if final.all():
        return packed.astype(np.int64), np.arange(len(packed))
    last = np.flatnonzero(final)
    if not final[-1]:
        raise ValueError("the last number does not end")
    first = np.concatenate(([0], last[:-1] + 1))
    length = last - first + 1
    if length.max() > VARINT_BYTES:
        raise ValueError(f"a number is longer than {VARINT_BYTES} bytes")
    value = (packed[first] & 127).astype(np.int64)
    longer = np.flatnonzero(length > 1)
    for k in range(1, VARINT_BYTES):
        if not len(longer):
            break
        value[longer] |= (packed[first[longer] + k] & 127).astype(np.int64) << (7 * k)
        longer = longer[length[longer] > k + 1]
    return value, last
