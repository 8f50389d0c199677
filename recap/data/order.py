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

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

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


class Lane:
    """One of the equal parts into which the rows of each epoch are cut.

    Positions count the lane's rows from the first epoch on: position p is row ``p % num_rows`` of
    epoch ``p // num_rows``.
    """

    def __init__(
        self,
        row_groups: Sequence[Sequence[int]],
        *,
        index: int,
        lanes: int,
        buffer: int,
        seed: int | None,
        file_batch_size: int | None = None,
    ) -> None:
        """``row_groups[s][g]``: rows of group g of source s; ``seed`` None keeps their order.

        ``file_batch_size`` sources, drawn anew each epoch, are mixed before the next ones come;
        None, or no more sources than that: all of them.
        """
        self._row_groups = [
            (source, group, rows)
            for source, groups in enumerate(row_groups)
            for group, rows in enumerate(groups)
            if rows
        ]
        self._index, self._lanes, self._buffer, self._seed = index, lanes, buffer, seed
        self._file_batch_size = file_batch_size
        total = sum(rows for _, _, rows in self._row_groups)
        self._first, self._last = total * index // lanes, total * (index + 1) // lanes
        self.num_rows = self._last - self._first
        self._blocks_of = lru_cache(maxsize=2)(self._cut_blocks)

    def block_at(self, position: int) -> Block:
        """The block that holds ``position``."""
        epoch, row = divmod(position, self.num_rows)
        starts, blocks = self._blocks_of(epoch)
        return blocks[bisect_right(starts, row) - 1]

    def spans(self, start: int, stop: int) -> Iterator[tuple[Block, int, int]]:
        """(block, from, to) for the positions [start, stop): ranges of each block's permutation."""
        while start < stop:
            block = self.block_at(start)
            begin = start - block.epoch * self.num_rows - block.start
            end = min(begin + stop - start, block.num_rows)
            yield block, begin, end
            start += end - begin

    def _cut_blocks(self, epoch: int) -> tuple[list[int], list[Block]]:
        line = [self._row_groups[i] for i in self._order(epoch)]
        ends = list(accumulate(rows for _, _, rows in line))
        pieces = []
        for (source, group, rows), end in zip(line, ends, strict=True):
            begin = end - rows
            start, stop = max(self._first, begin) - begin, min(self._last, end) - begin
            if start < stop:
                pieces.append(Piece(source, group, start, stop))
        blocks: list[Block] = []
        starts: list[int] = []
        waiting: list[Piece] = []
        done = held = 0
        for number, piece in enumerate(pieces, start=1):
            waiting.append(piece)
            held += piece.stop - piece.start
            if held >= self._buffer or number == len(pieces):
                seed = None
                if self._seed is not None:
                    seed = (self._seed, epoch, self._index, self._lanes, len(blocks))
                blocks.append(Block(epoch, done, tuple(waiting), seed))
                starts.append(done)
                done, held, waiting = done + held, 0, []
        return starts, blocks

    def _order(self, epoch: int) -> np.ndarray:
        """The numbers of all row groups, as they come in the epoch."""
        if self._seed is None:
            return np.arange(len(self._row_groups))
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(len(self._row_groups))
        if self._file_batch_size is None:
            return order
        sources, source_of = np.unique([s for s, _, _ in self._row_groups], return_inverse=True)
        batch_of = random.permutation(len(sources)) // self._file_batch_size
        return order[np.argsort(batch_of[source_of][order], kind="stable")]
