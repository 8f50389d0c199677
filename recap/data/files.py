"""The Parquet files that an ``inputs`` pattern names, and what their footers say."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

READ_BUFFER_BYTES = 1 << 20  # of a local file's column that are in memory before they are decoded


class DataError(ValueError):
    """A data file that cannot be used; names the file and, where known, the row group."""


@dataclass(frozen=True)
class ParquetSource:
    """One Parquet file whose footer has been read."""

    path: str
    filesystem: fs.FileSystem
    schema: pa.Schema
    row_group_rows: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        """Rows in all row groups."""
        return sum(self.row_group_rows)

    @contextmanager
    def open(self) -> Iterator[pq.ParquetFile]:
        """The file, ready to be read by one thread; closed on leaving the ``with`` block.

        Far files are fetched in large parallel reads, which hold a row group's compressed columns
        in memory; a local file loses nothing by being read piece by piece.
        """
        local = isinstance(self.filesystem, fs.LocalFileSystem)
        buffer = READ_BUFFER_BYTES if local else 0
        with (  # ParquetFile leaves a handle open that it did not open itself
            self.filesystem.open_input_file(self.path) as handle,
            pq.ParquetFile(handle, pre_buffer=not local, buffer_size=buffer) as file,
        ):
            yield file


def open_sources(inputs: str | Sequence[str]) -> list[ParquetSource]:
    """The files matching ``inputs``, each once, with all footers read; by name for each pattern.

    ``inputs`` is a path, a glob (``*``, ``?``, ``[]`` within a folder, ``**`` across folders) or a
    list of them; a path may be the URI of any pyarrow file system (``s3://…``, ``gs://…``,
    ``hdfs://…``, ``file://…``). A folder stands for the ``*.parquet`` files in it.

    Raises:
        DataError: a pattern matches nothing, or files are empty, truncated or not Parquet; every
            such file is named.
    """
    patterns = [inputs] if isinstance(inputs, str) else list(inputs)
    found: list[tuple[fs.FileSystem, str]] = []
    stores: dict[str, list[fs.FileSystem]] = {}  # path → where it was found
    for filesystem, path in (pair for pattern in patterns for pair in matching_paths(pattern)):
        if filesystem not in stores.setdefault(path, []):
            stores[path].append(filesystem)
            found.append((filesystem, path))
    with ThreadPoolExecutor(max_workers=8) as pool:
        outcomes = list(pool.map(lambda pair: _read_footer(*pair), found))
    faults = [outcome for outcome in outcomes if isinstance(outcome, str)]
    if faults:
        raise DataError("\n".join(faults))
    return [source for source in outcomes if isinstance(source, ParquetSource)]


def matching_paths(pattern: str) -> list[tuple[fs.FileSystem, str]]:
    """(file system, path) of every file that ``pattern`` names, sorted by path.

    Raises:
        DataError: nothing matches.
    """
    if re.match(r"^[a-z][a-z0-9+.-]*://", pattern):
        filesystem, path = fs.FileSystem.from_uri(_quote_wildcards(pattern))
        path = path.replace("%2A", "*").replace("%3F", "?").replace("%5B", "[").replace("%5D", "]")
    else:
        filesystem, path = fs.LocalFileSystem(), _absolute(pattern)
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
    selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
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
        size = filesystem.get_file_info(path).size
        if size == 0:
            return f"{path}: the file is empty (0 bytes)"
        with filesystem.open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            rows = tuple(
                parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)
            )
            schema = parquet.schema_arrow
    except (OSError, pa.ArrowInvalid) as error:
        return f"{path}: not a whole Parquet file, truncated or damaged ({_first_line(error)})"
    if sum(rows) == 0:
        return f"{path}: the file holds no rows"
    return ParquetSource(path, filesystem, schema, rows)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
