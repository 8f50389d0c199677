"""Files written once: what they were made of is in them, so that a second call keeps them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from recap.data.files import DataError
from recap.data.layout import LayoutWriter

KEY = b"recap.convert"  # of the file's metadata: a digest of all that its content follows from


class TargetFiles:
    """Writes files that are not there yet, of one Arrow schema; knows the rows of all."""

    def __init__(
        self, target: Path, settings: dict[str, Any], row_group_rows: int, compression: str
    ) -> None:
        self.rows: dict[Path, int] = {}
        self.already_there: list[Path] = []
        self._target, self._settings = target, settings
        self._row_group_rows, self._compression = row_group_rows, compression
        self._schema: pa.Schema | None = None

    def write(
        self,
        name: str,
        sources: Sequence[tuple[fs.FileSystem, str]],
        batches: Iterator[pa.RecordBatch],
        rows: int | None,
    ) -> None:
        """``batches`` as ``<name>.parquet``; no file if they hold no rows."""
        path = self._target / f"{name}.parquet"
        content = {**self._settings, "sources": [version(pair) for pair in sources]}
        text = json.dumps(content, sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest().encode()
        if path.exists():
            self._keep(path, key)
            if rows is not None:  # the next file starts where this one ends
                for _ in batches:
                    pass
            return
        first = next(batches, None)
        if first is None:
            return
        self._agree(path, first.schema)
        with LayoutWriter(
            path,
            first.schema.with_metadata({KEY: key}),
            row_group_rows=self._row_group_rows,
            compression=self._compression,
        ) as writer:
            writer.write(first)
            for batch in batches:
                self._agree(path, batch.schema)
                writer.write(batch)
        self.rows[path] = writer.rows

    def _keep(self, path: Path, key: bytes) -> None:
        with pq.ParquetFile(path) as file:
            held, rows = file.schema_arrow, file.metadata.num_rows
        if (held.metadata or {}).get(KEY) != key:
            raise DataError(
                f"{path} was made of other sources or with other settings; "
                "remove it or choose another target"
            )
        self._agree(path, held)
        self.rows[path] = rows
        self.already_there.append(path)

    def _agree(self, path: Path, schema: pa.Schema) -> None:
        before = self._schema = self._schema or schema
        for one, other in zip(before, schema, strict=False):
            if one.name != other.name or one.type != other.type:
                raise DataError(
                    f"{path}: column {other.name!r} of {other.type} stands where the rows before "
                    f"have {one.name!r} of {one.type}; state the type, e.g. "
                    f"types.{other.name}={one.type}"
                )
        if len(schema) != len(before):
            raise DataError(f"{path}: {len(schema)} columns, the rows before have {len(before)}")


def version(pair: tuple[fs.FileSystem, str]) -> list:
    """[path, bytes, time of the last change in ns] of a file: what tells that it is the same."""
    info = pair[0].get_file_info(pair[1])
    return [info.path, info.size, info.mtime_ns]
