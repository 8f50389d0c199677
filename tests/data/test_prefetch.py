"""Items made ready by a thread: in order, a bounded number of them, errors included."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Generator

import pytest

from recap.data.prefetch import prefetched


class Counted:
    """Numbers from 0 on; knows how many were asked for, and whether it was closed."""

    def __init__(self) -> None:
        self.made = 0
        self.closed = False

    def numbers(self) -> Generator[int]:
        try:
            while True:
                self.made += 1
                yield self.made - 1
        finally:
            self.closed = True


class Room(threading.Semaphore):
    """A semaphore that tells whether its one taker waits, with nothing released since."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.awaited = threading.Event()
        self._turn = threading.Lock()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        with self._turn:
            if super().acquire(blocking=False):
                return True
            self.awaited.set()
        return super().acquire(blocking, timeout)

    def release(self, n: int = 1) -> None:
        with self._turn:
            self.awaited.clear()
            super().release(n)


def test_items_come_in_order_and_end_where_they_end():
    assert list(prefetched((n for n in range(7)), depth=2)) == [0, 1, 2, 3, 4, 5, 6]


def test_closing_early_ends_the_thread_and_closes_the_source():
    source = Counted()
    before = threading.active_count()
    items = prefetched(source.numbers(), depth=2)
    assert [next(items), next(items)] == [0, 1]
    items.close()
    assert source.closed
    assert threading.active_count() == before


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_than_depth_items_are_made_ahead(depth, monkeypatch):
    rooms: list[Room] = []
    monkeypatch.setattr(threading, "Semaphore", lambda n: rooms.append(Room(n)) or rooms[-1])
    source = Counted()
    items = prefetched(source.numbers(), depth=depth)
    next(items)
    assert rooms[0].awaited.wait(timeout=60)
    assert source.made == 1 + depth
    items.close()


def test_an_error_comes_after_the_items_before_it():
    def broken() -> Generator[int]:
        yield 1
        raise OSError("disk is gone")

    items = prefetched(broken(), depth=4)
    assert next(items) == 1
    with pytest.raises(OSError, match="disk is gone"):
        next(items)


def test_a_program_ends_though_its_stream_was_not_closed():
    program = (
        "from recap.data.prefetch import prefetched\n"
        "items = prefetched((n for n in range(10**9)), depth=2)\n"
        "print(next(items))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"0\n", b"")
