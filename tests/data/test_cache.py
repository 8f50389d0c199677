"""Row groups kept on disk: the same batches to the bit, whatever happens to the files."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recap.data import cache as caches
from recap.data import row_groups
from recap.data.cache import RowGroupCache, fingerprint
from recap.data.files import matching_files, open_sources
from recap.data.parquet import ParquetData
from recap.data.preprocess import TruncateAndSlice
from recap.data.rows import Rows
from recap.data.sampling import SamplingRates
from recap.schema import Dense, Schema, Sparse

SCHEMA = Schema(
    labels={"like": "is_like", "follow": "is_follow"},
    dense={
        "continuous": Dense(column="c", length=3),
        "half": Dense(column="h", length=1, dtype="float16"),
        "flag": Dense(column="flag", length=1, dtype="bool"),
        "row": Dense(column="row", length=1, dtype="int64"),
    },
    sparse={
        "tag": Sparse(column="tag", vocabulary=9),
        "word": Sparse(column="word", num_buckets=8),
    },
)


def write(path: Path, first: int, rows: int = 20) -> Path:
    """Rows numbered from ``first``, in row groups of six."""
    random = np.random.default_rng(first)
    number = np.arange(first, first + rows)
    table = {
        "row": pa.array(number),
        "c": pa.FixedSizeListArray.from_arrays(random.normal(size=3 * rows).astype(np.float32), 3),
        "h": pa.array(random.normal(size=rows).astype(np.float16)),
        "flag": pa.array(number % 3 == 0),
        "tag": pa.array([[int(i) % 9] * (int(i) % 3) for i in number]),
        "word": pa.array([None if i % 5 == 0 else f"w{i}" for i in number]),
        "is_like": pa.array(number % 2),
        "is_follow": pa.array(number % 4 == 0),
    }
    pq.write_table(pa.table(table), path, row_group_size=6)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        write(tmp_path / f"part-{i}.parquet", first=20 * i)
    return tmp_path


def data_of(folder: Path, cached: bool = True, **settings) -> ParquetData:
    settings = {
        "seg_dense_schema": SCHEMA,
        "inputs": str(folder / "*.parquet"),
        "global_batch_size": 8,
        "examples_shuffle_buffer_size": 10,
        "cache": str(folder / "cache") if cached else None,
        **settings,
    }
    return ParquetData(**settings)


def batches_of(data: ParquetData, **how) -> list[list[torch.Tensor]]:
    """The tensors of every batch of two epochs."""
    how = {"tasks": ["like", "follow"], "shuffle_seed": 1, "epochs": 2, **how}
    return [list(batch.tensors()) for batch, _ in data.batches(**how)]


def same(one: list[list[torch.Tensor]], other: list[list[torch.Tensor]]) -> bool:
    """Whether all tensors are the same to the bit, and of the same types."""
    assert len(one) == len(other) > 0
    return all(
        a.dtype == b.dtype and torch.equal(a, b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


def kept(folder: Path) -> list[Path]:
    """The files of the cache, also those that are being written."""
    return sorted(path for path in (folder / "cache").rglob("*") if path.is_file())


@pytest.mark.parametrize("decoded_bytes", [1, 200, 8 << 20])  # a file of one part, or of several
@pytest.mark.parametrize("lanes", [1, 4])
def test_batches_are_the_same_to_the_bit_with_and_without_a_cache(
    folder, lanes, decoded_bytes, monkeypatch
):
    monkeypatch.setattr(row_groups, "DECODED_BYTES", decoded_bytes)
    settings = {
        "interleave_num_parallel_calls": lanes,
        "preprocess": {"cut": TruncateAndSlice(continuous_feature_truncation=2)},
        "tasks": {"like": SamplingRates(neg_downsampling_rate=0.5)},
    }
    for how in ({"shuffle_seed": None}, {"weighted": True}, {"inputs": {"row", "tag"}}):
        expected = batches_of(data_of(folder, cached=False, **settings), **how)
        assert same(batches_of(data_of(folder, **settings), **how), expected)  # writing it
        assert same(batches_of(data_of(folder, **settings), **how), expected)  # reading it


def test_a_row_group_is_decoded_once(folder, monkeypatch):
    decoded = []
    one = row_groups.RowGroups._decoded
    monkeypatch.setattr(
        row_groups.RowGroups,
        "_decoded",
        lambda self, piece: decoded.append(piece) or one(self, piece),
    )
    batches_of(data_of(folder))
    assert len(decoded) == len(kept(folder)) == 12
    batches_of(data_of(folder, examples_shuffle_buffer_size=3, global_batch_size=4))
    assert len(decoded) == 12
    batches_of(data_of(folder, cached=False), epochs=1)
    assert len(decoded) == 24


@dataclass(frozen=True)
class Plus:
    """A step that adds a number to the rows' numbers."""

    number: int
    reads: tuple[str, ...] = ("row",)

    def schema(self, schema: Schema) -> Schema:
        return schema

    def __call__(self, rows: Rows) -> Rows:
        dense = {**rows.dense, "row": rows.dense["row"] + self.number}
        return Rows(dense, rows.sparse, rows.tasks, rows.labels, rows.weights)


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        ({"preprocess": {"plus": Plus(1)}}, {}),
        ({"preprocess": {"plus": Plus(2)}}, {}),
        ({"preprocess": {"plus": Plus(2), "again": Plus(2)}}, {}),
        ({}, {"inputs": {"row"}}),
        ({}, {"tasks": ["follow", "like"]}),
        ({"tasks": {"like": SamplingRates(neg_downsampling_rate=0.5)}}, {"weighted": True}),
        (
            {
                "seg_dense_schema": Schema(
                    labels=SCHEMA.labels, dense={"row": Dense(column="row", length=1)}
                )
            },
            {},
        ),
    ],
)
def test_what_is_decoded_in_another_way_is_kept_apart(folder, settings, how):
    batches_of(data_of(folder))
    expected = batches_of(data_of(folder, cached=False, **settings), **how)
    assert same(batches_of(data_of(folder, **settings), **how), expected)
    assert len(kept(folder)) == 24


def test_a_file_that_changed_is_decoded_anew(folder):
    batches_of(data_of(folder))
    write(folder / "part-1.parquet", first=500)
    expected = batches_of(data_of(folder, cached=False))
    assert same(batches_of(data_of(folder)), expected)
    assert len(kept(folder)) == 12 + 4


def test_a_file_of_the_same_size_that_was_written_later_is_decoded_anew(folder):
    batches_of(data_of(folder))
    path = folder / "part-1.parquet"
    at = path.stat()
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns + 1))
    batches_of(data_of(folder))
    assert len(kept(folder)) == 12 + 4


def test_a_mask_that_changed_is_another_setting(folder):
    mask = folder / "mask.npy"
    widths = []
    for entries in ([1, 0, 0], [1, 1, 0]):
        np.save(mask, np.array(entries))
        os.utime(mask, ns=(0, sum(entries)))
        step = TruncateAndSlice(continuous_feature_mask_path=str(mask))
        (first, *_) = data_of(folder, preprocess={"cut": step}).batches(
            tasks=["like"], shuffle_seed=1, epochs=1
        )
        widths.append(first[0].dense["continuous"].shape[1])
    assert widths == [1, 2]


def test_a_file_is_verified_once_by_a_process_and_again_if_it_changed(folder, monkeypatch):
    batches_of(data_of(folder))
    verified = []
    checksum = caches._checksum
    monkeypatch.setattr(caches, "_checksum", lambda c: verified.append(c.size) or checksum(c))
    for _ in range(2):
        batches_of(data_of(folder))
    assert len(verified) <= 12
    before = len(verified)
    kept(folder)[3].touch()
    batches_of(data_of(folder))
    assert len(verified) == before + 1


def test_what_was_kept_is_told_with_its_size(folder, caplog):
    with caplog.at_level(logging.INFO, logger=caches.__name__):
        batches_of(data_of(folder))
        batches_of(data_of(folder))
    size = sum(path.stat().st_size for path in kept(folder))
    (message,) = caplog.messages
    assert f"12 more row groups kept, {size / 1e9:.3f} GB; " in message


@pytest.mark.parametrize("at", [0, 100, -20, -3])
def test_a_flipped_byte_is_told_and_the_file_made_again(folder, at, caplog):
    expected = batches_of(data_of(folder, cached=False))
    data = data_of(folder)
    batches_of(data)
    path = kept(folder)[5]
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[at] ^= 1
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert same(batches_of(data), expected)  # also in the process that has read it before
        assert same(batches_of(data_of(folder)), expected)
    assert caplog.messages == [f"{path}: damaged (its checksum is wrong); removed, and made again"]
    assert path.read_bytes() == content


@pytest.mark.parametrize("size", [0, 5, 300])
def test_a_file_that_was_cut_is_made_again(folder, size, caplog):
    expected = batches_of(data_of(folder, cached=False))
    batches_of(data_of(folder))
    path = kept(folder)[0]
    content = path.read_bytes()
    path.write_bytes(content[:size])
    assert same(batches_of(data_of(folder)), expected)
    assert f"{path}: damaged" in caplog.text
    assert path.read_bytes() == content


READER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_cache import batches_of, data_of
import hashlib
digest = hashlib.sha256()
print("ready", flush=True)
sys.stdin.readline()
for batch in batches_of(data_of(Path(sys.argv[2]), sys.argv[3] == "cached"), epochs=6):
    for tensor in batch:
        digest.update(tensor.contiguous().numpy().tobytes())
print(digest.hexdigest())
"""


def reader(folder: Path, cached: str = "cached") -> subprocess.Popen:
    """A process that is ready to read six epochs and to print a digest of them."""
    here = str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", READER, here, str(folder), cached],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_processes_that_fill_a_cache_together_read_the_same(folder):
    processes = [reader(folder), reader(folder), reader(folder, "not cached")]
    for process in processes:  # each of them reads from here on
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    digests = [process.communicate(timeout=120)[0] for process in processes]
    assert len(set(digests)) == 1
    assert len(digests[0]) == 65
    assert [path.suffix for path in kept(folder)] == [".arrow"] * 12


WRITER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_cache import batches_of, data_of
from recap.data import cache
written = []
write = cache._Writer.finish
def finish(self, path):
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    write(self, path)
cache._Writer.finish = finish
batches_of(data_of(Path(sys.argv[2])))
"""


def test_a_process_killed_while_it_writes_leaves_nothing_that_counts(folder):
    here = str(Path(__file__).parent)
    process = subprocess.run([sys.executable, "-c", WRITER, here, str(folder)], timeout=120)
    assert process.returncode == -signal.SIGKILL
    (left,) = [path for path in kept(folder) if path.suffix == ".tmp"]
    assert len(kept(folder)) == 4
    expected = batches_of(data_of(folder, cached=False))
    assert same(batches_of(data_of(folder)), expected)
    assert left.exists()  # it might be of a process that has only begun it
    os.utime(left, (0, 0))
    assert same(batches_of(data_of(folder)), expected)
    assert [path.suffix for path in kept(folder)] == [".arrow"] * 12


def test_an_old_file_that_is_still_written_stays(tmp_path):
    aside = tmp_path / "settings" / ".x.arrow-1.tmp"
    aside.parent.mkdir()
    with aside.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(aside, (0, 0))
        RowGroupCache(tmp_path, "settings")
        assert aside.exists()
    RowGroupCache(tmp_path, "settings")
    assert not aside.exists()


def test_a_stream_that_is_closed_midway_leaves_no_file_half_written(folder):
    batches = data_of(folder).batches(tasks=["like"], shuffle_seed=1, epochs=1)
    next(batches)
    batches.close()
    assert all(path.suffix == ".arrow" for path in kept(folder))


def test_a_row_group_that_cannot_be_read_is_not_kept(folder):
    labels = pa.array([0, 0, 0, 0, 0, 0, 0, 5], pa.int8())
    table = pq.read_table(write(folder / "part-0.parquet", 0, 8)).set_column(6, "is_like", labels)
    pq.write_table(table, folder / "part-0.parquet", row_group_size=4)
    settings = {"ignore_data_errors": True, "ignored_rows_limit": 0.5}
    expected = batches_of(data_of(folder, cached=False, **settings))
    assert same(batches_of(data_of(folder, **settings)), expected)
    assert len(kept(folder)) == 8 + 1


def test_a_disk_that_is_full_is_told_once_and_the_batches_come(folder, caplog, monkeypatch):
    def full(self: object, rows: Rows) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caches._Writer, "write", full)
    expected = batches_of(data_of(folder, cached=False))
    with caplog.at_level(logging.WARNING):
        assert same(batches_of(data_of(folder)), expected)
    (message,) = caplog.messages
    assert message.endswith("No space left on device; no more row groups are kept")
    assert kept(folder) == []


def test_a_cache_without_a_name_is_refused(folder):
    with pytest.raises(ValueError, match="cache='' must be a folder, or null for none"):
        data_of(folder, cache="")


def test_kept_rows_are_views_of_the_file(folder):
    source = open_sources(matching_files(str(folder / "part-0.parquet")))[0][0]
    rows = Rows(
        {"x": np.arange(6, dtype=np.float32).reshape(3, 2)},
        {"t": (np.array([7, 8, 9]), np.array([0, 1, 1, 3]))},
        ("like",),
        np.ones((3, 1), np.float32),
        np.full((3, 1), 2, np.float32),
    )
    cache = RowGroupCache(folder / "cache", "settings")
    assert list(cache.rows(source, 0, lambda: iter([rows]))) == [rows]
    (found,) = cache.rows(source, 0, lambda: iter([]))
    assert found.weights is not None
    before = pa.total_allocated_bytes()
    for array in (*found.dense.values(), *found.sparse["t"], found.labels, found.weights):
        assert not array.flags.owndata
        assert not array.flags.writeable
    assert pa.total_allocated_bytes() == before
    assert found.dense["x"].tolist() == rows.dense["x"].tolist()
    assert [array.tolist() for array in found.sparse["t"]] == [[7, 8, 9], [0, 1, 1, 3]]
    assert found.tasks == ("like",)
    assert (found.labels == 1).all()
    assert (found.weights == 2).all()


def test_a_fingerprint_tells_contents_apart_and_not_objects():
    things = [
        [1], [2], [True], ["1"], [[1]], [(1,)], [None], [{"a": 1}], [{"b": 1}], [{1, 2}], [1, 2],
        [np.arange(2)], [np.arange(2.0)], [np.dtype("f4")], [Plus(1)], [Plus(2)], [len], [Plus], [],
    ]  # fmt: skip
    assert len({fingerprint(*thing) for thing in things}) == len(things)
    assert fingerprint(Plus(1), {"b", "a", "c"}) == fingerprint(Plus(1), {"c", "a", "b"})


def test_the_code_that_rows_are_made_by_is_part_of_their_settings(folder, monkeypatch):
    read = []
    read_bytes = Path.read_bytes

    def recorded(path: Path) -> bytes:
        read.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", recorded)
    batches_of(data_of(folder, preprocess={"cut": TruncateAndSlice()}))
    assert {"row_groups.py", "decode.py", "hashing.py", "rows.py", "sampling.py"} <= {*read}
    assert {"step.py", "truncate.py", "cache.py", "schema.py"} <= {*read}
