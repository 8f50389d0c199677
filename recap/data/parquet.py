"""Parquet data sets as streams of batches: bounded memory, resumable, shared by ranks."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch

from recap.batch import Bag, Batch
from recap.data.decode import Decoder, Rows, columns_of
from recap.data.file_faults import file_faults
from recap.data.files import DataError, ParquetSource, open_sources
from recap.data.order import Block, Lane, Piece
from recap.data.prefetch import prefetched
from recap.data.preprocess import Step
from recap.schema import Schema

DECODED_BYTES = 8 << 20  # of a row group that are decoded at a time, before rows find their places


@dataclass(frozen=True, kw_only=True)
class ParquetData:
    """One data set: ``train_data``, or one partition of ``validation_data``.

    Args:
        inputs: path, glob or URI, or a list of them; see ``recap.data.files.open_sources``.
        seg_dense_schema: what the files hold.
        global_batch_size: examples per batch, over all ranks.
        examples_shuffle_buffer_size: rows that are permuted together, rounded up to row groups.
        interleave_num_parallel_calls: row groups from different places of the data set that are
            read side by side and mixed in every batch, each with an equal share of it; with several
            ranks at least as many as ranks, or some rows are read by two of them. null means 1.
        prefetch_batches: batches made ready ahead of the training step.
        preprocess: steps by name, applied in the order written; a null step is left out.
        evaluation_tasks: the tasks that a validation partition measures; null means all.
    """

    inputs: str | Sequence[str]
    seg_dense_schema: Schema
    global_batch_size: int = 128
    examples_shuffle_buffer_size: int = 1024
    interleave_num_parallel_calls: int | None = None
    prefetch_batches: int = 4
    preprocess: Mapping[str, Step | None] = field(default_factory=dict)
    evaluation_tasks: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in ("global_batch_size", "examples_shuffle_buffer_size", "prefetch_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")
        batch = self.global_batch_size
        if self.lanes < 1 or batch % self.lanes:  # uneven shares would end epochs unevenly
            fitting = [lanes for lanes in range(1, batch + 1) if batch % lanes == 0]
            below = [lanes for lanes in fitting if lanes < self.lanes][-1:]
            above = [lanes for lanes in fitting if lanes > self.lanes][:1]
            raise ValueError(
                f"interleave_num_parallel_calls={self.lanes} must divide "
                f"global_batch_size={batch}; near: {', '.join(map(str, below + above))}"
            )

    @property
    def lanes(self) -> int:
        """Parts of the data set that every batch takes rows from."""
        lanes = self.interleave_num_parallel_calls
        return 1 if lanes is None else lanes

    @cached_property
    def sources(self) -> list[ParquetSource]:
        """The files, with their footers read once.

        Raises:
            DataError: see ``open_sources``.
        """
        return open_sources(self.inputs)

    @property
    def num_rows(self) -> int:
        """Rows of one epoch."""
        return sum(source.num_rows for source in self.sources)

    @cached_property
    def schema(self) -> Schema:
        """The schema of the batches, after preprocessing: what a model is built for."""
        schema = self.seg_dense_schema
        for step in self._steps:
            schema = step.schema(schema)
        return schema

    @property
    def _steps(self) -> list[Step]:
        return [step for step in self.preprocess.values() if step is not None]

    def batches(
        self,
        *,
        tasks: Sequence[str],
        shuffle_seed: int | None,
        epochs: int | None,
        inputs: Collection[str] | None = None,
        position: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> Generator[tuple[Batch, int]]:
        """This rank's part of every global batch, each with the position behind it.

        A position counts the rows of all ranks from the first epoch on; a stream started at a
        position yields what the stream that handed it out would have yielded next.

        Args:
            tasks: the labels' columns, in this order.
            inputs: the schema's dense and sparse inputs that are read; None: all.
            shuffle_seed: rows come in a random order that follows from it; None: as they lie.
            epochs: how often every row is seen; None: without end. Batches run on from one epoch
                into the next; only the last one of all may be short.
            position: where to start.

        Raises:
            DataError: while iterating, when a row group cannot be read or holds a label that is
                neither 0 nor 1; names file and row group.
        """
        schema = _only(self.seg_dense_schema, inputs)
        stream = _Stream(self, schema, tasks, shuffle_seed, epochs, rank, world_size)
        batches = stream.batches(position, pin_memory)
        return prefetched(batches, depth=self.prefetch_batches)

    def faults(self, tasks: Sequence[str]) -> list[str]:
        """All that keeps the files from being read as the schema says, with file and column."""
        found: dict[str, list[str]] = {}  # fault → files; files mostly share their faults
        for source in self.sources:
            for fault in file_faults(source.schema, self.seg_dense_schema, tasks):
                found.setdefault(fault, []).append(source.path)
        return [
            f"{paths[0]}{f' and {len(paths) - 1} more files' if len(paths) > 1 else ''}: {fault}"
            for fault, paths in found.items()
        ]


class _Stream:
    """One rank's walk over the lanes of a data set."""

    def __init__(
        self,
        data: ParquetData,
        schema: Schema,
        tasks: Sequence[str],
        shuffle_seed: int | None,
        epochs: int | None,
        rank: int,
        world_size: int,
    ) -> None:
        batch, lanes = data.global_batch_size, data.lanes
        if batch % world_size:
            below = batch // world_size * world_size
            raise ValueError(
                f"global_batch_size={batch} does not divide over {world_size} ranks; "
                f"{f'{below} and ' if below else ''}{below + world_size} do"
            )
        self._sources = data.sources
        self._columns = columns_of(schema, tasks)
        row_bytes = sum(d.width * np.dtype(d.dtype).itemsize for d in schema.dense.values())
        row_bytes += 8 * (len(schema.sparse) + len(tasks))
        self._decoded_rows = max(1, DECODED_BYTES // row_bytes)
        self._decode = Decoder(schema, tasks, [source.schema for source in data.sources])
        self._steps = data._steps
        self._tasks = tuple(tasks)
        self._batch = batch
        self._epochs = epochs
        self._shares = []  # (lane, its rows per batch, the first and last of them for this rank)
        mine = range(batch * rank // world_size, batch * (rank + 1) // world_size)
        for index in range(lanes):
            first, last = batch * index // lanes, batch * (index + 1) // lanes
            start, stop = max(first, mine.start) - first, min(last, mine.stop) - first
            lane = Lane(
                [source.row_group_rows for source in data.sources],
                index=index,
                lanes=lanes,
                buffer=data.examples_shuffle_buffer_size,
                seed=shuffle_seed,
            )
            if start < stop and lane.num_rows:
                self._shares.append((lane, last - first, start, stop))

    def batches(self, position: int, pin_memory: bool) -> Generator[tuple[Batch, int]]:
        pool = ThreadPoolExecutor(1 + len(self._shares) // 4, thread_name_prefix="recap-read")
        try:
            walks = []
            for lane, quota, start, stop in self._shares:
                walk = _Walk(lane, self._load, pool, self._epochs)
                walk.read_ahead(position * quota // self._batch + start)
                walks.append((walk, quota, start, stop))
            while True:
                parts = []
                for walk, quota, start, stop in walks:
                    begin = position * quota // self._batch
                    parts += walk.rows(begin + start, begin + stop)
                if not parts:
                    return
                position += self._batch
                batch = self._to_batch(Rows.concatenate(parts))
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
        dense = dict(rows.dense)
        for step in self._steps:
            dense = step(dense)
        return replace(rows, dense=dense)

    def _to_batch(self, rows: Rows) -> Batch:
        return Batch(
            dense={name: torch.from_numpy(array) for name, array in rows.dense.items()},
            sparse={
                name: Bag(torch.from_numpy(slots), torch.from_numpy(offsets))
                for name, (slots, offsets) in rows.sparse.items()
            },
            tasks=self._tasks,
            labels=torch.from_numpy(rows.labels),
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


def _table(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch])


def _only(schema: Schema, inputs: Collection[str] | None) -> Schema:
    """The part of the schema that is read for these inputs."""
    if inputs is None:
        return schema
    return replace(
        schema,
        dense={name: dense for name, dense in schema.dense.items() if name in inputs},
        sparse={name: sparse for name, sparse in schema.sparse.items() if name in inputs},
    )
