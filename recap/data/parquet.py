"""Parquet data sets as streams of batches: bounded memory, resumable, shared by ranks."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from recap.batch import Batch
from recap.data.file_faults import file_faults
from recap.data.files import ParquetSource, open_sources
from recap.data.prefetch import prefetched
from recap.data.preprocess import Step
from recap.data.stream import Stream
from recap.schema import Schema


@dataclass(frozen=True, kw_only=True)
class ParquetData:
    """One data set: ``train_data``, or one partition of ``validation_data``.

    Args:
        inputs: path, glob or URI, or a list of them; see ``recap.data.files.open_sources``.
        seg_dense_schema: what the files hold.
        global_batch_size: examples per batch, over all ranks.
        examples_shuffle_buffer_size: rows that are permuted together, rounded up to row groups.
        interleave_num_parallel_calls: row groups from different places of the data set that are
            read side by side and mixed in every batch, each with an equal share of it; with several
            ranks at least as many as ranks, or some rows are read by two of them. null means 1.
        prefetch_batches: batches made ready ahead of the training step.
        preprocess: steps by name, applied in the order written; a null step is left out.
        evaluation_tasks: the tasks that a validation partition measures; null means all.
    """

    inputs: str | Sequence[str]
    seg_dense_schema: Schema
    global_batch_size: int = 128
    examples_shuffle_buffer_size: int = 1024
    interleave_num_parallel_calls: int | None = None
    prefetch_batches: int = 4
    preprocess: Mapping[str, Step | None] = field(default_factory=dict)
    evaluation_tasks: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in ("global_batch_size", "examples_shuffle_buffer_size", "prefetch_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")
        batch = self.global_batch_size
        if self.lanes < 1 or batch % self.lanes:  # uneven shares would end epochs unevenly
            fitting = [lanes for lanes in range(1, batch + 1) if batch % lanes == 0]
            below = [lanes for lanes in fitting if lanes < self.lanes][-1:]
            above = [lanes for lanes in fitting if lanes > self.lanes][:1]
            raise ValueError(
                f"interleave_num_parallel_calls={self.lanes} must divide "
                f"global_batch_size={batch}; near: {', '.join(map(str, below + above))}"
            )

    @property
    def lanes(self) -> int:
        """Parts of the data set that every batch takes rows from."""
        lanes = self.interleave_num_parallel_calls
        return 1 if lanes is None else lanes

    @cached_property
    def sources(self) -> list[ParquetSource]:
        """The files, with their footers read once.

        Raises:
            DataError: see ``open_sources``.
        """
        return open_sources(self.inputs)

    @property
    def num_rows(self) -> int:
        """Rows of one epoch."""
        return sum(source.num_rows for source in self.sources)

    @cached_property
    def schema(self) -> Schema:
        """The schema of the batches, after preprocessing: what a model is built for."""
        schema = self.seg_dense_schema
        for step in self._steps:
            schema = step.schema(schema)
        return schema

    @property
    def _steps(self) -> list[Step]:
        return [step for step in self.preprocess.values() if step is not None]

    def batches(
        self,
        *,
        tasks: Sequence[str],
        shuffle_seed: int | None,
        epochs: int | None,
        inputs: Collection[str] | None = None,
        position: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> Generator[tuple[Batch, int]]:
        """This rank's part of every global batch, each with the position behind it.

        A position counts the rows of all ranks from the first epoch on; a stream started at a
        position yields what the stream that handed it out would have yielded next.

        Args:
            tasks: the labels' columns, in this order.
            inputs: the schema's dense and sparse inputs that are read; None: all.
            shuffle_seed: rows come in a random order that follows from it; None: as they lie.
            epochs: how often every row is seen; None: without end. Batches run on from one epoch
                into the next; only the last one of all may be short.
            position: where to start.

        Raises:
            DataError: while iterating, when a row group cannot be read or holds a label that is
                neither 0 nor 1; names file and row group.
        """
        stream = Stream(
            self.sources,
            _only(self.seg_dense_schema, inputs),
            tasks,
            steps=self._steps,
            batch=self.global_batch_size,
            lanes=self.lanes,
            buffer=self.examples_shuffle_buffer_size,
            seed=shuffle_seed,
            epochs=epochs,
            rank=rank,
            world_size=world_size,
        )
        batches = stream.batches(position, pin_memory)
        return prefetched(batches, depth=self.prefetch_batches)

    def faults(self, tasks: Sequence[str]) -> list[str]:
        """All that keeps the files from being read as the schema says, with file and column."""
        found: dict[str, list[str]] = {}  # fault → files; files mostly share their faults
        for source in self.sources:
            for fault in file_faults(source.schema, self.seg_dense_schema, tasks):
                found.setdefault(fault, []).append(source.path)
        return [
            f"{paths[0]}{f' and {len(paths) - 1} more files' if len(paths) > 1 else ''}: {fault}"
            for fault, paths in found.items()
        ]


def _only(schema: Schema, inputs: Collection[str] | None) -> Schema:
    """The part of the schema that is read for these inputs."""
    if inputs is None:
        return schema
    return replace(
        schema,
        dense={name: dense for name, dense in schema.dense.items() if name in inputs},
        sparse={name: sparse for name, sparse in schema.sparse.items() if name in inputs},
    )
