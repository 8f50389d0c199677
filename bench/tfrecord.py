"""python -m bench.tfrecord [members=8] [repetitions=5] [compression=lz4]

Rows per second of converting gzip TFRecords of local_prod's shape to Parquet, and of its parts
alone, which are the floor. The parts take turns, so that what else the machine does falls on all of
them. Processor time does not count waiting: by it, numbers of a busy machine can be compared too.

A file is ``members`` times the same 1000 rows, a gzip member each; the parts are measured on one.
Whole conversions run in a fresh process each; their time contains the start of its workers.
"""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import google_crc32c
import numpy as np
from pyarrow import fs

from bench.report import conditions, own_settings, table
from recap.compose import compose
from recap.data.convert.segdense import KINDS, Feature, read_segdense
from recap.data.convert.tf_example import ExampleDecoder
from recap.data.convert.tfrecord import Block, inflated, read_blocks
from recap.data.layout import LayoutWriter

ROWS = 1000  # of a member
GZIP_LEVEL = 6
ROW_GROUP_ROWS = 2048
HEADER = ("part", "rows/s", "lowest … highest", "processor µs a row", "MB/s of records")
Measured = tuple[float, float]  # (rows/s, seconds of processor time a row)

WHOLE = """
import json, resource, sys, time
from recap.data.convert.tfrecord_files import convert_tfrecords
def peak_memory_mb():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6
def used():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in both)
started, before = time.perf_counter(), used()
report = convert_tfrecords(**json.loads(sys.argv[1]))
wall = time.perf_counter() - started
assert not report.faults, report.faults
print(sum(report.rows.values()), wall, used() - before, peak_memory_mb())
"""


def main() -> None:
    """Writes the files into a temporary folder, measures, prints a table."""
    defaults = {"members": "8", "repetitions": "5", "compression": "lz4"}
    settings, others = own_settings(sys.argv[1:], defaults)
    if others:
        raise SystemExit(f"unknown: {' '.join(others)}; there is {', '.join(defaults)}")
    print(conditions(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        features = _features(folder / "segdense.json")
        plain = b"".join(_records(features))
        packed = gzip.compress(plain, GZIP_LEVEL)
        (folder / "member.gz").write_bytes(packed)
        for part in (0, 1):
            (folder / f"part-{part}.gz").write_bytes(packed * int(settings["members"]))
        row_bytes = len(plain) / ROWS
        print(f"a row is {row_bytes / 1e3:.1f} kB, {len(packed) / ROWS / 1e3:.1f} kB with gzip\n")
        parts = _parts(folder, features, settings["compression"])
        measured: dict[str, list[Measured]] = {part: [] for part in parts}
        for _ in range(int(settings["repetitions"])):
            for part, run in parts.items():
                measured[part].append(run())
        print()
        print(table(HEADER, [_line(part, each, row_bytes) for part, each in measured.items()]))
        written = (folder / "alone.parquet").stat().st_size
        print(f"\na row is {written / ROWS / 1e3:.1f} kB in Parquet ({settings['compression']})")


def _parts(
    folder: Path, features: list[Feature], compression: str
) -> dict[str, Callable[[], Measured]]:
    source = folder / "member.gz"
    local = fs.LocalFileSystem()

    def blocks() -> Iterator[Block]:
        with local.open_input_file(str(source)) as file:
            yield from read_blocks(file)

    held = list(blocks())
    decode = ExampleDecoder(features, {})
    batches = [decode(block) for block in held]

    def inflate() -> None:
        with local.open_input_file(str(source)) as file:
            for _ in inflated(file):
                pass

    def inflate_with_zlib() -> None:
        member = zlib.decompressobj(wbits=16 + 15)
        with source.open("rb") as file:
            while chunk := file.read(1 << 18):
                member.decompress(chunk)

    def split() -> None:
        for _ in blocks():
            pass

    def decode_all() -> None:
        for block in held:
            decode(block)

    def write() -> None:
        with LayoutWriter(
            folder / "alone.parquet",
            decode.schema,
            row_group_rows=ROW_GROUP_ROWS,
            compression=compression,
        ) as writer:
            for batch in batches:
                writer.write(batch)

    return {
        "inflate alone, zlib": lambda: _alone(inflate_with_zlib),
        "inflate alone, isal": lambda: _alone(inflate),
        "inflate, split, verify": lambda: _alone(split),
        "decode alone": lambda: _alone(decode_all),
        "write alone": lambda: _alone(write),
        "one file, one process": lambda: _whole(folder, "part-0.gz", 1, compression),
        "two files, one process": lambda: _whole(folder, "part-?.gz", 1, compression),
        "two files, two processes": lambda: _whole(folder, "part-?.gz", 2, compression),
    }


def _alone(run: Callable[[], None]) -> Measured:
    started, used = time.perf_counter(), time.process_time()
    run()
    return ROWS / (time.perf_counter() - started), (time.process_time() - used) / ROWS


def _whole(folder: Path, inputs: str, processes: int, compression: str) -> Measured:
    with tempfile.TemporaryDirectory(dir=folder) as target:
        arguments = {
            "inputs": str(folder / inputs),
            "target": target,
            "seg_dense_schema": str(folder / "segdense.json"),
            "processes": processes,
            "row_group_rows": ROW_GROUP_ROWS,
            "compression": compression,
        }
        done = subprocess.run(
            [sys.executable, "-c", WHOLE, json.dumps(arguments)],
            check=True,
            capture_output=True,
            text=True,
        )
    rows, wall, used, peak = map(float, done.stdout.split())
    if processes == 1:
        print(f"{rows:,.0f} rows of {inputs} by one process: peak memory {peak:.0f} MB")
    return rows / wall, used / rows


def _line(part: str, measured: list[Measured], row_bytes: float) -> tuple[str, ...]:
    speeds = [speed for speed, _ in measured]
    middle = median(speeds)
    return (
        part,
        f"{middle:,.0f}",
        f"{min(speeds):,.0f} … {max(speeds):,.0f}",
        f"{1e6 * median(used for _, used in measured):,.0f}",
        f"{middle * row_bytes / 1e6:,.0f}",
    )


def _features(path: Path) -> list[Feature]:
    """local_prod's features, by way of a segdense.json at ``path``."""
    schema = compose("experiment=local_prod").train_data.seg_dense_schema
    kinds = {"float32": "float_list", "int64": "int64_list"}
    rows = [
        {"feature_name": dense.column, "dtype": kinds[dense.dtype], "length": dense.length}
        for dense in schema.dense.values()
    ]
    scalars = [*schema.labels.values(), "meta.author_id", "meta.user_id", "meta.tweet_id"]
    rows += [{"feature_name": name, "dtype": "int64_list", "length": 1} for name in scalars]
    path.write_text(json.dumps({"schema": rows}))
    return read_segdense(path)


def _records(features: list[Feature]) -> Iterator[bytes]:
    """Framed Examples: 60 % of the wide floats are 0, ids have 60 bits, other numbers are small."""
    rng = np.random.default_rng(0)
    for _ in range(ROWS):
        entries = []
        for place in rng.permutation(len(features)):  # a map has no order
            feature = features[place]
            packed = _piece(1, _values(feature, rng))
            content = _piece(KINDS[feature.kind], packed)
            entries.append(_piece(1, _piece(1, feature.name.encode()) + _piece(2, content)))
        example = _piece(1, b"".join(entries))
        length = struct.pack("<Q", len(example))
        yield length + _checksum(length) + example + _checksum(example)


def _values(feature: Feature, rng: np.random.Generator) -> bytes:
    if feature.kind == "float_list":
        numbers = rng.standard_normal(feature.length, np.float32)
        if feature.length > 200:
            numbers[rng.random(feature.length) < 0.6] = 0
        return numbers.tobytes()
    if feature.name.startswith("meta."):
        return _varint(int(rng.integers(1 << 60)))
    high = 2 if feature.length != 320 else 1000
    return b"".join(_varint(int(number)) for number in rng.integers(high, size=feature.length))


def _varint(number: int) -> bytes:
    result = bytearray()
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    return bytes(result) + bytes([number])


def _piece(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _checksum(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


if __name__ == "__main__":
    main()
