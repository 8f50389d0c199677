"""Seconds of work on any device: of its own events on a GPU, of the wall elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that ``work`` takes, the kernels that it queues on a GPU included."""
    if device.type != "cuda":
        started = perf_counter()
        work()
        return perf_counter() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def fastest(work: Callable[[], object], device: torch.device, *, times: int) -> float:
    """Seconds of the fastest of so many, after one that does not count."""
    return min([seconds(work, device) for _ in range(times + 1)][1:])
