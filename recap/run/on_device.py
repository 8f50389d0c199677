"""Batches on the device that computes: the next one is copied while one is computed on."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import torch

from recap.batch import Batch
from recap.data.prefetch import prefetched


def on_device(
    batches: Generator[tuple[Batch, int]], device: torch.device
) -> Generator[tuple[Batch, int]]:
    """``batches`` on ``device``; in the processor's memory it is ``batches`` itself.

    To a GPU they are copied from pinned memory on a stream of their own, one ahead: two batches lie
    there, and neither host nor computation waits for a copy unless it is slower than a step.
    """
    if device.type != "cuda":
        return batches
    # found here: in the thread that copies, the current GPU is always number 0
    index = torch.cuda.current_device() if device.index is None else device.index
    copies = _copied(batches, torch.cuda.Stream(index))
    return _handed_over(prefetched(copies, depth=1))


def _copied(
    batches: Generator[tuple[Batch, int]], stream: torch.cuda.Stream
) -> Generator[tuple[Batch, int, torch.cuda.Event]]:
    """Each batch as soon as its copy is on its way, with the event of its arrival."""
    with closing(batches):
        for batch, position in batches:
            with torch.cuda.stream(stream):
                copy = batch.to(stream.device, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(stream)
            yield copy, position, arrived


def _handed_over(
    copies: Generator[tuple[Batch, int, torch.cuda.Event]],
) -> Generator[tuple[Batch, int]]:
    """Each batch for the current stream, which waits for its arrival; the host does not."""
    with closing(copies):
        for batch, position, arrived in copies:
            computing = torch.cuda.current_stream()
            computing.wait_event(arrived)
            # its memory is the copying stream's, who would write the next batch into it
            batch.record_stream(computing)
            yield batch, position
