"""The order of rows: a pure function of seed, epoch and position, the same for every world size.

All rows of an epoch are laid out in one line: row groups in a random order (by seed and epoch);
where a ``file_batch_size`` is given, those of so many files come before those of the next ones. The
line is cut into ``lanes`` of equal length, and every global batch takes an equal share from each
lane; a rank owns a contiguous part of every batch, so with a multiple of the ranks as lanes no two
ranks read the same rows, and any number of ranks sees the same batches. Within a lane, blocks of
whole row groups holding at least ``buffer`` rows are permuted: rows move once, and the row at any
position is found without reading what lies before it, which is what makes resuming exact and cheap.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of one row group of one file."""

    source: int
    row_group: int
    start: int
    stop: int


@dataclass(frozen=True)
class Block:
    """Pieces that are in memory together, in the order in which their rows are numbered."""

    epoch: int
    start: int  # position in the lane, within the epoch, of the first row that comes out of it
    pieces: tuple[Piece, ...]
    seed: tuple[int, ...] | None  # None: rows come out as they lie

    @property
    def num_rows(self) -> int:
        """Rows of all pieces."""
        return sum(piece.stop - piece.start for piece in self.pieces)

    def permutation(self) -> np.ndarray:
        """Row numbers of the block [num_rows] int64, in the order in which they come out."""
        if self.seed is None:
            return np.arange(self.num_rows)
        return np.random.default_rng(self.seed).permutation(self.num_rows)


@dataclass(frozen=True)
class Share:
    """What one rank owns of a lane: of every ``quota`` rows in its order those [start, stop)."""

    lane: int
    quota: int  # rows that the lane gives to each batch
    start: int
    stop: int


def shares(rows: int, *, lanes: int, rank: int = 0, world_size: int = 1) -> list[Share]:
    """A rank's part of every batch of ``rows``, by lane: the lanes' quotas lie side by side in it.

    Only lanes of which it owns a part.
    """
    mine = range(rows * rank // world_size, rows * (rank + 1) // world_size)
    found = []
    for lane in range(lanes):
        first, last = rows * lane // lanes, rows * (lane + 1) // lanes
        start, stop = max(first, mine.start) - first, min(last, mine.stop) - first
        if start < stop:
            found.append(Share(lane, last - first, start, stop))
    return found


class Line:
    """All row groups of a data set as they come in each epoch; its lanes share one.

    ``num_rows`` counts the rows of an epoch.
    """

    def __init__(
        self,
        row_groups: Sequence[Sequence[int]],
        *,
        seed: int | None,
        file_batch_size: int | None = None,
    ) -> None:
        """``row_groups[s][g]``: rows of group g of source s; ``seed`` None keeps their order.

        ``file_batch_size`` sources, drawn anew each epoch, are mixed before the next ones come;
        None, or no more sources than that: all of them.
        """
        groups = np.array([len(rows) for rows in row_groups], np.int64)
        rows = np.fromiter(chain.from_iterable(row_groups), np.int64, int(groups.sum()))
        source = np.repeat(np.arange(len(groups)), groups)
        group = np.arange(len(rows)) - np.repeat(np.cumsum(groups) - groups, groups)
        held = rows > 0
        self._rows, self._source, self._group = rows[held], source[held], group[held]
        self.seed, self._file_batch_size = seed, file_batch_size
        self.num_rows = int(rows.sum())
        self._laid_out = lru_cache(maxsize=2)(self._lay_out)

    def pieces(self, epoch: int, first: int, last: int) -> np.ndarray:
        """The epoch's rows [first, last) as pieces [n, 4] int64: source, row group, start, stop."""
        order, ends = self._laid_out(epoch)
        i, j = np.searchsorted(ends, first, "right"), np.searchsorted(ends, last, "left") + 1
        order, ends = order[i:j], ends[i:j]
        begins = ends - self._rows[order]
        start, stop = np.maximum(first, begins) - begins, np.minimum(last, ends) - begins
        return np.stack([self._source[order], self._group[order], start, stop], axis=1)

    def _lay_out(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of all row groups as they come in the epoch, and where each one ends."""
        order = self._order(epoch)
        return order, np.cumsum(self._rows[order])

    def _order(self, epoch: int) -> np.ndarray:
        if self.seed is None:
            return np.arange(len(self._rows))
        random = np.random.default_rng((self.seed, epoch))
        order = random.permutation(len(self._rows))
        if self._file_batch_size is None:
            return order
        sources, source_of = np.unique(self._source, return_inverse=True)
        batch_of = random.permutation(len(sources)) // self._file_batch_size
        return order[np.argsort(batch_of[source_of][order], kind="stable")]


class Lane:
    """One of the equal parts into which the rows of each epoch are cut.

    Positions count the lane's rows from the first epoch on: position p is row ``p % num_rows`` of
    epoch ``p // num_rows``.
    """

    def __init__(self, line: Line, *, index: int, lanes: int, buffer: int) -> None:
        self._line, self._index, self._lanes, self._buffer = line, index, lanes, buffer
        total = line.num_rows
        self._first, self._last = total * index // lanes, total * (index + 1) // lanes
        self.num_rows = self._last - self._first
        self._cuts_of = lru_cache(maxsize=2)(self._cut)
        self._block = lru_cache(maxsize=16)(self._make_block)

    def block_at(self, position: int) -> Block:
        """The block that holds ``position``."""
        epoch, row = divmod(position, self.num_rows)
        _, _, starts = self._cuts_of(epoch)
        return self._block(epoch, bisect_right(starts, row) - 1)

    def spans(self, start: int, stop: int) -> Iterator[tuple[Block, int, int]]:
        """(block, from, to) for the positions [start, stop): ranges of each block's permutation."""
        while start < stop:
            block = self.block_at(start)
            begin = start - block.epoch * self.num_rows - block.start
            end = min(begin + stop - start, block.num_rows)
            yield block, begin, end
            start += end - begin

    def _cut(self, epoch: int) -> tuple[np.ndarray, list[int], list[int]]:
        """The lane's pieces; of each block, its first piece and its first row, and their ends."""
        pieces = self._line.pieces(epoch, self._first, self._last)
        ends = np.cumsum(pieces[:, 3] - pieces[:, 2]).tolist()
        cuts, starts = [0], [0]
        while cuts[-1] < len(ends):
            # a block is closed by the piece that fills it, the last one by the last piece
            last = min(bisect_left(ends, starts[-1] + self._buffer, cuts[-1]), len(ends) - 1)
            cuts.append(last + 1)
            starts.append(ends[last])
        return pieces, cuts, starts[:-1]

    def _make_block(self, epoch: int, number: int) -> Block:
        pieces, cuts, starts = self._cuts_of(epoch)
        seed = self._line.seed
        if seed is not None:
            seed = (seed, epoch, self._index, self._lanes, number)
        held = pieces[cuts[number] : cuts[number + 1]].tolist()
        return Block(epoch, starts[number], tuple(Piece(*piece) for piece in held), seed)
