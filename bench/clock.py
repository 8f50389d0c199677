"""Seconds of work on any device: by events of a GPU, by the wall elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch

Moment = float | torch.cuda.Event


def moment(device: torch.device) -> Moment:
    """Now; on a GPU, when it has done all that it was given so far."""
    if device.type != "cuda":
        return perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: Moment, end: Moment) -> float:
    """Seconds from one moment to the other; waits for it."""
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        end.synchronize()
        return start.elapsed_time(end) / 1000
    assert not isinstance(start, torch.cuda.Event)
    assert not isinstance(end, torch.cuda.Event)
    return end - start


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that ``work`` takes, the kernels that it gives a GPU included."""
    start = moment(device)
    work()
    return between(start, moment(device))


def fastest(work: Callable[[], object], device: torch.device, *, times: int) -> float:
    """Seconds of the fastest of so many, after one that does not count."""
    return min([seconds(work, device) for _ in range(times + 1)][1:])
