"""Parquet data sets as streams of batches: bounded memory, resumable, shared by ranks."""

from __future__ import annotations

import logging
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from recap.batch import Batch
from recap.data.cache import RowGroupCache, fingerprint
from recap.data.dates import ExplicitDateInputs, ExplicitDatetimeInputs
from recap.data.decode import dense_dtypes
from recap.data.file_faults import file_faults
from recap.data.files import ParquetSource, matching_files, open_sources
from recap.data.ignored import Ignored
from recap.data.listing import Listing
from recap.data.prefetch import prefetched
from recap.data.preprocess import Steps
from recap.data.row_groups import RowGroups
from recap.data.sampling import SamplingRates, sampling_weights
from recap.data.setting_faults import NAMING, setting_faults
from recap.data.sharing import sharing_warnings
from recap.data.stream import Stream
from recap.schema import Schema

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ParquetData:
    """One data set: ``train_data``, or one partition of ``validation_data``.

    Args:
        seg_dense_schema: what the files hold.
        inputs: path, glob or URI, or a list of them; see ``recap.data.files.matching_files``. The
            files are named by exactly one of this and the next two.
        explicit_date_inputs: the folders of the last days up to a date.
        explicit_datetime_inputs: the folders of the last hours up to a time.
        num_files_to_keep: files that are read, the first ones by path of all that are named, for
            days and hours the oldest; null: all.
        global_batch_size: examples per batch, over all ranks.
        examples_shuffle_buffer_size: rows that are permuted together, rounded up to row groups.
        interleave_num_parallel_calls: row groups from different places of the data set that are
            read side by side and mixed in every batch, each with an equal share of it. null means
            1. With several ranks a multiple of their number, or some row groups are read by more
            than one of them: 12 serves 1, 2, 3, 4, 6 and 12 ranks. Another number is another order.
        file_batch_size: files whose row groups are mixed among each other, drawn anew each epoch,
            before the next ones come; what a pass jumps between at a time. null: all files.
        map_num_parallel_calls: threads that read and decode row groups ahead; each takes a block of
            at least ``examples_shuffle_buffer_size`` rows. Memory holds a block for every one of
            the interleaved places, and as many more as there are threads or places, whichever is
            more. null: one thread for every four places, and a block ahead for each place.
        cache: folder on local disk that keeps decoded and preprocessed row groups for later passes
            and runs; see ``recap.data.cache``. It grows to the data set's rows times the bytes of
            one after ``preprocess``. null: every pass decodes anew.
        ignore_data_errors: leave out row groups that cannot be read, or hold a label that is
            neither 0 nor 1, and files whose footer cannot be read; each is told in the log once.
            Positions count on as if they were there: batches at their places are shorter, or
            empty, and training leaves out those of fewer than two rows. false: the first one
            stops the run.
        ignored_rows_limit: the share of the rows, 0 to 1, that may be left out so, and the share of
            the files; more stops the run, or refuses it. What several ranks read counts once.
        prefetch_batches: batches made ready ahead of the training step.
        preprocess: steps by name, applied in the order written; a null step is left out.
        tasks: the rates at which examples of a task were kept when the files were made, by task;
            a task that is not named kept all. Each partition has its own.
        evaluation_tasks: the tasks that a validation partition measures; null means all.
    """

    seg_dense_schema: Schema
    inputs: str | Sequence[str] | None = None
    explicit_date_inputs: ExplicitDateInputs | None = None
    explicit_datetime_inputs: ExplicitDatetimeInputs | None = None
    num_files_to_keep: int | None = None
    global_batch_size: int = 128
    examples_shuffle_buffer_size: int = 1024
    interleave_num_parallel_calls: int | None = None
    file_batch_size: int | None = None
    map_num_parallel_calls: int | None = None
    cache: str | None = None
    ignore_data_errors: bool = False
    ignored_rows_limit: float = 0.01
    prefetch_batches: int = 4
    preprocess: Mapping[str, Any] = field(default_factory=dict)  # a Step, a BatchStep or null each
    tasks: Mapping[str, SamplingRates] = field(default_factory=dict)
    evaluation_tasks: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if faults := list(setting_faults(self)):
            raise ValueError("\n".join(faults))

    @property
    def named_by(self) -> str:
        """Which of the fields names the files."""
        return next(key for key in NAMING if getattr(self, key) is not None)

    @property
    def lanes(self) -> int:
        """Parts of the data set that every batch takes rows from."""
        lanes = self.interleave_num_parallel_calls
        return 1 if lanes is None else lanes

    @property
    def sources(self) -> Sequence[ParquetSource]:
        """The files, with their footers read once.

        Raises:
            DataError: patterns or folders without files, and damaged files; names all of them.
        """
        return self.listing.sources

    @cached_property
    def listing(self) -> Listing:
        """What is found of the files; looked for once, also if in vain."""
        named = self.explicit_date_inputs or self.explicit_datetime_inputs
        tolerated = self.ignored_rows_limit if self.ignore_data_errors else 0.0
        try:
            files = matching_files(self.inputs or []) if named is None else named.files()
            if self.num_files_to_keep is not None:
                by_path = sorted(range(len(files)), key=lambda i: files[i][1])
                files = [files[i] for i in sorted(by_path[: self.num_files_to_keep])]
            sources, left_out = open_sources(files, tolerated=tolerated)
        except (ValueError, OSError) as error:  # OSError: a far file system that does not answer
            return Listing(error=str(error))
        for fault in left_out:
            log.warning("ignored: %s", fault)
        return Listing(tuple(sources), tuple(left_out))

    def adopt(self, listing: Listing) -> None:
        """Takes the files as another rank found them, and looks for none.

        So all ranks read the same files, also if more appear while they start, and one of them
        lists folders and reads footers, not all.
        """
        vars(self)["listing"] = listing

    @property
    def fingerprint(self) -> str:
        """16 hex digits; while they stay, a seed and a position mean the same rows.

        They stand for the files' names and row groups and for the settings that order rows: not for
        what the files hold, where they lie, or the size of a batch.
        """
        order = (self.lanes, self.examples_shuffle_buffer_size, self.file_batch_size)
        return self.listing.digest(*order)

    def rank_warnings(self, world_size: int) -> list[str]:
        """What has so many ranks read more than one would, with the setting that spares it."""
        row_groups = (max(source.row_group_rows) for source in self.listing.found)
        warnings = sharing_warnings(
            lanes=self.lanes,
            ranks=world_size,
            batch=self.global_batch_size,
            block=max(self.examples_shuffle_buffer_size, *row_groups, 1),
            whole_batches=self._steps.need_whole_batches,
            cached=self.cache is not None,
        )
        return list(warnings)

    @cached_property
    def ignored(self) -> Ignored | None:
        """What has been left out so far; None unless ``ignore_data_errors``."""
        if not self.ignore_data_errors:
            return None
        return Ignored(self.ignored_rows_limit, num_rows=self.num_rows)

    def opening(self, *, as_stored: bool = False) -> ParquetData:
        """The first file alone, in one lane and without a read-ahead: for a look at its rows.

        Args:
            as_stored: without the steps of ``preprocess``.
        """
        data = replace(
            self,
            interleave_num_parallel_calls=None,
            examples_shuffle_buffer_size=1,
            prefetch_batches=1,
            map_num_parallel_calls=None,
            cache=None,
            ignored_rows_limit=1.0,  # of one file
            preprocess={} if as_stored else self.preprocess,
        )
        data.adopt(Listing(tuple(self.sources[:1])))  # whose footers are read already
        return data

    @property
    def num_rows(self) -> int:
        """Rows of one epoch."""
        return self.listing.num_rows

    @cached_property
    def schema(self) -> Schema:
        """The schema of the batches, after preprocessing: what a model is built for."""
        return self._steps.schema(replace(self.seg_dense_schema, mask_mantissa_features={}))

    @property
    def rows_per_batch(self) -> int:
        """Rows that are read for a batch: more than its examples where steps leave some out."""
        return self.global_batch_size * self._steps.batch_multiplier

    @cached_property
    def _steps(self) -> Steps:
        return Steps(self.preprocess)

    def _weigh(self, labels: np.ndarray, tasks: Sequence[str]) -> np.ndarray | None:
        return sampling_weights(labels, tasks, self.tasks)

    def batches(
        self,
        *,
        tasks: Sequence[str],
        shuffle_seed: int | None,
        epochs: int | None,
        inputs: Collection[str] | None = None,
        weighted: bool = False,
        position: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> Generator[tuple[Batch, int]]:
        """This rank's part of every global batch, each with the position behind it.

        A position counts the rows that all ranks have read from the first epoch on; a stream
        started at a position yields what the stream that handed it out would have yielded next.
        All ranks yield the same positions; where another rank has all that is left of a batch, a
        part is empty. Where steps make a batch of more rows than it holds
        (``downsample_negatives``), every rank reads all these rows and takes every world_size-th of
        what is left: together they are the same for every world size.

        Args:
            tasks: the labels' columns, in this order.
            inputs: the dense and sparse inputs of ``schema`` that come out; None: all. Only these
                and what steps need is read.
            weighted: whether ``Batch.weights`` undo the sampling rates of ``tasks``: label / p +
                (1 − label) / n of the labels as stored, before any step. Weights that a step gives
                are always in them. They are None where all are 1.
            shuffle_seed: rows come in a random order that follows from it; None: as they lie.
            epochs: how often every row is seen; None: without end. Batches run on from one epoch
                into the next; only the last one of all may be short.
            position: where to start.

        Raises:
            DataError: while iterating, when a row group cannot be read or holds a label that is
                neither 0 nor 1; names file and row group.
        """
        schema = self._read_for(inputs)
        cache = None
        if self.cache is not None:
            types = dense_dtypes(schema, [source.schema for source in self.sources])
            rates = self.tasks if weighted else None
            made_of = (schema, types, inputs, list(tasks), self.preprocess, rates)
            made_by = fingerprint(RowGroups, Steps, *made_of)
            cache = RowGroupCache(self.cache, made_by)
        stream = Stream(
            self.sources,
            schema,
            tasks,
            inputs=inputs,
            steps=self._steps,
            weigh=self._weigh if weighted else None,
            batch=self.global_batch_size,
            lanes=self.lanes,
            buffer=self.examples_shuffle_buffer_size,
            seed=shuffle_seed,
            file_batch_size=self.file_batch_size,
            epochs=epochs,
            rank=rank,
            world_size=world_size,
            threads=self.map_num_parallel_calls,
            cache=cache,
            ignored=self.ignored,
        )
        batches = stream.batches(position, pin_memory)
        return prefetched(batches, depth=self.prefetch_batches)

    def faults(self, tasks: Sequence[str], inputs: Collection[str] | None = None) -> list[str]:
        """All that keeps the files from being read as the schema says, with file and column.

        Only what ``batches`` reads for these ``tasks`` and ``inputs`` must be in the files.
        """
        schema, labels = self._read_for(inputs), [*tasks, *sorted(self._steps.labels)]
        labels = [label for label in dict.fromkeys(labels) if label in schema.labels]
        found: dict[str, list[str]] = {}  # fault → files; files mostly share their faults
        told: dict[int, list[str]] = {}  # a schema's id → its faults; files mostly share schemas
        for source in self.sources:
            if id(source.schema) not in told:
                told[id(source.schema)] = list(file_faults(source.schema, schema, labels))
            for fault in told[id(source.schema)]:
                found.setdefault(fault, []).append(source.path)
        return [
            f"{paths[0]}{f' and {len(paths) - 1} more files' if len(paths) > 1 else ''}: {fault}"
            for fault, paths in found.items()
        ]

    def _read_for(self, inputs: Collection[str] | None) -> Schema:
        """The part of the files' schema that is read for these inputs and by the steps."""
        schema = self.seg_dense_schema
        if inputs is None:
            return schema
        dense = {*inputs, *self._steps.reads}
        masks = schema.mask_mantissa_features
        return replace(
            schema,
            dense={name: group for name, group in schema.dense.items() if name in dense},
            sparse={name: sparse for name, sparse in schema.sparse.items() if name in inputs},
            mask_mantissa_features={name: masks[name] for name in masks if name in dense},
        )
