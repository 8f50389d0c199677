"""One rank's walk over a data set: row groups decoded, preprocessed, shuffled, cut into batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import inf

import numpy as np

from recap.batch import Batch
from recap.data.batching import batch_of, pinned_batch_of
from recap.data.cache import RowGroupCache
from recap.data.files import DataError, ParquetSource
from recap.data.ignored import Ignored, RowGroupError
from recap.data.order import Block, Lane, Line, Share, shares
from recap.data.preprocess import Steps
from recap.data.room import Room
from recap.data.row_groups import RowGroups, Weigh
from recap.data.rows import Rows
from recap.schema import Schema


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
        weigh: Weigh | None,
        batch: int,
        lanes: int,
        buffer: int,
        seed: int | None,
        file_batch_size: int | None,
        epochs: int | None,
        rank: int,
        world_size: int,
        threads: int | None = None,
        cache: RowGroupCache | None = None,
        ignored: Ignored | None = None,
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
        self._tasks = tuple(tasks)
        tasks = list(dict.fromkeys([*tasks, *sorted(steps.labels)]))
        self._row_groups = RowGroups(
            sources,
            schema,
            tasks,
            inputs=inputs,
            steps=steps,
            weigh=weigh,
            cache=cache,
            whole=ignored is not None,
        )
        self._cache, self._ignored, self._threads = cache, ignored, threads
        self._inputs, self._steps = inputs, steps
        self._batch, self._seed, self._epochs = batch, seed, epochs
        # a room for what is of a size: loaded blocks, and batches of several lanes
        self._blocks, self._batches = Room(), Room()
        self._rows = rows = batch * steps.batch_multiplier  # that are read for a batch
        self._part = (0, 1)  # of what is read, which part is this rank's
        if steps.need_whole_batches:
            self._part, rank, world_size = (rank, world_size), 0, 1
        row_groups = [source.row_group_rows for source in sources]
        line = Line(row_groups, seed=seed, file_batch_size=file_batch_size)
        all_lanes = [Lane(line, index=i, lanes=lanes, buffer=buffer) for i in range(lanes)]
        mine = shares(rows, lanes=lanes, rank=rank, world_size=world_size)
        self._shares = [(all_lanes[s.lane], s) for s in mine if all_lanes[s.lane].num_rows]
        self._ends = [  # of every lane: its rows per batch, and those of all its epochs
            (share.quota, inf if epochs is None else epochs * all_lanes[share.lane].num_rows)
            for share in shares(rows, lanes=lanes)
        ]

    def batches(self, position: int, pin_memory: bool) -> Generator[tuple[Batch, int]]:
        """This rank's part of every batch from ``position`` on, with the position behind it."""
        threads = self._threads or 1 + len(self._shares) // 4
        ahead = 1 if self._threads is None else -(-threads // max(1, len(self._shares)))
        pool = ThreadPoolExecutor(threads, thread_name_prefix="recap-read")
        try:
            walks = []
            for lane, share in self._shares:
                walk = _Walk(lane, self._load, pool, self._epochs, ahead)
                walk.read_ahead(position * share.quota // self._rows + share.start)
                walks.append((walk, share))
            while any(position * quota // self._rows < end for quota, end in self._ends):
                here, position = position, position + self._rows
                yield self._next(walks, here, pin_memory), position
        finally:
            pool.shutdown(cancel_futures=True)
            if self._cache is not None:
                self._cache.tell()
            if self._ignored is not None:
                self._ignored.tell()

    def _next(self, walks: Sequence[tuple[_Walk, Share]], position: int, pin_memory: bool) -> Batch:
        """This rank's part of the batch that is made of the rows from ``position`` on."""
        parts = []
        for walk, share in walks:
            begin = position * share.quota // self._rows
            first, last = begin + share.start, begin + share.stop
            parts += walk.rows(walk.within(first), walk.within(last))
        parts = parts or [self._row_groups.none()]
        if self._steps.need_whole_batches:
            parts = [self._cut(Rows.concatenate(parts, self._batches), position)]
        parts = [part.only(part.dense, self._tasks) for part in parts]
        return pinned_batch_of(parts) if pin_memory else batch_of(parts, self._batches)

    def _load(self, block: Block) -> _Loaded:
        """The rows of a block, decoded and preprocessed, in the order in which they come out."""
        order, ignored = block.permutation(), self._ignored
        while True:
            lost = [
                ignored is not None and self._row_groups.name(p) in ignored for p in block.pieces
            ]
            if ignored is not None and any(lost):
                ignored.refuse_too_many()
            pieces = [p for p, is_lost in zip(block.pieces, lost, strict=True) if not is_lost]
            parts = (rows for piece in pieces for rows in self._row_groups.read(piece))
            try:
                if not any(lost):
                    return _Loaded(Rows.gather(parts, order, self._blocks))
                there = np.repeat(np.logical_not(lost), [p.stop - p.start for p in block.pieces])
                number = np.cumsum(there) - 1  # of a row among those that are there
                kept = there[order]
                rows = Rows.gather(parts, number[order[kept]], self._blocks) if pieces else None
                return _Loaded(rows, np.concatenate([[0], np.cumsum(kept)]))
            except RowGroupError as fault:
                if ignored is None:
                    out = "train_data.ignore_data_errors=true leaves it out"
                    raise DataError(f"{fault}; {out}") from fault
                ignored.add(fault)

    def _cut(self, rows: Rows, position: int) -> Rows:
        """This rank's part of what the steps make of all rows that are read for a batch."""
        rows = self._steps.on_batch(
            rows,
            batch_size=self._batch,
            seed=(self._seed or 0, position),
            inputs=self._inputs,
        )
        part, parts = self._part
        if parts > 1:  # every parts-th row: steps may have put those of a kind together
            rows = rows.take(np.arange(part, len(rows), parts))
        return rows


@dataclass(frozen=True)
class _Loaded:
    """A block's rows in the order in which they come out, without those that are ignored."""

    rows: Rows | None  # None: not one is left
    kept_before: np.ndarray | None = None  # [n + 1]: rows there before each place; None: all are

    def between(self, start: int, stop: int) -> Rows | None:
        """What is there of the rows at the places [start, stop)."""
        if self.kept_before is not None:
            start, stop = self.kept_before[start], self.kept_before[stop]
        return None if self.rows is None or start == stop else self.rows.between(start, stop)


class _Walk:
    """A lane being read in order: one block in memory, ``ahead`` more on their way."""

    def __init__(
        self,
        lane: Lane,
        load: Callable[[Block], _Loaded],
        pool: ThreadPoolExecutor,
        epochs: int | None,
        ahead: int,
    ) -> None:
        self._lane, self._load, self._pool, self._ahead = lane, load, pool, ahead
        self._end = None if epochs is None else epochs * lane.num_rows
        self._block: Block | None = None
        self._coming: deque[tuple[Block, Future[_Loaded]]] = deque()
        self._next = 0  # position of the first row that is not on its way

    def within(self, position: int) -> int:
        """The position, or the end of the lane's epochs where that comes before it."""
        return position if self._end is None else min(position, self._end)

    def rows(self, start: int, stop: int) -> list[Rows]:
        """What is there of the rows at the lane's positions [start, stop)."""
        parts = []
        for block, begin, end in self._lane.spans(start, stop):
            if block != self._block:
                self._enter(block)
            if (part := self._held.between(begin, end)) is not None:
                parts.append(part)
        return parts

    def read_ahead(self, position: int) -> None:
        """Has the blocks from ``position`` on loaded, if the lane's epochs reach that far."""
        self._coming.clear()
        self._next = self.within(position)
        self._fill()

    def _fill(self) -> None:
        while len(self._coming) < self._ahead and self._next != self._end:
            block = self._lane.block_at(self._next)
            self._coming.append((block, self._pool.submit(self._load, block)))
            self._next = self._behind(block)

    def _behind(self, block: Block) -> int:
        return block.epoch * self._lane.num_rows + block.start + block.num_rows

    def _enter(self, block: Block) -> None:
        while self._coming:
            coming, loaded = self._coming.popleft()
            if coming == block:
                self._held = loaded.result()
                break
        else:  # between this rank's rows lie those of others, which may be more than was ahead
            self._held, self._next = self._load(block), self._behind(block)
        self._block = block
        self._fill()
