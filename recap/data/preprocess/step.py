"""What a step of ``preprocess`` is, and the steps of a data set in the order they are written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import prod
from typing import Any, Protocol, TypeGuard, runtime_checkable

from recap.data.rows import Rows
from recap.nearest import nearest
from recap.schema import Schema


@runtime_checkable
class Step(Protocol):
    """A step on rows: what it makes of the schema, and of the rows, each by itself."""

    @property
    def reads(self) -> Collection[str]:
        """The dense inputs that it needs, whether or not the model reads them."""
        ...

    def schema(self, schema: Schema) -> Schema:
        """The schema of the rows that come out when rows of ``schema`` go in.

        Raises:
            ValueError: the step does not fit the schema; a line per fault.
        """
        ...

    def __call__(self, rows: Rows) -> Rows:
        """The rows, transformed; as many, in the same order."""
        ...


@runtime_checkable
class BatchStep(Protocol):
    """A step on a whole batch: of ``batch_multiplier`` times as many rows it makes the batch."""

    @property
    def reads(self) -> Collection[str]:
        """As of ``Step``."""
        ...

    @property
    def labels(self) -> Collection[str]:
        """The labels that it needs, whether or not the model has such a task."""
        ...

    @property
    def batch_multiplier(self) -> int:
        """Rows that go in for each that comes out."""
        ...

    def schema(self, schema: Schema) -> Schema:
        """As of ``Step``."""
        ...

    def __call__(self, rows: Rows, *, batch_size: int, seed: tuple[int, ...]) -> Rows:
        """At most ``batch_size`` of the rows; what is random follows from ``seed``."""
        ...


class Steps:
    """The steps of a data set. From the first ``BatchStep`` on they run on assembled batches."""

    def __init__(self, steps: Mapping[str, Step | BatchStep | None]) -> None:
        self._named = {name: step for name, step in steps.items() if step is not None}
        self._steps = list(self._named.values())
        first = next((i for i, s in enumerate(self._steps) if _is_batch_step(s)), None)
        self._on_rows: list[Any] = self._steps[:first]  # Step each
        self._on_batch: list[Any] = [] if first is None else self._steps[first:]

    @property
    def need_whole_batches(self) -> bool:
        """Whether a rank must see all rows of a global batch to make its part of it."""
        return bool(self._on_batch)

    @property
    def batch_multiplier(self) -> int:
        """Rows read for each row of a batch."""
        return prod(step.batch_multiplier for step in self._steps if _is_batch_step(step))

    @property
    def reads(self) -> set[str]:
        """The dense inputs that the steps need."""
        return _read_by(self._steps)

    @property
    def labels(self) -> set[str]:
        """The labels that the steps need."""
        return {label for step in self._steps if _is_batch_step(step) for label in step.labels}

    def schema(self, schema: Schema) -> Schema:
        """The schema of the batches, made of that of the files.

        Raises:
            ValueError: a step that does not fit the schema left by those before it; a line per
                fault, which begins with the step's name.
        """
        for name, step in self._named.items():
            try:
                schema = step.schema(schema)
            except ValueError as error:
                lines = [f"{name}.{line}" for line in str(error).splitlines()]
                raise ValueError("\n".join(lines)) from error
        return schema

    def on_rows(self, rows: Rows, inputs: Collection[str] | None) -> Rows:
        """Rows as decoded, after the steps that take each row by itself.

        Of the dense inputs only ``inputs`` (None: all) and those that later steps need are left.
        """
        for step in self._on_rows:
            rows = step(rows)
        if inputs is None:
            return rows
        return rows.only({*inputs, *_read_by(self._on_batch)}, rows.tasks)

    def on_batch(
        self, rows: Rows, *, batch_size: int, seed: tuple[int, ...], inputs: Collection[str] | None
    ) -> Rows:
        """The batch of at most ``batch_size`` rows made of ``batch_multiplier`` times as many."""
        left = self.batch_multiplier
        for step in self._on_batch:
            if _is_batch_step(step):
                left //= step.batch_multiplier
                rows = step(rows, batch_size=left * batch_size, seed=(*seed, left))
            else:
                rows = step(rows)
        return rows if inputs is None else rows.only(inputs, rows.tasks)


def missing_input(name: str, schema: Schema) -> str:
    """That ``name`` is no dense input of the schema, and the nearest that is."""
    if name in schema.sparse:
        return "the input is sparse; a dense one is needed"
    return f"there is no such dense input; {nearest(name, schema.dense)}"


def _is_batch_step(step: Step | BatchStep) -> TypeGuard[BatchStep]:
    return isinstance(step, BatchStep)


def _read_by(steps: Iterable[Step | BatchStep]) -> set[str]:
    return {name for step in steps for name in step.reads}
