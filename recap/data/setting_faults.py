"""What is wrong with the settings of a data set by themselves, whatever lies in its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from recap.data.preprocess import BatchStep, Step
from recap.nearest import nearest
from recap.schema import BFLOAT16

if TYPE_CHECKING:
    from recap.data.parquet import ParquetData

NAMING = ("inputs", "explicit_date_inputs", "explicit_datetime_inputs")


def setting_faults(data: ParquetData) -> Iterator[str]:
    """Every fault, with key, value and way out."""
    yield from _naming_faults(data)
    yield from _number_faults(data)
    if data.evaluation_tasks is not None and not data.evaluation_tasks:
        yield "evaluation_tasks=[] must name at least one task, or be null for all"
    if data.cache is not None and not data.cache.strip():
        yield f"cache={data.cache!r} must be a folder, or null for none"
    for name, dense in data.seg_dense_schema.dense.items():
        if dense.dtype == BFLOAT16:
            yield (
                f"seg_dense_schema.dense.{name}.dtype={BFLOAT16}: no file holds it; state "
                f"float32, and preprocess.downcast.features.{name}={BFLOAT16}"
            )
    for name, step in data.preprocess.items():
        if step is not None and not isinstance(step, Step | BatchStep):
            found = "._target_: missing, so it is" if isinstance(step, Mapping) else f"={step}:"
            yield (
                f"preprocess.{name}{found} no step; one has a _target_, as "
                "recap.data.preprocess.Downcast, or is chosen: preprocess=downcast"
            )
    labels = data.seg_dense_schema.labels
    for task in data.tasks:
        if task not in labels:
            yield (
                f"tasks.{task}: rates of a task that seg_dense_schema.labels does not name; "
                f"{nearest(task, labels)}"
            )


def _naming_faults(data: ParquetData) -> Iterator[str]:
    given = [key for key in NAMING if getattr(data, key) is not None]
    if not given:
        yield f"inputs=null: exactly one of {', '.join(NAMING)} must name the files"
    elif len(given) > 1:
        first, *others = given
        yield (
            f"{first}={getattr(data, first)!r}: {' and '.join(others)} given too; exactly one of "
            f"{', '.join(NAMING)} names the files: write null for the others, as {first}=null"
        )


def _number_faults(data: ParquetData) -> Iterator[str]:
    batch, lanes = data.global_batch_size, data.lanes
    for name in ("global_batch_size", "examples_shuffle_buffer_size", "prefetch_batches"):
        if getattr(data, name) < 1:
            yield f"{name}={getattr(data, name)} must be 1 or more"
    for name in ("num_files_to_keep", "file_batch_size", "map_num_parallel_calls"):
        if (number := getattr(data, name)) is not None and number < 1:
            yield f"{name}={number} must be 1 or more, or null"
    if not 0 <= data.ignored_rows_limit <= 1:
        limit = data.ignored_rows_limit
        yield f"ignored_rows_limit={limit} must be a share of the rows, 0 to 1"
    if batch > 0 and (lanes < 1 or batch % lanes):  # uneven shares would end epochs unevenly
        fitting = [lanes for lanes in range(1, batch + 1) if batch % lanes == 0]
        near = [n for n in fitting if n < lanes][-1:] + [n for n in fitting if n > lanes][:1]
        yield (
            f"interleave_num_parallel_calls={lanes} must divide "
            f"global_batch_size={batch}; near: {', '.join(map(str, near))}"
        )
    if batch == 1 and data.rows_per_batch > 1:
        yield (
            "global_batch_size=1 has no room for a positive and a negative: with "
            "downsample_negatives it must be 2 or more"
        )
