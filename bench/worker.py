"""An object in a process of its own: its peak memory and its allocator are its own, too."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Self


class Worker:
    """Holds ``make(*arguments)`` in a fresh process for its ``with`` block.

    It works only while it is called, so that several can take turns.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        self._process = ProcessPoolExecutor(
            1, get_context("spawn"), initializer=_hold, initargs=(make, arguments)
        )

    def __call__(self, method: str, *arguments: Any) -> Any:
        """What the object's method returns."""
        return self._process.submit(_called, method, arguments).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()


_held: list[Any] = []  # in the worker's process: the object


def _hold(make: Callable[..., Any], arguments: tuple) -> None:
    _held.append(make(*arguments))


def _called(method: str, arguments: tuple) -> Any:
    return getattr(_held[0], method)(*arguments)
