"""Row groups of files as rows: decoded, weighed and preprocessed, part by part."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from recap.data.cache import RowGroupCache
from recap.data.decode import Decoder, columns_of, one_batch
from recap.data.files import DataError, Footers, ParquetSource
from recap.data.ignored import RowGroupError
from recap.data.order import Piece
from recap.data.preprocess import Steps
from recap.data.room import Room
from recap.data.rows import Rows
from recap.schema import Schema

DECODED_BYTES = 8 << 20  # of a row group that are decoded at a time, before rows find their places

Weigh = Callable[[np.ndarray, Sequence[str]], np.ndarray | None]


class RowGroups:
    """Reads pieces of row groups; holds what decoding them needs.

    Args:
        schema, tasks: the inputs and labels that are read.
        inputs: what comes out after the steps on rows; None: all.
        weigh: gives the weights [n, T] of labels [n, T] as stored; None: no weights.
        cache: where decoded row groups are kept; None: nowhere.
        whole: read a row group to its end also where a part of it is asked for, so that every part
            meets the same faults.
    """

    def __init__(
        self,
        sources: Sequence[ParquetSource],
        schema: Schema,
        tasks: Sequence[str],
        *,
        inputs: Collection[str] | None,
        steps: Steps,
        weigh: Weigh | None,
        cache: RowGroupCache | None,
        whole: bool,
    ) -> None:
        self._sources = sources
        self._columns = columns_of(schema, tasks)
        row_bytes = sum(d.width * np.dtype(d.dtype).itemsize for d in schema.dense.values())
        row_bytes += 8 * (len(schema.sparse) + len(tasks))
        self._decoded_rows = max(1, DECODED_BYTES // row_bytes)
        self._decode = Decoder(schema, tasks, [source.schema for source in sources])
        self._footers = Footers()
        self._inputs, self._steps, self._weigh = inputs, steps, weigh
        self._cache, self._whole = cache, whole or cache is not None

    def name(self, piece: Piece) -> tuple[str, int]:
        """The file and the number in it of the row group that a piece is cut from."""
        return self._sources[piece.source].path, piece.row_group

    def read(self, piece: Piece) -> Iterator[Rows]:
        """The rows of a piece as they lie, part by part.

        Raises:
            RowGroupError: they cannot be read or decoded, or hold a label that is neither 0 nor 1.
                What else is raised, as MemoryError, carries file and row group as a note.
        """
        if not self._whole:
            yield from self._decoded(piece)
            return
        source = self._sources[piece.source]
        whole = replace(piece, start=0, stop=source.row_group_rows[piece.row_group])
        if self._cache is None:
            parts = self._decoded(whole)
        else:
            parts = self._cache.rows(source, piece.row_group, lambda: self._decoded(whole))
        row = 0
        for part in parts:
            start, stop = max(piece.start - row, 0), min(piece.stop - row, len(part))
            if start < stop:
                yield part.between(start, stop)
            row += len(part)

    def none(self) -> Rows:
        """No rows, of the widths and types that all have."""
        batch = one_batch(self._sources[0].schema.empty_table().select(self._columns))
        return Rows.gather([self._preprocess(self._decode(batch))], np.arange(0), Room())

    def _decoded(self, piece: Piece) -> Iterator[Rows]:
        source = self._sources[piece.source]
        row = 0
        try:
            with source.open(self._footers) as file:
                batches = file.iter_batches(
                    self._decoded_rows,
                    row_groups=[piece.row_group],
                    columns=self._columns,
                    use_threads=False,
                )
                for batch in batches:
                    first, begin, row = max(row, piece.start), row, row + len(batch)
                    if first < row:
                        part = batch.slice(first - begin, min(row, piece.stop) - first)
                        yield self._preprocess(self._decode(part, first))
                    if row >= piece.stop:
                        return
                raise DataError(f"ends after {row} rows, its footer says {piece.stop} or more")
        except Exception as error:
            damage = (OSError, pa.ArrowException, UnicodeDecodeError, DataError)
            # Arrow's error of full memory is an ArrowException, and says nothing of the file
            if isinstance(error, MemoryError) or not isinstance(error, damage):
                error.add_note(f"while reading {source.path}, row group {piece.row_group}")
                raise
            rows = source.row_group_rows[piece.row_group]
            raise RowGroupError(source.path, piece.row_group, rows, error) from error

    def _preprocess(self, rows: Rows) -> Rows:
        """Decoded rows with the weights of their labels as stored, after the steps on rows."""
        if self._weigh is not None:
            rows = replace(rows, weights=self._weigh(rows.labels, rows.tasks))
        return self._steps.on_rows(rows, self._inputs)
