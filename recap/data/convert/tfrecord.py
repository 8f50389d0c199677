"""TFRecord files, gzip or plain, as blocks of records whose checksums have been verified.

A record is its length (uint64), the masked crc32c of these eight bytes, its bytes and their masked
crc32c, all little-endian. isal inflates about 2.6 times as fast as Python's zlib.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import google_crc32c
import numpy as np
import pyarrow as pa
from isal import isal_zlib

from recap.data.convert.wire import PADDING
from recap.data.files import DataError

BLOCK_BYTES = 8 << 20  # a block in memory; one longer record makes a longer block
BLOCK_RECORDS = 4096
READ_BYTES = 1 << 18  # of the file at a time
INFLATED_BYTES = 1 << 20  # at most, of one step of inflating
MAX_RECORD_BYTES = (1 << 31) - 1  # of any message of protocol buffers

_GZIP = 16 + 15  # wbits of a gzip stream
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


@dataclass(frozen=True)
class Block:
    """Records ``data[start[i]:end[i]]``; the first is number ``first`` of the file, from 0 on.

    ``data`` ends in bytes that are no record's, see ``recap.data.convert.wire.PADDING``.
    """

    data: bytes
    start: np.ndarray
    end: np.ndarray
    first: int

    def __len__(self) -> int:
        return len(self.start)


def read_blocks(file: pa.NativeFile, block_bytes: int = BLOCK_BYTES) -> Generator[Block]:
    """The records of a TFRecord file in order, in bounded memory; whether it is gzip is seen.

    Raises:
        DataError: a wrong checksum, a record or a gzip stream that is cut off, with the number of
            the record; a file of 0 bytes. Every record before it has been handed out.
    """
    head = file.read(_HEADER.size)
    file.seek(0)
    if not head:
        raise DataError("the file is empty (0 bytes)")
    # a plain file may start with gzip's first two bytes, which are then a length's
    gzip = head[:2] == b"\x1f\x8b" and not _plain(head)
    yield from _blocks(inflated(file) if gzip else _read(file), block_bytes)


def _blocks(chunks: Iterator[bytes], block_bytes: int) -> Generator[Block]:
    rest, number = b"", 0  # of a record that is not whole yet; of the next record
    more = True
    while more:
        room = max(block_bytes, 2 * len(rest))
        pieces, size, fault = [rest], len(rest), ""
        while size < room and more:
            try:
                piece = next(chunks, b"")
            except DataError as error:
                piece, fault = b"", str(error)
            more = bool(piece)
            pieces.append(piece)
            size += len(piece)
        data = b"".join([*pieces, PADDING])
        start, end, unread, wrong = _records(data, size)
        for piece in range(0, len(start), BLOCK_RECORDS):
            part = slice(piece, piece + BLOCK_RECORDS)
            yield Block(data, np.array(start[part]), np.array(end[part]), number + piece)
        number += len(start)
        rest = data[unread:size]
        if not wrong and rest and not more:
            wrong = "the file ends in the middle of it"
        if wrong or fault:
            raise DataError(
                f"record {number}: " + "; ".join(each for each in (wrong, fault) if each)
            )


def _records(data: bytes, size: int) -> tuple[list[int], list[int], int, str]:
    """(starts, ends of the whole records in ``data``; start of the next one, what is wrong)."""
    starts: list[int] = []
    ends: list[int] = []
    crc32c = google_crc32c.value
    at = 0
    while at + _HEADER.size <= size:
        length, checksum = _HEADER.unpack_from(data, at)
        if _masked(crc32c(data[at : at + 8])) != checksum:
            return starts, ends, at, "the checksum of its length is wrong"
        if length > MAX_RECORD_BYTES:
            return starts, ends, at, f"{length} bytes long; a tf.train.Example is below 2 GiB"
        start = at + _HEADER.size
        end = start + length
        if end + _FOOTER.size > size:
            break
        if _masked(crc32c(data[start:end])) != _FOOTER.unpack_from(data, end)[0]:
            return starts, ends, at, "the checksum of its content is wrong"
        starts.append(start)
        ends.append(end)
        at = end + _FOOTER.size
    return starts, ends, at, ""


def _masked(crc: int) -> int:
    """TFRecord's mask, so that the crc of bytes that hold crcs is a good one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _plain(head: bytes) -> bool:
    if len(head) < _HEADER.size:
        return False
    return _masked(google_crc32c.value(head[:8])) == _HEADER.unpack(head)[1]


def _read(file: pa.NativeFile) -> Iterator[bytes]:
    while chunk := file.read(READ_BYTES):
        yield chunk


def inflated(file: pa.NativeFile) -> Iterator[bytes]:
    """The content of a gzip file of one or more members, which zeros may follow."""
    member = None
    try:
        while chunk := file.read(READ_BYTES):
            while chunk:
                if member is None:
                    chunk = chunk.lstrip(b"\0")
                    if not chunk:
                        break
                    member = isal_zlib.decompressobj(wbits=_GZIP)
                if piece := member.decompress(chunk, INFLATED_BYTES):
                    yield piece
                chunk = member.unconsumed_tail
                if member.eof:
                    chunk, member = member.unused_data, None
        while member is not None:
            if piece := member.decompress(b"", INFLATED_BYTES):
                yield piece
            elif not member.eof:
                raise DataError("the gzip stream is cut off")
            if member.eof:
                member = None
    except isal_zlib.error as error:  # pyright: ignore[reportGeneralTypeIssues]
        raise DataError(
            f"the gzip stream is damaged, here or within the next MiB ({error})"
        ) from error
