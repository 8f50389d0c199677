"""Parquet files by path, glob, folder or URI, and what their footers say."""

from __future__ import annotations

import fnmatch
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

NamedFile = tuple[fs.FileSystem, str]  # the file system and the file's path in it

READ_BUFFER_BYTES = 1 << 16  # of a local file's column that are in memory before they are decoded
FOOTER_BYTES = 4 << 20  # of all footers that are kept, as they lie in their files


class DataError(ValueError):
    """A data file that cannot be used; names the file and, where known, the row group."""


@dataclass(frozen=True)
class ParquetSource:
    """One Parquet file whose footer has been read."""

    path: str
    filesystem: fs.FileSystem
    schema: pa.Schema
    row_group_rows: tuple[int, ...]
    size: int  # bytes
    mtime_ns: int | None  # when it was written, where the file system tells

    @property
    def num_rows(self) -> int:
        """Rows in all row groups."""
        return sum(self.row_group_rows)

    @property
    def _name(self) -> tuple[str, str]:
        return self.filesystem.type_name, self.path

    @contextmanager
    def open(self, footers: Footers) -> Iterator[pq.ParquetFile]:
        """The file, ready to be read by one thread; closed on leaving the ``with`` block.

        Far files are fetched in large parallel reads, which hold a row group's compressed columns
        in memory; a local file loses nothing by being read piece by piece.
        """
        local = isinstance(self.filesystem, fs.LocalFileSystem)
        buffer = READ_BUFFER_BYTES if local else 0
        with (  # ParquetFile leaves a handle open that it did not open itself
            self.filesystem.open_input_file(self.path) as handle,
            pq.ParquetFile(
                handle,
                metadata=footers.of(self._name) if handle.size() == self.size else None,
                pre_buffer=not local,
                buffer_size=buffer,
                page_checksum_verification=True,  # of files that were written with checksums
            ) as file,
        ):
            footers.keep(self._name, file.metadata)
            yield file


class Footers:
    """The footers of the files that were read last, which take longer to parse than rows to read.

    Any thread may ask; ``FOOTER_BYTES`` are kept, and the last one whatever its size.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], pq.FileMetaData] = {}  # the last one kept is last
        self._lock = threading.Lock()

    def of(self, file: tuple[str, str]) -> pq.FileMetaData | None:
        """The footer of a file (kind of file system, path), if it is kept."""
        return self._held.get(file)

    def keep(self, file: tuple[str, str], footer: pq.FileMetaData) -> None:
        """Keeps a file's footer, and lets go of those that were not asked for in a long time."""
        with self._lock:
            self._held.pop(file, None)
            self._held[file] = footer
            size = sum(held.serialized_size for held in self._held.values())
            for other in list(self._held)[:-1]:
                if size <= FOOTER_BYTES:
                    break
                size -= self._held.pop(other).serialized_size


def open_sources(
    files: Sequence[NamedFile], *, tolerated: float = 0.0
) -> tuple[list[ParquetSource], list[str]]:
    """The files with their footers read, in the same order, and the faults of those left out.

    Those with the same columns share one schema, those of one place one file system.

    Raises:
        DataError: more than a share of ``tolerated`` of the files is empty, truncated or not
            Parquet; every such file is named.
    """
    schemas: dict[bytes, pa.Schema] = {}  # serialized → one for all files that have it
    stores: list[fs.FileSystem] = []

    def outcome(file: NamedFile) -> ParquetSource | str:
        found = _read_footer(*file)
        if isinstance(found, str):
            return found
        # what writers note beside the columns differs from file to file, and nobody reads it
        schema = found.schema.remove_metadata()
        schema = schemas.setdefault(schema.serialize().to_pybytes(), schema)
        return replace(found, schema=schema)

    shared = []
    for store, path in files:
        if (same := next((s for s in stores if s == store), None)) is None:
            stores.append(same := store)
        shared.append((same, path))
    local = all(isinstance(store, fs.LocalFileSystem) for store in stores)
    with ThreadPoolExecutor(max_workers=8 if local else 32) as pool:  # far ones mostly wait
        outcomes = list(pool.map(outcome, shared))
    faults = [outcome for outcome in outcomes if isinstance(outcome, str)]
    if faults and (len(faults) > tolerated * len(files) or len(faults) == len(files)):
        if tolerated:
            share = f"{len(faults)} of {len(files)} files cannot be read"
            limit = f"the limit of {tolerated:.3%}, train_data.ignored_rows_limit={tolerated}"
            faults.append(f"{share}, above {limit}")
        raise DataError("\n".join(faults))
    return [source for source in outcomes if isinstance(source, ParquetSource)], faults


def matching_files(inputs: str | Sequence[str]) -> list[NamedFile]:
    """The files matching ``inputs``, each once; by name for each pattern.

    ``inputs`` is a path, a glob (``*``, ``?``, ``[]`` within a folder, ``**`` across folders) or a
    list of them; a path may be the URI of any pyarrow file system (``s3://…``, ``gs://…``,
    ``hdfs://…``, ``file://…``). A folder stands for the ``*.parquet`` files in it.

    Raises:
        DataError: a pattern matches nothing; every such pattern is named.
    """
    patterns = [inputs] if isinstance(inputs, str) else list(inputs)
    found: list[NamedFile] = []
    faults: list[str] = []
    stores: dict[str, list[fs.FileSystem]] = {}  # path → where it was found
    for pattern in patterns:
        try:
            named = matching_paths(pattern)
        except DataError as error:
            faults.append(str(error))
            continue
        for filesystem, path in named:
            if filesystem not in stores.setdefault(path, []):
                stores[path].append(filesystem)
                found.append((filesystem, path))
    if faults:
        raise DataError("\n".join(faults))
    return found


def parquet_files_in(filesystem: fs.FileSystem, folder: str) -> list[NamedFile]:
    """The ``*.parquet`` files that lie in a folder, by name; none where there is no such folder."""
    selector = fs.FileSelector(folder, allow_not_found=True)
    return [
        (filesystem, info.path)
        for info in sorted(filesystem.get_file_info(selector), key=lambda info: info.path)
        if info.type == fs.FileType.File and info.path.endswith(".parquet")
    ]


def located(path: str) -> NamedFile:
    """The file system of a path or URI, and the path in it; wildcards stay as they are."""
    if not re.match(r"^[a-z][a-z0-9+.-]*://", path):
        return fs.LocalFileSystem(), _absolute(path)
    filesystem, inside = fs.FileSystem.from_uri(_quote_wildcards(path))
    for quoted, wildcard in (("%2A", "*"), ("%3F", "?"), ("%5B", "["), ("%5D", "]")):
        inside = inside.replace(quoted, wildcard)
    return filesystem, inside


def matching_paths(pattern: str) -> list[NamedFile]:
    """The files that one pattern names, by path.

    Raises:
        DataError: nothing matches.
    """
    filesystem, path = located(pattern)
    wildcard = re.search(r"[*?\[]", path)
    if wildcard is None:
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.File:
            return [(filesystem, path)]
        if info.type == fs.FileType.NotFound:
            raise DataError(f"{pattern}: no such file or folder")
        path = path.rstrip("/") + "/*.parquet"
        wildcard = re.search(r"[*?\[]", path)
        assert wildcard is not None
    folder = path[: path.rindex("/", 0, wildcard.start())] or "/"
    deep = "/" in path[wildcard.start() :]
    selector = fs.FileSelector(folder, allow_not_found=True, recursive=deep)
    regex = re.compile(_glob_regex(path))
    paths = sorted(
        info.path
        for info in filesystem.get_file_info(selector)
        if info.type == fs.FileType.File and regex.fullmatch(info.path)
    )
    if not paths:
        raise DataError(f"{pattern}: no file matches")
    return [(filesystem, path) for path in paths]


def _absolute(path: str) -> str:
    from os.path import abspath, expanduser

    return abspath(expanduser(path))


def _quote_wildcards(uri: str) -> str:
    return uri.replace("[", "%5B").replace("]", "%5D").replace("?", "%3F")


def _glob_regex(pattern: str) -> str:
    """A regular expression in which ``*`` and ``?`` stay within one folder and ``**/`` does not."""
    parts = re.split(r"(\*\*/|\*|\?|\[[^\]]*\])", pattern)
    translate = {"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        translate.get(part)
        or (fnmatch.translate(part)[4:-3] if part.startswith("[") else re.escape(part))
        for part in parts
        if part
    )


def _read_footer(filesystem: fs.FileSystem, path: str) -> ParquetSource | str:
    """The source, or what is wrong with the file."""
    try:
        info = filesystem.get_file_info(path)
        if info.size == 0:
            return f"{path}: the file is empty (0 bytes)"
        with filesystem.open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            rows = tuple(
                parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)
            )
            schema = parquet.schema_arrow
    except (OSError, pa.ArrowException) as error:
        return f"{path}: not a whole Parquet file, truncated or damaged ({_first_line(error)})"
    if sum(rows) == 0:
        return f"{path}: the file holds no rows"
    return ParquetSource(path, filesystem, schema, rows, info.size, info.mtime_ns)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
