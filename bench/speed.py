"""Examples per second of data alone, the step alone, whole training and evaluation.

The parts take turns, so that what else the machine does falls on all of them: compare them within
one run. A part that reads opens a stream of its own and closes it, so that nothing is read ahead
while another part is measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from statistics import median
from time import perf_counter

import pyarrow.parquet as pq
import torch

from bench.report import conditions, peak_memory_mb, table
from recap.batch import Batch
from recap.compose import compose
from recap.data.decode import columns_of
from recap.distributed import ALONE
from recap.evaluate import evaluate
from recap.experiment import Experiment, prepare
from recap.run.divergence import LossWindow
from recap.run.reading import batches_from
from recap.run.start import observe
from recap.run.update import update

HEADER = ("part", "examples/s", "ms per step", "lowest … highest examples/s")


def measure(
    overrides: Sequence[str], *, batch_sizes: Sequence[int], rows: int, repetitions: int
) -> None:
    """Prints a table per batch size, each part measured ``repetitions`` times on ``rows`` rows."""
    print(conditions(), flush=True)
    experiment = prepare(compose(*overrides, "tracking=none"))
    print(_storage(experiment))
    started = perf_counter()
    observe(experiment)
    if experiment.ranker.observers():
        print(
            f"the pass over the training data that inputs count: {perf_counter() - started:.1f} s"
        )
    for batch_size in batch_sizes:
        data = replace(experiment.train_data, global_batch_size=batch_size)
        _measure_at(replace(experiment, train_data=data), rows, repetitions)
    print(f"\nload average at the end: {os.getloadavg()[0]:.1f}")


def _measure_at(experiment: Experiment, rows: int, repetitions: int) -> None:
    batch_size = experiment.train_data.global_batch_size
    steps = max(4, rows // batch_size)
    with closing(batches_from(experiment, 0)) as batches:
        batch, _ = next(batches)
    experiment.ranker.train()
    for _ in range(2):  # the optimizer makes its moments, the threads start
        _step(experiment, batch)
    parts: dict[str, Callable[[], float]] = {
        "data alone": lambda: _data_alone(experiment),
        "step alone": lambda: _steps_alone(experiment, batch, steps),
        "whole training": lambda: _whole(experiment, steps),
        "evaluation": lambda: _evaluation(experiment, steps),
    }
    speeds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repetitions):
        for name, part in parts.items():
            speeds[name].append(part())
    ratios = [w / s for w, s in zip(speeds["whole training"], speeds["step alone"], strict=True)]
    print(f"\nbatch {batch_size}, {repetitions} repetitions of {steps} steps\n")
    print(table(HEADER, [_row(name, values, batch_size) for name, values in speeds.items()]))
    print(f"\nwhole training against step alone: {median(ratios):.3f} (median of the repetitions')")
    print(f"peak memory of the process so far: {peak_memory_mb():.0f} MB", flush=True)


def _row(name: str, speeds: Sequence[float], batch_size: int) -> tuple[str, ...]:
    middle = median(speeds)
    spread = f"{min(speeds):,.0f} … {max(speeds):,.0f}"
    return name, f"{middle:,.0f}", f"{1000 * batch_size / middle:,.1f}", spread


def _data_alone(experiment: Experiment) -> float:
    """Examples/s of an epoch's batches, from opening the files on."""
    batch_size = experiment.train_data.global_batch_size
    num_batches = experiment.train_data.num_rows // batch_size
    started = perf_counter()
    with closing(batches_from(experiment, 0)) as batches:
        for _ in islice(batches, num_batches):
            pass
    return num_batches * batch_size / (perf_counter() - started)


def _steps_alone(experiment: Experiment, batch: Batch, steps: int) -> float:
    """Examples/s of updates on one batch again and again."""
    started = perf_counter()
    for _ in range(steps):
        _step(experiment, batch)
    return steps * len(batch) / (perf_counter() - started)


def _whole(experiment: Experiment, steps: int) -> float:
    """Examples/s of the training loop with its read-ahead, from the second batch on."""
    with closing(batches_from(experiment, 0)) as batches:
        _step(experiment, next(batches)[0])
        started = perf_counter()
        for _ in range(steps):
            _step(experiment, next(batches)[0])
    return steps * experiment.train_data.global_batch_size / (perf_counter() - started)


def _evaluation(experiment: Experiment, steps: int) -> float:
    """Examples/s of an evaluation of the first partition on as many batches, with its metrics."""
    name, data = next(iter(experiment.validation_data.items()))
    data = replace(data, global_batch_size=experiment.train_data.global_batch_size)
    steps = min(steps, data.num_rows // data.global_batch_size)
    training = replace(experiment.training, num_eval_steps=steps)
    started = perf_counter()
    evaluate(experiment.ranker, {name: data}, training)
    return steps * data.global_batch_size / (perf_counter() - started)


def _step(experiment: Experiment, batch: Batch) -> None:
    """An update as in ``recap.run.fit``, without logging, evaluation and checkpoint."""
    update(experiment, [(batch, 0, 1.0)], 1, LossWindow(experiment.ranker.tasks, 1, ALONE))
    if experiment.training.torch_device.type == "cuda":
        torch.cuda.synchronize()


def _storage(experiment: Experiment) -> str:
    """Bytes per row on disk, of the files and of the columns that training reads."""
    data, ranker = experiment.train_data, experiment.ranker
    schema = replace(
        data.seg_dense_schema,
        dense={n: d for n, d in data.seg_dense_schema.dense.items() if n in ranker.input_names},
        sparse={n: s for n, s in data.seg_dense_schema.sparse.items() if n in ranker.input_names},
    )
    used = set(columns_of(schema, ranker.tasks))
    whole = of_used = 0
    for source in data.sources:
        whole += source.filesystem.get_file_info(source.path).size
        with source.filesystem.open_input_file(source.path) as file:
            footer = pq.read_metadata(file)
        for group in range(footer.num_row_groups):
            for number in range(footer.num_columns):
                column = footer.row_group(group).column(number)
                if column.path_in_schema.removesuffix(".list.element") in used:
                    of_used += column.total_compressed_size
    return (
        f"data: {data.num_rows:,} rows in {len(data.sources)} files, {whole / data.num_rows:,.0f} "
        f"bytes per row, {of_used / data.num_rows:,.0f} of them in columns that training reads\n"
        f"model: {sum(p.numel() for p in ranker.parameters()):,} parameters, "
        f"{len(ranker.tasks)} tasks"
    )
