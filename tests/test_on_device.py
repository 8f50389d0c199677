"""Where batches lie when they are trained on. What copies them to a GPU runs on GPUs only."""

from __future__ import annotations

from collections.abc import Generator

import torch
from every_layer import batch

from recap.batch import Batch
from recap.run.on_device import on_device


def test_on_the_processor_batches_stay_where_they_were_read():
    def read() -> Generator[tuple[Batch, int]]:
        yield batch(2), 2

    batches = read()
    assert on_device(batches, torch.device("cpu")) is batches
