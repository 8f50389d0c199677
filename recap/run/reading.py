"""The batches that a run trains on: of every one this rank's part."""

from __future__ import annotations

from collections.abc import Generator

import torch

from recap.batch import Batch
from recap.experiment import Experiment
from recap.run.on_device import on_device

FEWEST_ROWS = 2  # of a batch that lost rows: a batch norm cannot train on one

# with the position in the data behind each, and this rank's rows over the mean of all ranks'
MicroBatches = list[tuple[Batch, int, float]]


def batches_from(experiment: Experiment, position: int) -> Generator[tuple[Batch, int]]:
    """This rank's part of every batch, without end, on the device that trains."""
    training, ranks = experiment.training, experiment.ranks
    batches = experiment.train_data.batches(
        tasks=experiment.ranker.tasks,
        inputs=experiment.ranker.input_names,
        weighted=training.sampling_correction == "weights",
        shuffle_seed=training.seed,
        epochs=None,
        position=position,
        rank=ranks.rank,
        world_size=ranks.world_size,
        pin_memory=training.torch_device.type == "cuda",
    )
    return on_device(batches, training.torch_device)


def next_batches(
    batches: Generator[tuple[Batch, int]], experiment: Experiment
) -> tuple[MicroBatches, Exception | None]:
    """The batches of an update, or what keeps them from being read: what a reader's thread raises.

    Where rows that cannot be read are ignored, a batch may have lost some on one rank only. Then
    all ranks weigh their parts, and leave out a batch with too few rows, as one rank would.
    """
    ranks, ignored = experiment.ranks, experiment.train_data.ignored
    number, found = experiment.training.micro_batches, []
    while len(found) < number:
        failure, lengths = None, [0] * (number - len(found))
        try:
            if ignored is not None:
                ignored.refuse_too_many()
            read = [next(batches) for _ in lengths]
        except Exception as error:  # to be told to the other ranks, who would wait, and raised then
            failure, read = error, []
        if ignored is None:
            return [(batch, position, 1.0) for batch, position in read], failure
        lengths[: len(read)] = [len(batch) for batch, _ in read]
        agreed = ranks.sum_(torch.tensor([*lengths, int(failure is not None)]))
        *rows, failures = agreed.tolist()
        if failures:
            return [], failure
        fewest = min(FEWEST_ROWS, experiment.train_data.global_batch_size)
        found += [
            (batch, position, len(batch) * ranks.world_size / n)
            for (batch, position), n in zip(read, rows, strict=True)
            if n >= fewest
        ]
        if len(found) < number:
            ignored.agree(ranks.gathered)
    return found, None
