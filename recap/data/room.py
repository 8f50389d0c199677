"""Memory for rows that is handed out again once nobody looks at it any more."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np

ALIGNED_BYTES = 64  # a line of the processor's cache

Shape = tuple[tuple[int, ...], np.dtype]


class Room:
    """Room for arrays that are filled together and let go together, as those of a block of rows.

    Memory that is new to a process comes as zeroed pages, one by one, and that costs more than the
    copy of rows into it; an allocator gives pieces as large as these back to the system when they
    are freed. There are never more pieces of memory than were looked at at one time. Any thread
    may ask for arrays and let go of them.
    """

    def __init__(self) -> None:
        self._idle: deque[np.ndarray] = deque()
        self._most = 0

    def arrays(self, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Arrays of these shapes and types, whatever they hold.

        Their memory comes back when the last view of the last of them is gone, tensors included.
        """
        sizes = [int(np.prod(shape)) * dtype.itemsize for shape, dtype in shapes]
        starts = np.cumsum([0, *(-(-size // ALIGNED_BYTES) * ALIGNED_BYTES for size in sizes)])
        memory = self._memory(max(int(starts[-1]), 1))
        # views of an array have as their base the array that the memoryview is seen through, since
        # numpy looks for the owner of memory no further than to what is no array
        whole = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(whole, self._idle.append, memory).atexit = False
        return [
            whole[start : start + size].view(dtype).reshape(shape)
            for (shape, dtype), start, size in zip(shapes, starts[:-1], sizes, strict=True)
        ]

    def _memory(self, size: int) -> np.ndarray:
        self._most = max(self._most, size)
        try:
            if (memory := self._idle.pop()).nbytes >= size:
                return memory
        except IndexError:  # all of it is being looked at
            pass
        return np.empty(self._most, np.uint8)
