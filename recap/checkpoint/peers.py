"""The ranks that share a checkpoint: what one of them decides, and what all of them agree on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from recap.checkpoint.folder import reason

T = TypeVar("T")
R = TypeVar("R")


class Failed(RuntimeError):
    """What one of the ranks could not do, with the reason, on all of them."""


class Peers:
    """The ranks of ``group``, a gloo group that nothing else uses meanwhile; None: one alone."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)

    @property
    def first(self) -> bool:
        """Whether this is the rank that decides."""
        return self.rank == 0

    def exchange(self, mine: Callable[[], T], decide: Callable[[list[T]], list[R]]) -> R:
        """What rank 0 makes for this rank of what ``mine`` returns on every rank, in their order.

        Raises:
            Failed: ``mine`` failed on a rank or ``decide`` on rank 0; then on all of them, so that
                none waits for another that has gone another way.
        """
        value: T | None = None
        failure: BaseException | None = None
        try:
            value = mine()
        except Exception as error:  # whatever it is, the others must learn of it
            failure = error
        given: list[tuple[T | None, str | None]] = self._gathered(
            (value, None if failure is None else reason(failure))
        )
        answers: list[tuple[R | None, str | None]] = []
        if self.first:
            told = [why if self.size == 1 else f"rank {i}: {why}" for i, (_, why) in _bad(given)]
            try:
                if not told:
                    decided = decide([value for value, _ in given])  # type: ignore[misc]
                    answers = [(answer, None) for answer in decided]
            except Exception as error:
                failure, told = error, [reason(error)]
            if told:
                answers = [(None, "; ".join(map(str, told)))] * self.size
        answer, why = self._scattered(answers)
        if why is not None:
            raise Failed(why) from failure
        return answer  # type: ignore[return-value]

    def _gathered(self, value: T) -> list[T]:
        """The value of every rank, on rank 0."""
        if self._group is None:
            return [value]
        gathered: list = [None] * self.size
        first = dist.get_global_rank(self._group, 0)
        dist.gather_object(value, gathered if self.first else None, dst=first, group=self._group)
        return gathered

    def _scattered(self, values: list[T]) -> T:
        """This rank's of the values that rank 0 has, one for each."""
        if self._group is None:
            return values[0]
        own: list = [None]
        first = dist.get_global_rank(self._group, 0)
        dist.scatter_object_list(own, values if self.first else None, src=first, group=self._group)
        return own[0]


def _bad(
    given: list[tuple[T | None, str | None]],
) -> list[tuple[int, tuple[T | None, str | None]]]:
    return [(rank, pair) for rank, pair in enumerate(given) if pair[1] is not None]
