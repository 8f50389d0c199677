"""Read-ahead: an iterator's items made ready by a thread, in a queue of bounded length."""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Generator
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")


def prefetched(items: Generator[T], *, depth: int) -> Generator[T]:
    """The items of ``items`` in order, up to ``depth`` of them ready before they are asked for.

    Threads serve, not processes: reading Parquet, gathering rows and copying release Python's lock.
    An error raised by ``items`` is raised here in its place. Closing the iterator ends the thread.
    """
    ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    room = threading.Semaphore(depth - 1)
    closed = threading.Event()

    def read() -> None:
        end = _End()
        try:
            with closing(items):
                for item in items:
                    ready.put(item)
                    room.acquire()
                    if closed.is_set():
                        break
        except BaseException as error:
            end = _End(error)
        ready.put(end)

    def stop() -> None:
        closed.set()
        room.release()
        thread.join()

    thread = threading.Thread(target=read, name="recap-prefetch", daemon=True)
    thread.start()
    # a daemon's thread that is left to the interpreter's end may be halted within Arrow's code
    atexit.register(stop)
    try:
        while not isinstance(item := ready.get(), _End):
            room.release()
            yield item
            del item  # not to be kept in memory while the consumer asks for the next one
        if item.error is not None:
            raise item.error
    finally:
        atexit.unregister(stop)
        stop()


class _End:
    """What the queue holds behind the last item: the error that ended them, if any."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
