"""Decoded rows between the files and the batches: numpy twins of a batch's fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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
    def gather(parts: Iterable[Rows], order: np.ndarray) -> Rows:
        """Row i is row ``order[i]`` of all ``parts`` together; they hold as many rows as ``order``.

        Each part is copied to its place and let go before the next one is asked for.
        """
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        dense: dict[str, np.ndarray] = {}
        bags: dict[str, list[Bags]] = {}
        tasks: tuple[str, ...] = ()
        labels, weights = np.empty(0), None
        done = 0
        for part in parts:
            if not done:
                dense = {name: _room(len(order), array) for name, array in part.dense.items()}
                bags = {name: [] for name in part.sparse}
                tasks, labels = part.tasks, _room(len(order), part.labels)
                weights = None if part.weights is None else _room(len(order), part.weights)
            rows = place[done : done + len(part)]
            for name, array in part.dense.items():
                dense[name][rows] = array
            for name, bag in part.sparse.items():
                bags[name].append(bag)
            labels[rows] = part.labels
            if weights is not None:
                weights[rows] = part.weights
            done += len(part)
        assert done == len(order)
        sparse = {name: _take_bags(*_concatenate_bags(b), order) for name, b in bags.items()}
        return Rows(dense, sparse, tasks, labels, weights)

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """All rows of ``parts``, one after the other; of all or of none weights are known."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        weights = [part.weights for part in parts if part.weights is not None]
        return Rows(
            {name: np.concatenate([part.dense[name] for part in parts]) for name in first.dense},
            {
                name: _concatenate_bags([part.sparse[name] for part in parts])
                for name in first.sparse
            },
            first.tasks,
            np.concatenate([part.labels for part in parts]),
            np.concatenate(weights) if weights else None,
        )


def _room(rows: int, like: np.ndarray) -> np.ndarray:
    return np.empty((rows, *like.shape[1:]), like.dtype)


def _take_bags(slots: np.ndarray, offsets: np.ndarray, index: np.ndarray) -> Bags:
    lengths = offsets[index + 1] - offsets[index]
    taken = np.zeros(len(index) + 1, np.int64)
    np.cumsum(lengths, out=taken[1:])
    shift = np.repeat(offsets[index] - taken[:-1], lengths)
    return slots[np.arange(taken[-1]) + shift], taken


def _concatenate_bags(bags: Sequence[Bags]) -> Bags:
    ends = np.cumsum([0] + [offsets[-1] for _, offsets in bags])
    offsets = [offsets[:-1] + end for (_, offsets), end in zip(bags, ends[:-1], strict=True)]
    return np.concatenate([slots for slots, _ in bags]), np.append(
        np.concatenate(offsets), ends[-1]
    )
