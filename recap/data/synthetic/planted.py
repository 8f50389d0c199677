"""Random rows of any schema whose labels follow a known function of the features.

A few hidden factors u_1 … u_K per row, standard normal, shine through every column of every dense
group, so a group's columns are correlated as real ones are. The probabilities depend on the stored
values alone: with T(x) = sign(x)·log(1 + |x|) and the informative columns j of factor k,

    r_k = Σ_j ± T(x_j), standardised        (and r_0 = Σ of the effects of the row's ids)
    logit_t = b_t + s·(linear in tanh r + products r_i·r_j + |r_l|, own coefficients per task)

so nobody who reads the features can predict better than these probabilities.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from recap.data.synthetic.drawn import (
    BLOCK_ROWS,
    DENSE_KINDS,
    LOADING,
    NUM_FACTORS,
    SPARSE_KINDS,
    Bags,
    DenseGroup,
)
from recap.nearest import nearest
from recap.schema import Schema

STRENGTH = 2.0  # standard deviation of the logits
CALIBRATION_BLOCKS = 128


class Planted:
    """Draws blocks of rows of ``schema``: the same seed, stream and number give the same block.

    ``rates`` are the tasks' shares of positives, ``default_rate`` that of every other task.
    ``informative`` is the share (0 to 1) of each dense group's columns, from the first on and at
    least 8, that the labels depend on. ``kinds`` says what an input holds: ``heavy_tailed``
    (signed, many zeros), ``normal``, ``count``, ``binary`` or ``id`` (labels do not depend on it)
    for a dense group; ``integer``, ``string``, ``integer_list`` or ``string_list`` for a sparse
    one. Without it a dense group is binary if bool or named binary…, id if an integer named …_id,
    count if any other integer, normal if named …embedding, else heavy_tailed; a sparse one holds
    integers, or strings if it has a separator or a vocabulary of strings.

    A column that several inputs read is drawn once, for the first of them.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        seed: int = 0,
        rates: Mapping[str, float] | None = None,
        default_rate: float = 0.1,
        informative: float = 0.1,
        kinds: Mapping[str, str] | None = None,
    ):
        rates, kinds = dict(rates or {}), dict(kinds or {})
        self.tasks = tuple(schema.labels)
        self.rates = {task: rates.get(task, default_rate) for task in self.tasks}
        _refuse_faults(schema, rates, self.rates, informative, kinds)
        self.seed = seed
        self._labels = dict(schema.labels)
        taken: set[str] = set()
        self.groups = {
            name: DenseGroup(
                name, dense, kinds.get(name), informative, taken, self.random("group", name)
            )
            for name, dense in schema.dense.items()
        }
        self.bags = {
            name: Bags(sparse, kinds.get(name), self.random("bags", name))
            for name, sparse in schema.sparse.items()
            if sparse.column not in taken and not taken.add(sparse.column)
        }
        self._calibrate()

    @property
    def arrow_schema(self) -> pa.Schema:
        """The fields of :meth:`block`'s batches: dense groups, ids, labels."""
        fields = [field for group in self.groups.values() for field in group.fields]
        fields += [bags.field for bags in self.bags.values()]
        fields += [pa.field(column, pa.int8(), nullable=False) for column in self._labels.values()]
        return pa.schema(fields)

    @property
    def dense_columns(self) -> list[str]:
        """The columns of all dense groups."""
        return [field.name for group in self.groups.values() for field in group.fields]

    def block(self, stream: str, number: int) -> tuple[pa.RecordBatch, np.ndarray]:
        """Rows [number·256, number·256 + 256) of ``stream`` and their probabilities [256, T]."""
        arrays: list[pa.Array] = []
        factors = self._factors(stream, number)
        readouts = []
        for name, group in self.groups.items():
            first, nulls = group.draw(self.random(name, stream, number), factors, informative=True)
            readouts.append(group.readout(first, nulls))
            rest, rest_nulls = group.draw(
                self.random(name, stream, number, "rest"), factors, informative=False
            )
            arrays += group.arrays(first, nulls, rest, rest_nulls)
        effects = []
        for name, bags in self.bags.items():
            array, effect = bags.draw(self.random(name, stream, number))
            arrays.append(array)
            effects.append(effect)
        logits = self._logits(self._readout(readouts, effects)) + self._intercepts
        probabilities = 1 / (1 + np.exp(-logits))
        chance = self.random("labels", stream, number).random(probabilities.shape)
        labels = (chance < probabilities).astype(np.int8)
        arrays += [pa.array(np.ascontiguousarray(labels[:, t])) for t in range(len(self.tasks))]
        return pa.RecordBatch.from_arrays(arrays, schema=self.arrow_schema), probabilities

    def random(self, *key: str | int) -> np.random.Generator:
        """The generator of one purpose, named by ``key``; another key is another stream."""
        words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
        return np.random.Generator(np.random.SFC64([self.seed, *words]))

    def _factors(self, stream: str, number: int) -> np.ndarray:
        drawn = self.random("factors", stream, number).standard_normal((BLOCK_ROWS, NUM_FACTORS))
        return np.float32(LOADING) * np.concatenate([drawn, -drawn], axis=1, dtype=np.float32)

    def _readout(self, groups: list[np.ndarray], bags: list[np.ndarray]) -> np.ndarray:
        """r [rows, K or K + 1], standardised once calibrated."""
        parts = [np.sum(groups, axis=0)] if groups else []
        if bags:
            parts.append(np.sum(bags, axis=0)[:, None])
        return (np.concatenate(parts, axis=1) - self._mean) / self._deviation

    def _logits(self, r: np.ndarray) -> np.ndarray:
        """The planted function [rows, T] without intercepts; standardised once calibrated."""
        columns = []
        for task in self.tasks:
            random = self.random("task", task)
            shared = self.random("shared direction").standard_normal(r.shape[1])
            direction = shared + 0.7 * random.standard_normal(r.shape[1])
            i, j, k = random.choice(r.shape[1], 3, replace=r.shape[1] < 3)
            linear = np.tanh(r) @ (direction / np.linalg.norm(direction))
            columns.append(linear + 0.35 * r[:, i] * r[:, j] + 0.5 * np.abs(r[:, k]))
        return (np.stack(columns, axis=1) - self._logit_mean) * self._logit_scale

    def _calibrate(self) -> None:
        """Standardises what the logits are made of and finds the intercepts that give the rates."""
        self._mean, self._deviation, self._logit_mean, self._logit_scale = 0.0, 1.0, 0.0, 1.0
        factors = [self._factors("calibration", n) for n in range(CALIBRATION_BLOCKS)]
        readouts, effects = [], []
        for name, group in self.groups.items():
            # drawn twice where it is needed twice: the values of all blocks would not be small
            def drawn(number: int, name=name, group=group):
                random = self.random(name, "calibration", number)
                return group.draw(random, factors[number], informative=True)

            group.standardise([drawn(number) for number in range(8)])
            parts = [group.readout(*drawn(number)) for number in range(CALIBRATION_BLOCKS)]
            readouts.append(np.concatenate(parts))
        for name, bags in self.bags.items():
            randoms = [self.random(name, "calibration", n) for n in range(CALIBRATION_BLOCKS)]
            effects.append(np.concatenate([bags.draw(random)[1] for random in randoms]))
        r = self._readout(readouts, effects)
        self._mean, self._deviation = r.mean(axis=0), r.std(axis=0) + 1e-12
        logits = self._logits((r - self._mean) / self._deviation)
        self._logit_mean = logits.mean(axis=0)
        self._logit_scale = STRENGTH / logits.std(axis=0)
        logits = (logits - self._logit_mean) * self._logit_scale
        low, high = np.full(len(self.tasks), -60.0), np.full(len(self.tasks), 60.0)
        goal = np.array([self.rates[task] for task in self.tasks])
        for _ in range(60):
            middle = (low + high) / 2
            too_few = (1 / (1 + np.exp(-(logits + middle)))).mean(axis=0) < goal
            low, high = np.where(too_few, middle, low), np.where(too_few, high, middle)
        self._intercepts = (low + high) / 2


def _refuse_faults(
    schema: Schema,
    rates: Mapping[str, float],
    all_rates: Mapping[str, float],
    informative: float,
    kinds: Mapping[str, str],
) -> None:
    faults = [
        _unknown("rates", "task", task, list(schema.labels))
        for task in rates
        if task not in schema.labels
    ]
    faults += [
        f"rates.{task}={rate}: a share of positives lies between 0 and 1"
        for task, rate in all_rates.items()
        if not 0 < rate < 1
    ]
    if not 0 < informative <= 1:
        faults.append(f"informative={informative}: the share of columns is above 0 and at most 1")
    inputs = {**schema.dense, **schema.sparse}
    for name, kind in kinds.items():
        if name not in inputs:
            faults.append(_unknown("kinds", "input", name, list(inputs)))
        elif kind not in (allowed := DENSE_KINDS if name in schema.dense else SPARSE_KINDS):
            faults.append(f"kinds.{name}={kind!r} is not one of {', '.join(allowed)}")
    if not inputs:
        faults.append("schema: there are no inputs that labels could depend on")
    features = {column for dense in schema.dense.values() for column in dense.stored_in}
    features |= {sparse.column for sparse in schema.sparse.values()}
    label_columns = list(schema.labels.values())
    faults += [
        f"schema: column {column!r} is a label and an input, or the label of two tasks"
        for column in dict.fromkeys(label_columns)
        if column in features or label_columns.count(column) > 1
    ]
    if faults:
        raise ValueError("\n".join(faults))


def _unknown(section: str, what: str, name: str, known: list[str]) -> str:
    return f"{section}: no {what} is named {name!r}; {nearest(name, known)}"
