"""The frame of TFRecord files: lengths, checksums, gzip."""

import gzip

import pyarrow as pa
import pytest
from tf_examples import record, tfrecord

from recap.data.convert.tfrecord import read_blocks
from recap.data.files import DataError

CONTENTS = [b"first", b"", b"the third one", bytes(range(256)) * 4]
PLAIN = tfrecord(CONTENTS)


def read(content: bytes, block_bytes: int = 1 << 20) -> list[bytes]:
    """The records' contents; checks their numbers."""
    found: list[bytes] = []
    for block in read_blocks(pa.PythonFile(pa.BufferReader(content)), block_bytes):
        assert block.first == len(found)
        spans = zip(block.start, block.end, strict=True)
        found += [block.data[start:end] for start, end in spans]
    return found


def fault(content: bytes) -> str:
    with pytest.raises(DataError) as refused:
        read(content)
    return str(refused.value)


def test_records_are_read_plain_and_from_gzip_of_several_members_whatever_the_name():
    first, rest = tfrecord(CONTENTS[:2]), tfrecord(CONTENTS[2:])
    assert read(PLAIN) == CONTENTS
    assert read(gzip.compress(PLAIN)) == CONTENTS
    assert read(gzip.compress(first) + gzip.compress(rest) + bytes(512)) == CONTENTS


@pytest.mark.parametrize("block_bytes", [1, 30, 1100])
def test_a_record_may_be_longer_than_a_block(block_bytes: int):
    assert read(PLAIN, block_bytes) == CONTENTS
    assert read(gzip.compress(PLAIN), block_bytes) == CONTENTS


def test_more_records_than_a_block_takes_are_numbered_on():
    assert len(read(tfrecord([b"x"] * 10_000))) == 10_000


def test_a_plain_file_that_starts_with_the_first_bytes_of_gzip_is_plain():
    content = bytes(0x8B1F)  # its length is written 1f 8b 00 …
    assert record(content)[:2] == b"\x1f\x8b"
    assert read(record(content)) == [content]


def test_a_gzip_stream_without_records_holds_none_and_a_file_of_0_bytes_is_refused():
    assert read(gzip.compress(b"")) == []
    assert fault(b"") == "the file is empty (0 bytes)"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_wrong_checksum_is_reported_with_the_number_of_its_record(pack):
    content = bytearray(PLAIN)
    content[len(record(b"first")) + len(record(b"")) + 12] ^= 1
    assert fault(pack(content)) == "record 2: the checksum of its content is wrong"
    content = bytearray(PLAIN)
    content[len(record(b"first"))] ^= 1
    assert fault(pack(content)) == "record 1: the checksum of its length is wrong"


def test_a_file_that_is_cut_off_is_reported_with_the_number_of_the_record_it_ends_in():
    assert fault(PLAIN[:-1]) == "record 3: the file ends in the middle of it"
    in_a_length = len(record(b"first")) + 3
    assert fault(PLAIN[:in_a_length]) == "record 1: the file ends in the middle of it"
    assert fault(gzip.compress(PLAIN[:-1])) == "record 3: the file ends in the middle of it"


def test_a_gzip_stream_that_is_cut_off_or_damaged_is_reported():
    packed = gzip.compress(PLAIN)
    assert fault(packed[:-1]) == "record 4: the gzip stream is cut off"  # its own checksum
    assert fault(packed[: len(packed) // 2]).endswith(
        "the file ends in the middle of it; the gzip stream is cut off"
    )
    assert "the gzip stream is cut off" in fault(packed[:5])
    wrong = bytearray(packed)
    wrong[-5] ^= 1  # gzip's length
    wrong[-8] ^= 1  # gzip's checksum
    assert "the gzip stream is damaged, here or within the next MiB" in fault(bytes(wrong))
    assert "the gzip stream is damaged" in fault(packed + 4 * b"rubbish")


def test_the_records_before_a_fault_are_handed_out():
    content = bytearray(PLAIN)
    content[-5] ^= 1
    blocks = read_blocks(pa.PythonFile(pa.BufferReader(bytes(content))))
    assert len(next(blocks)) == 3
    with pytest.raises(DataError, match="record 3: the checksum"):
        next(blocks)
