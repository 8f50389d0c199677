"""Serialized tf.train.Examples as columns, whatever way they are written."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tf_examples import Listed, entry, example, feature, numbers, piece, tfrecord, varint

from recap.data.convert.segdense import Feature
from recap.data.convert.tf_example import ExampleDecoder
from recap.data.convert.tfrecord import read_blocks
from recap.data.files import DataError

FEATURES = [
    Feature("cont", "float_list", 3),
    Feature("ids", "int64_list", 2),
    Feature("fav", "int64_list", 1),
    Feature("weight", "float_list", 1),
    Feature("tags", "int64_list", -1),
    Feature("scores", "float_list", -1),
]
ZEROS = {"cont": [0.0] * 3, "ids": [0, 0], "fav": 0, "weight": 0.0, "tags": [], "scores": []}
SOUND = {
    "cont": Listed("float_list", [1.5, -2.0, 0.25]),
    "ids": Listed("int64_list", [-1, 300]),
    "fav": Listed("int64_list", [1]),
}


def decoded(examples: list[bytes], stored: dict[str, str] | None = None) -> list[dict]:
    """The rows, with raw bytes as numbers."""
    decode = ExampleDecoder(FEATURES, stored or {})
    file = pa.PythonFile(pa.BufferReader(tfrecord(examples)))
    rows = pa.Table.from_batches([decode(block) for block in read_blocks(file)]).to_pylist()
    for name in ("cont", "ids"):
        dtype = decode.schema.field(name).metadata[b"dtype"].decode()
        for row in rows:
            row[name] = np.frombuffer(row[name], dtype).tolist()
    return rows


def faults(examples: list[bytes], stored: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(DataError) as refused:
        decoded(examples, stored)
    return str(refused.value).splitlines()


FLOATS = st.floats(width=32, allow_nan=False)
INTS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 200)


@st.composite
def listed(draw, one: Feature) -> Listed:
    values = FLOATS if one.kind == "float_list" else INTS
    shortest, longest = (0, 9) if one.length < 0 else (one.length, one.length)
    return Listed(
        one.kind,
        draw(st.lists(values, min_size=shortest, max_size=longest)),
        packed=draw(st.booleans()),
        pieces=draw(st.integers(1, 3)),
    )


@st.composite
def written(draw) -> tuple[bytes, dict]:
    """An Example and the row that it is."""
    row = dict(ZEROS)
    entries = []
    for one in draw(st.permutations(FEATURES)):
        for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):  # of two of a name the last counts
            last = draw(listed(one))
            entries.append(entry(one.name, feature(last)))
            row[one.name] = last.values if one.length != 1 else last.values[0]
    unknown = st.sampled_from(["con", "contt", "fav ", "", "ünlesbar"])
    for name in draw(st.lists(unknown, max_size=2)):
        other = Listed("bytes_list", [b"x" * draw(st.integers(0, 300))])
        entries.insert(draw(st.integers(0, len(entries))), entry(name, feature(other)))
    return piece(1, b"".join(entries)), row


@settings(deadline=None)  # the first call is slow
@given(st.lists(written(), min_size=1, max_size=6))
def test_what_was_written_is_read(pairs: list[tuple[bytes, dict]]):
    assert decoded([content for content, _ in pairs]) == [row for _, row in pairs]


@settings(deadline=None)  # the first call is slow
@given(st.lists(written(), min_size=1, max_size=3), st.data())
def test_bytes_that_are_no_example_are_refused_or_read_and_nothing_else_happens(pairs, data):
    whole = bytearray(pairs[0][0])
    for _ in range(data.draw(st.integers(1, 3))):
        if whole:
            place = data.draw(st.integers(0, len(whole) - 1))
            whole[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    contents = [bytes(whole[:cut]), *(content for content, _ in pairs)]
    try:
        rows = decoded(contents)
    except DataError:
        assert all(fault.startswith("record 0: ") for fault in faults(contents))
    else:
        assert rows[1:] == [row for _, row in pairs]


def test_a_feature_without_a_list_is_absent_and_absent_features_are_zeros_and_counted():
    decode = ExampleDecoder(FEATURES, {})
    contents = [example(SOUND), piece(1, entry("fav", b"") + entry("cont", b"")), b""]
    file = pa.PythonFile(pa.BufferReader(tfrecord(contents)))
    [batch] = [decode(block) for block in read_blocks(file)]
    assert batch.column("fav").to_pylist() == [1, 0, 0]
    assert decoded(contents)[1:] == [ZEROS, ZEROS]
    assert decode.absent == {"cont": 2, "ids": 2, "fav": 2, "weight": 3, "tags": 3, "scores": 3}


def test_messages_that_stand_twice_are_merged_as_protocol_buffers_do():
    halves = piece(1, entry("fav", feature(SOUND["fav"]))) + piece(
        1, entry("cont", feature(SOUND["cont"])) + entry("fav", feature(Listed("int64_list", [0])))
    )
    assert decoded([halves])[0]["fav"] == 0
    two_lists = feature(Listed("float_list", [1.5])) + feature(Listed("float_list", [-2.0, 0.25]))
    replaced = feature(Listed("int64_list", [7])) + two_lists
    for content in (two_lists, replaced):
        assert decoded([piece(1, entry("cont", content))])[0]["cont"] == [1.5, -2.0, 0.25]
    mixed = numbers(Listed("int64_list", [5], packed=False)) + numbers(Listed("int64_list", [-6]))
    assert decoded([piece(1, entry("ids", piece(3, mixed)))])[0]["ids"] == [5, -6]


def test_a_list_of_another_length_is_refused_with_the_record_the_feature_and_both_lengths():
    wrong = {**SOUND, "cont": Listed("float_list", [1.0] * 4), "fav": Listed("int64_list", [])}
    assert faults([example(SOUND), example(wrong)]) == [
        "record 1: feature cont has 4 values, its length is 3",
        "record 1: feature fav has 0 values, its length is 1",
    ]
    short = {**SOUND, "ids": Listed("int64_list", [300])}
    assert faults([example(short)]) == ["record 0: feature ids has 1 values, its length is 2"]


def test_a_list_of_another_kind_is_refused():
    wrong = {**SOUND, "cont": Listed("int64_list", [1, 2, 3])}
    assert faults([example(SOUND), example(SOUND), example(wrong)]) == [
        "record 2: feature cont is a int64_list, the schema says float_list"
    ]


def test_numbers_that_are_cut_off_or_too_long_are_refused():
    def with_ids(packed: bytes) -> list[str]:
        return faults([example(SOUND), piece(1, entry("ids", piece(3, piece(1, packed))))])

    assert with_ids(b"\x01\x80") == ["record 1: feature ids: its last number is cut off"]
    assert with_ids(b"\x01" + b"\xff" * 10 + b"\x01") == [
        "record 1: feature ids: a number is longer than 10 bytes"
    ]
    floats = piece(1, entry("cont", piece(2, piece(1, bytes(11)))))
    assert faults([floats]) == ["record 0: feature cont: its floats are cut off"]


def test_what_is_no_example_is_refused_by_its_record():
    broken = "not a tf.train.Example: its wire format is broken"
    group = bytes([1 << 3 | 3])
    for content in (b"\x0a\x05ab", group, b"\x0a\x02\x0a\x7f", varint(2**63 | 10) + b"\x00"):
        assert faults([example(SOUND), content]) == [f"record 1: {broken}"]


def test_a_stored_type_is_narrower_and_what_does_not_fit_it_is_refused():
    small = {**SOUND, "ids": Listed("int64_list", [-128, 127])}
    stored = {"ids": "int8", "cont": "float16", "fav": "int8"}
    assert decoded([example(small)], stored)[0]["ids"] == [-128, 127]
    assert faults([example(small), example(SOUND)], stored) == [
        "record 1: feature ids: 300 does not fit int8"
    ]
    large = {**small, "cont": Listed("float_list", [1.0, 1e6, 0.0])}
    assert faults([example(large)], stored) == [
        "record 0: feature cont: 1000000.0 does not fit float16"
    ]
    with pytest.raises(ValueError, match=r"stored\.ids='float32': a int64 group can be stored as"):
        ExampleDecoder(FEATURES, {"ids": "float32"})
    with pytest.raises(ValueError, match="stored: no converted feature is named idx"):
        ExampleDecoder(FEATURES, {"idx": "int8"})
