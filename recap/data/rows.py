"""Decoded rows between the files and the batches: numpy twins of a batch's fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recap.data.room import Room

# numpy has no bfloat16: its bits lie in uint16, which is no type of a schema's dense input
BFLOAT16 = np.dtype(np.uint16)

Bags = tuple[np.ndarray, np.ndarray]  # slots [V] int64, offsets [n + 1] int64


@dataclass(frozen=True)
class Rows:
    """n rows; what makes others of them leaves these as they are, arrays included."""

    dense: Mapping[str, np.ndarray]  # name → [n, width]
    sparse: Mapping[str, Bags]
    tasks: tuple[str, ...]  # whose labels are read: those of the batches and of the steps
    labels: np.ndarray  # [n, T] float32, columns in the order of tasks
    weights: np.ndarray | None = None  # [n, T] float32; None is a weight of 1 for every row

    def __len__(self) -> int:
        return len(self.labels)

    def between(self, start: int, stop: int) -> Rows:
        """The rows [start, stop), without a copy of dense inputs, labels and weights."""
        return Rows(
            {name: array[start:stop] for name, array in self.dense.items()},
            {
                name: (
                    slots[offsets[start] : offsets[stop]],
                    offsets[start : stop + 1] - offsets[start],
                )
                for name, (slots, offsets) in self.sparse.items()
            },
            self.tasks,
            self.labels[start:stop],
            None if self.weights is None else self.weights[start:stop],
        )

    def take(self, index: np.ndarray) -> Rows:
        """Row i is row ``index[i]`` of these."""
        return Rows(
            {name: array[index] for name, array in self.dense.items()},
            {name: _take_bags(*bags, index) for name, bags in self.sparse.items()},
            self.tasks,
            self.labels[index],
            None if self.weights is None else self.weights[index],
        )

    def only(self, dense: Iterable[str], tasks: Sequence[str]) -> Rows:
        """The rows with these dense inputs, as far as they have them, and labels, in this order."""
        names, tasks = set(dense), tuple(tasks)
        columns = [self.tasks.index(task) for task in tasks]
        same = tasks == self.tasks
        return Rows(
            {name: array for name, array in self.dense.items() if name in names},
            self.sparse,
            tasks,
            self.labels if same else self.labels[:, columns],
            self.weights if same or self.weights is None else self.weights[:, columns],
        )

    @staticmethod
    def gather(parts: Iterable[Rows], order: np.ndarray, room: Room) -> Rows:
        """Row i is row ``order[i]`` of all ``parts`` together; they hold as many rows as ``order``.

        Each part is copied to its place in ``room`` and let go before the next one is asked for.
        """
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        gathered: Rows | None = None
        bags: dict[str, list[Bags]] = {}
        done = 0
        for part in parts:
            if gathered is None:
                gathered = part._room_for(len(order), room)
                bags = {name: [] for name in part.sparse}
            rows = place[done : done + len(part)]
            names = gathered.dense
            for to, array in zip(gathered._arrays(names), part._arrays(names), strict=True):
                to[rows] = array
            for name, bag in part.sparse.items():
                bags[name].append(bag)
            done += len(part)
        assert gathered is not None
        assert done == len(order)
        sparse = {name: _take_bags(*_concatenate_bags(b), order) for name, b in bags.items()}
        return replace(gathered, sparse=sparse)

    @staticmethod
    def concatenate(parts: Sequence[Rows], room: Room) -> Rows:
        """All rows of ``parts``, one after the other, copied to ``room`` if there are several.

        Weights are known of all or of none.
        """
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        together = first._room_for(sum(map(len, parts)), room)
        of_parts = (part._arrays(first.dense) for part in parts)
        for to, *arrays in zip(together._arrays(first.dense), *of_parts, strict=True):
            np.concatenate(arrays, out=to)
        bags = {name: [part.sparse[name] for part in parts] for name in first.sparse}
        sparse = {name: _concatenate_bags(each) for name, each in bags.items()}
        return replace(together, sparse=sparse)

    def _arrays(self, dense: Iterable[str]) -> list[np.ndarray]:
        """All that has an entry per row, the dense inputs in this order."""
        weights = [] if self.weights is None else [self.weights]
        return [*(self.dense[name] for name in dense), self.labels, *weights]

    def _room_for(self, rows: int, room: Room) -> Rows:
        """So many rows like these, which hold anything, without the sparse ones."""
        shapes = [((rows, *a.shape[1:]), a.dtype) for a in self._arrays(self.dense)]
        arrays = iter(room.arrays(shapes))
        dense = {name: next(arrays) for name in self.dense}
        return Rows(dense, {}, self.tasks, next(arrays), next(arrays, None))


def _take_bags(slots: np.ndarray, offsets: np.ndarray, index: np.ndarray) -> Bags:
    lengths = offsets[index + 1] - offsets[index]
    taken = np.zeros(len(index) + 1, np.int64)
    np.cumsum(lengths, out=taken[1:])
    shift = np.repeat(offsets[index] - taken[:-1], lengths)
    return slots[np.arange(taken[-1]) + shift], taken


def _concatenate_bags(bags: Sequence[Bags]) -> Bags:
    offsets = concatenated_offsets([offsets for _, offsets in bags])
    return np.concatenate([slots for slots, _ in bags]), offsets


def concatenated_offsets(offsets: Sequence[np.ndarray]) -> np.ndarray:
    """The offsets of bags, one after the other, whose slots lie one after the other."""
    ends = np.cumsum([0] + [each[-1] for each in offsets])
    shifted = [each[:-1] + end for each, end in zip(offsets, ends[:-1], strict=True)]
    return np.append(np.concatenate(shifted), ends[-1])
