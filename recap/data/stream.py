"""One rank's walk over a data set: row groups decoded, preprocessed, shuffled, cut into batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from recap.batch import Bag, Batch
from recap.data.decode import Decoder, columns_of
from recap.data.files import DataError, ParquetSource
from recap.data.order import Block, Lane, Piece
from recap.data.preprocess import Steps
from recap.data.rows import BFLOAT16, Rows
from recap.schema import Schema

DECODED_BYTES = 8 << 20  # of a row group that are decoded at a time, before rows find their places


class Stream:
    """One rank's walk over the lanes of a data set."""

    def __init__(
        self,
        sources: Sequence[ParquetSource],
        schema: Schema,
        tasks: Sequence[str],
        *,
        inputs: Collection[str] | None,
        steps: Steps,
        weigh: Callable[[np.ndarray, Sequence[str]], np.ndarray | None] | None,
        batch: int,
        lanes: int,
        buffer: int,
        seed: int | None,
        file_batch_size: int | None,
        epochs: int | None,
        rank: int,
        world_size: int,
    ) -> None:
        """``batch`` rows of all ranks are a batch; for the others see ``ParquetData``.

        ``schema`` is what is read, ``inputs`` (None: all) what comes out after the ``steps``;
        ``weigh`` gives the weights [n, T] of labels [n, T] as stored.
        """
        if batch % world_size:
            below = batch // world_size * world_size
            raise ValueError(
                f"global_batch_size={batch} does not divide over {world_size} ranks; "
                f"{f'{below} and ' if below else ''}{below + world_size} do"
            )
        self._sources = sources
        self._tasks = tuple(tasks)
        tasks = list(dict.fromkeys([*tasks, *sorted(steps.labels)]))
        self._columns = columns_of(schema, tasks)
        row_bytes = sum(d.width * np.dtype(d.dtype).itemsize for d in schema.dense.values())
        row_bytes += 8 * (len(schema.sparse) + len(tasks))
        self._decoded_rows = max(1, DECODED_BYTES // row_bytes)
        self._decode = Decoder(schema, tasks, [source.schema for source in sources])
        self._inputs, self._steps, self._weigh = inputs, steps, weigh
        self._batch, self._seed, self._epochs = batch, seed, epochs
        self._rows = rows = batch * steps.batch_multiplier  # that are read for a batch
        self._shares = []  # (lane, its rows per batch, the first and last of them for this rank)
        mine = range(rows * rank // world_size, rows * (rank + 1) // world_size)
        self._part = (0, 1)  # of what is read, which part is this rank's
        if steps.need_whole_batches:
            mine, self._part = range(rows), (rank, world_size)
        for index in range(lanes):
            first, last = rows * index // lanes, rows * (index + 1) // lanes
            start, stop = max(first, mine.start) - first, min(last, mine.stop) - first
            lane = Lane(
                [source.row_group_rows for source in sources],
                index=index,
                lanes=lanes,
                buffer=buffer,
                seed=seed,
                file_batch_size=file_batch_size,
            )
            if start < stop and lane.num_rows:
                self._shares.append((lane, last - first, start, stop))

    def batches(self, position: int, pin_memory: bool) -> Generator[tuple[Batch, int]]:
        """This rank's part of every batch from ``position`` on, with the position behind it."""
        pool = ThreadPoolExecutor(1 + len(self._shares) // 4, thread_name_prefix="recap-read")
        try:
            walks = []
            for lane, quota, start, stop in self._shares:
                walk = _Walk(lane, self._load, pool, self._epochs)
                walk.read_ahead(position * quota // self._rows + start)
                walks.append((walk, quota, start, stop))
            while True:
                parts = []
                for walk, quota, start, stop in walks:
                    begin = position * quota // self._rows
                    parts += walk.rows(begin + start, begin + stop)
                if not parts:
                    return
                batch = self._to_batch(self._cut(Rows.concatenate(parts), position))
                position += self._rows
                yield (batch.pin_memory() if pin_memory else batch), position
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, block: Block) -> Rows:
        """The rows of a block, decoded and preprocessed, in the order in which they come out."""
        parts = (rows for piece in block.pieces for rows in self._read(piece))
        return Rows.gather(parts, block.permutation())

    def _read(self, piece: Piece) -> Iterator[Rows]:
        """The rows of a piece as they lie, decoded and preprocessed part by part."""
        source = self._sources[piece.source]
        row = 0
        try:
            with source.open() as file:
                tables = file.iter_batches(
                    self._decoded_rows,
                    row_groups=[piece.row_group],
                    columns=self._columns,
                    use_threads=False,
                )
                for table in map(_table, tables):
                    first, begin, row = max(row, piece.start), row, row + len(table)
                    if first < row:
                        part = table.slice(first - begin, min(row, piece.stop) - first)
                        yield self._preprocess(self._decode(part, first))
                    if row >= piece.stop:
                        return
                raise DataError(f"ends after {row} rows, its footer says {piece.stop} or more")
        except (OSError, pa.ArrowException, DataError) as error:
            raise DataError(f"{source.path}, row group {piece.row_group}: {error}") from error

    def _preprocess(self, rows: Rows) -> Rows:
        """Decoded rows with the weights of their labels as stored, after the steps on rows."""
        if self._weigh is not None:
            rows = replace(rows, weights=self._weigh(rows.labels, rows.tasks))
        return self._steps.on_rows(rows, self._inputs)

    def _cut(self, rows: Rows, position: int) -> Rows:
        """This rank's part of the batch that is made of the rows from ``position`` on."""
        if self._steps.need_whole_batches:
            rows = self._steps.on_batch(
                rows,
                batch_size=self._batch,
                seed=(self._seed or 0, position),
                inputs=self._inputs,
            )
            part, parts = self._part
            rows = rows.between(len(rows) * part // parts, len(rows) * (part + 1) // parts)
        return rows.only(rows.dense, self._tasks)

    def _to_batch(self, rows: Rows) -> Batch:
        return Batch(
            dense={name: _tensor(array) for name, array in rows.dense.items()},
            sparse={
                name: Bag(torch.from_numpy(slots), torch.from_numpy(offsets))
                for name, (slots, offsets) in rows.sparse.items()
            },
            tasks=self._tasks,
            labels=_tensor(rows.labels),
            weights=None if rows.weights is None else _tensor(rows.weights),
        )


class _Walk:
    """A lane being read in order: one block in memory, the next one on its way."""

    def __init__(self, lane: Lane, load, pool: ThreadPoolExecutor, epochs: int | None) -> None:
        self._lane, self._load, self._pool = lane, load, pool
        self._end = None if epochs is None else epochs * lane.num_rows
        self._block: Block | None = None
        self._ahead: tuple[Block, Future[Rows]] | None = None

    def rows(self, start: int, stop: int) -> list[Rows]:
        """The rows at the lane's positions [start, stop), as far as its epochs reach."""
        if self._end is not None:
            start, stop = min(start, self._end), min(stop, self._end)
        parts = []
        for block, begin, end in self._lane.spans(start, stop):
            if block != self._block:
                self._enter(block)
            parts.append(self._held.between(begin, end))
        return parts

    def read_ahead(self, position: int) -> None:
        """Has the block that holds ``position`` loaded, if the lane's epochs reach that far."""
        self._ahead = None
        if self._end is None or position < self._end:
            block = self._lane.block_at(position)
            self._ahead = block, self._pool.submit(self._load, block)

    def _enter(self, block: Block) -> None:
        if self._ahead is not None and self._ahead[0] == block:
            self._held = self._ahead[1].result()
        else:
            self._held = self._load(block)
        self._block = block
        self.read_ahead(block.epoch * self._lane.num_rows + block.start + block.num_rows)


def _tensor(array: np.ndarray) -> torch.Tensor:
    array = np.ascontiguousarray(array)
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _table(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch])
