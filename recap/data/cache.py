"""Decoded row groups kept on local disk, so that later passes need not decode them again."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import inspect
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from isal import isal_zlib

from recap.data import decode, hashing, rows, sampling
from recap.data.files import ParquetSource
from recap.data.rows import Rows

CHECKSUM_BYTES = 8  # behind the Arrow stream: the CRC-32 of all that stands before, in hex
ABANDONED_SECONDS = 60  # a file that nobody writes and that is older was left by a killed process

log = logging.getLogger(__name__)

# by which inode, size and time of change this process has verified a file: each once, again if it
# changed. What a disk returns differently later on is not seen
_verified: dict[Path, tuple[int, ...]] = {}


class RowGroupCache:
    """Row groups as Arrow IPC streams ``<folder>/<settings>/<file>-<row group>.arrow``.

    ``settings`` stands for all that the rows are made by, see ``fingerprint``; a file's part of the
    name for its path, size and time of change. So what is found is what would be decoded; nothing
    is ever replaced, and folders of settings that are no longer used may be deleted at any time.
    All row groups are kept: the folder grows to the data set.

    A file takes the bytes that the rows have in memory, uncompressed, for lz4 alone takes as long
    as all the rest. It is mapped into memory, not read, and verified when a process first maps it.
    It is written aside and renamed, so any number of processes may share a folder.
    """

    def __init__(self, folder: str | Path, settings: str) -> None:
        self._folder = Path(folder).expanduser() / settings
        self._folder.mkdir(parents=True, exist_ok=True)
        self._full = False
        self._kept_files = self._kept_bytes = 0
        for left in self._folder.glob(".*.tmp"):
            _remove_if_abandoned(left)

    def rows(
        self, source: ParquetSource, row_group: int, decoded: Callable[[], Iterator[Rows]]
    ) -> Iterator[Rows]:
        """The rows of a whole row group, part by part: as kept, or ``decoded`` and kept.

        Arrays of kept rows cannot be written to. A file that is damaged is told in the log, removed
        and made again; a disk that is full is told once, and no more is kept.
        """
        about = (source.filesystem.type_name, source.path, source.size, source.mtime_ns)
        file = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
        path = self._folder / f"{file}-{row_group}.arrow"
        kept = self._kept(path)
        yield from self._keeping(path, decoded()) if kept is None else kept

    def _kept(self, path: Path) -> Iterator[Rows] | None:
        try:
            with path.open("rb") as file:
                at = os.fstat(file.fileno())
            stamp = (at.st_ino, at.st_size, at.st_mtime_ns)
            whole = pa.memory_map(str(path)).read_buffer()
        except FileNotFoundError:
            return None
        except OSError as error:  # an empty file cannot be mapped
            self._remove(path, error)
            return None
        if _verified.get(path) != stamp:
            content, checksum = whole[:-CHECKSUM_BYTES], whole[-CHECKSUM_BYTES:]
            if _checksum(content) != checksum.to_pybytes():
                self._remove(path, "its checksum is wrong")
                return None
            _verified[path] = stamp
        return _rows(whole)

    def _remove(self, path: Path, reason: object) -> None:
        log.warning("%s: damaged (%s); removed, and made again", path, reason)
        path.unlink(missing_ok=True)

    def _keeping(self, path: Path, parts: Iterator[Rows]) -> Iterator[Rows]:
        """The parts, written to ``path`` on their way."""
        aside = path.with_name(f".{path.name}-{uuid.uuid4().hex}.tmp")
        writer: _Writer | None = None
        try:
            for part in parts:
                if not self._full:
                    try:
                        writer = writer or _Writer(aside)
                        writer.write(part)
                    except OSError as error:
                        self._give_up(error)
                yield part
            if writer is not None and not self._full:
                try:
                    writer.finish(path)
                    self._kept_bytes += writer.num_bytes
                    self._kept_files += 1
                except OSError as error:
                    self._give_up(error)
        finally:
            if writer is not None:
                writer.close()

    def tell(self) -> None:
        """Logs how much was kept since it was said the last time."""
        files, size, self._kept_files, self._kept_bytes = self._kept_files, self._kept_bytes, 0, 0
        if files:
            free = shutil.disk_usage(self._folder).free / 1e9
            what = f"{files} more row groups kept, {size / 1e9:.3f} GB; {free:.0f} GB are free"
            log.info("cache %s: %s", self._folder, what)

    def _give_up(self, error: OSError) -> None:
        self._full = True
        log.warning("cache %s: %s; no more row groups are kept", self._folder, error)


class _Writer:
    """One file being written aside, locked as long as its process lives."""

    def __init__(self, aside: Path) -> None:
        self._aside = aside
        self.num_bytes = 0  # of the finished file
        self._file: BinaryIO = aside.open("xb")
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._stream: pa.ipc.RecordBatchStreamWriter | None = None

    def write(self, rows: Rows) -> None:
        """Appends a part."""
        batch = _record_batch(rows)
        if self._stream is None:
            self._stream = pa.ipc.new_stream(self._file, batch.schema)
        self._stream.write_batch(batch)

    def finish(self, path: Path) -> None:
        """Completes the file and gives it its name."""
        assert self._stream is not None
        self._stream.close()
        self._file.flush()
        self._file.write(_checksum(pa.memory_map(str(self._aside)).read_buffer()))
        self._file.flush()
        self.num_bytes = self._file.tell()
        os.replace(self._aside, path)

    def close(self) -> None:
        """Removes the file if it was not finished."""
        try:
            self._file.close()
        except OSError as error:  # what it could not write, on a full disk
            log.debug("%s: %s", self._aside, error)
        self._aside.unlink(missing_ok=True)


def fingerprint(*things: Any) -> str:
    """16 hex digits that stand for what the things hold.

    Dataclasses, collections, arrays, plain values and objects with attributes count by their
    content, with the source text of their classes. A string that is a local file's path counts with
    the file's size and time of change; of a file elsewhere only its name counts.
    """
    digest = hashlib.sha256()
    code: set[str | None] = {decode.__file__, hashing.__file__, rows.__file__, sampling.__file__}
    for thing in things:
        for word in _words(thing, code):
            digest.update(len(word).to_bytes(8, "little") + word)
    for module in sorted(filter(None, {*code, __file__})):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()[:16]


def _words(thing: Any, code: set[str | None]) -> Iterator[bytes]:
    """The content of a thing; the files of the classes in it are added to ``code``."""
    kind = type(thing)
    yield f"{kind.__module__}.{kind.__qualname__}".encode()
    if isinstance(thing, str | Path):
        yield str(thing).encode()
        if len(str(thing)) < 4096 and os.path.isfile(thing):
            at = os.stat(thing)
            yield f"{at.st_size} {at.st_mtime_ns}".encode()
    elif isinstance(thing, np.ndarray):
        yield f"{thing.dtype} {thing.shape}".encode()
        yield thing.tobytes()
    elif isinstance(thing, Mapping):
        yield from _all_words(thing.items(), code)
    elif isinstance(thing, set | frozenset):
        yield from _all_words(sorted(thing, key=repr), code)
    elif isinstance(thing, Iterable):
        yield from _all_words(thing, code)
    elif inspect.isroutine(thing) or inspect.isclass(thing):
        code.add(_source(thing))
        yield f"{thing.__module__}.{thing.__qualname__}".encode()
    elif dataclasses.is_dataclass(thing):
        code.add(_source(kind))
        names = [field.name for field in dataclasses.fields(thing)]
        yield from _all_words([(name, getattr(thing, name)) for name in names], code)
    elif hasattr(thing, "__dict__"):
        code.add(_source(kind))
        yield from _all_words(sorted(vars(thing).items()), code)
    else:
        yield repr(thing).encode()


def _source(kind: Any) -> str | None:
    try:
        return inspect.getsourcefile(kind)
    except TypeError:  # of a class that is not written in Python
        return None


def _all_words(things: Iterable[Any], code: set[str | None]) -> Iterator[bytes]:
    for thing in things:
        yield b"("
        yield from _words(thing, code)
    yield b")"


def _record_batch(rows: Rows) -> pa.RecordBatch:
    """Rows as Arrow columns; numbers as raw bytes, whatever their type."""
    arrays = {f"dense {name}": array for name, array in rows.dense.items()}
    arrays["labels"] = rows.labels
    if rows.weights is not None:
        arrays["weights"] = rows.weights
    columns: dict[str, pa.Array] = {}
    for name, array in arrays.items():
        row_bytes = array.shape[1] * array.itemsize
        buffers = [None, pa.py_buffer(np.ascontiguousarray(array))]
        columns[name] = pa.Array.from_buffers(pa.binary(row_bytes), len(array), buffers)
    for name, (slots, offsets) in rows.sparse.items():
        columns[f"sparse {name}"] = pa.LargeListArray.from_arrays(
            pa.array(offsets), pa.array(slots)
        )
    about = {
        "tasks": rows.tasks,
        "arrays": {name: (array.dtype.str, array.shape[1]) for name, array in arrays.items()},
    }
    batch = pa.RecordBatch.from_pydict(columns)
    return batch.replace_schema_metadata({"recap": json.dumps(about)})


def _rows(file: pa.Buffer) -> Iterator[Rows]:
    """The parts of a file, as views of it."""
    with pa.ipc.open_stream(file) as stream:
        about = json.loads(stream.schema.metadata[b"recap"])
        for batch in stream:
            arrays = {
                name: np.frombuffer(
                    batch.column(name).buffers()[1], dtype, count=batch.num_rows * width
                ).reshape(batch.num_rows, width)
                for name, (dtype, width) in about["arrays"].items()
            }
            lists = [
                (name.removeprefix("sparse "), batch.column(name))
                for name in batch.schema.names
                if name.startswith("sparse ")
            ]
            yield Rows(
                {
                    name.removeprefix("dense "): array
                    for name, array in arrays.items()
                    if name.startswith("dense ")
                },
                {name: (bags.values.to_numpy(), bags.offsets.to_numpy()) for name, bags in lists},
                tuple(about["tasks"]),
                arrays["labels"],
                arrays.get("weights"),
            )


def _checksum(content: pa.Buffer) -> bytes:
    return f"{isal_zlib.crc32(content):0{CHECKSUM_BYTES}x}".encode()


def _remove_if_abandoned(file: Path) -> None:
    try:
        if time.time() - file.stat().st_mtime < ABANDONED_SECONDS:
            return
        with file.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError while it is written
            file.unlink(missing_ok=True)
    except OSError:
        pass
