"""Writes TFRecords of tf.train.Example by hand, in all the ways the wire format allows."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import google_crc32c

KINDS = {"bytes_list": 1, "float_list": 2, "int64_list": 3}


@dataclass
class Listed:
    """A feature's values, and how they are written: in pieces of so many, packed or one by one."""

    kind: str
    values: Sequence
    packed: bool = True
    pieces: int = 1


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    result = b""
    while number > 127:
        result += bytes([number & 127 | 128])
        number >>= 7
    return result + bytes([number])


def piece(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(listed: Listed) -> bytes:
    return piece(KINDS[listed.kind], numbers(listed))


def numbers(listed: Listed) -> bytes:
    values = list(listed.values)
    if listed.kind == "bytes_list":
        return b"".join(piece(1, value) for value in values)
    if listed.kind == "float_list":
        written, tag = [struct.pack("<f", value) for value in values], bytes([1 << 3 | 5])
    else:
        written, tag = [varint(value) for value in values], bytes([1 << 3])
    if not listed.packed:
        return b"".join(tag + each for each in written)
    size = -(-len(written) // listed.pieces) or 1
    cut = [written[start : start + size] for start in range(0, len(written), size)]
    return b"".join(piece(1, b"".join(each)) for each in cut)


def entry(name: str, content: bytes) -> bytes:
    return piece(1, piece(1, name.encode()) + piece(2, content))


def example(features: Mapping[str, Listed]) -> bytes:
    """An Example with the features in their order."""
    return piece(1, b"".join(entry(name, feature(listed)) for name, listed in features.items()))


def masked_crc(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + masked_crc(length) + content + masked_crc(content)


def tfrecord(contents: Iterable[bytes]) -> bytes:
    return b"".join(map(record, contents))
