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
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recap.data.layout import raw_array, raw_field, storage_dtype
from recap.schema import Dense, Schema, Sparse

BLOCK_ROWS = 256  # rows are drawn in blocks, each from its own random streams
NUM_FACTORS = 6
LOADING = 0.6  # correlation of a column's normal score with its factor
NULL_SHARE = 0.03
STRENGTH = 2.0  # standard deviation of the logits
CALIBRATION_BLOCKS = 128

_QUANTILES = [NormalDist().inv_cdf((n + 0.5) / 65536) for n in range(65536)]
_NOISE = np.array(_QUANTILES, np.float32) * np.float32(np.sqrt(1 - LOADING**2))

DENSE_KINDS = ("heavy_tailed", "normal", "count", "binary")
SPARSE_KINDS = ("integer", "string", "integer_list", "string_list")


class Planted:
    """Draws blocks of rows of ``schema``: the same seed, stream and number give the same block.

    ``rates`` are the tasks' shares of positives, ``default_rate`` that of every other task.
    ``informative`` is the share (0 to 1) of each dense group's columns, from the first on and at
    least 8, that the labels depend on. ``kinds`` says what an input holds: ``heavy_tailed``
    (signed, many zeros), ``normal``, ``count`` or ``binary`` for a dense group; ``integer``,
    ``string``, ``integer_list`` or ``string_list`` for a sparse one. Without it a dense group is
    binary if bool or named binary…, count if an integer, normal if named …embedding, else
    heavy_tailed; a sparse one holds integers, or strings if it has a separator or a vocabulary of
    strings.

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
            name: _Group(
                name, dense, kinds.get(name), informative, taken, self.random("group", name)
            )
            for name, dense in schema.dense.items()
        }
        self.bags = {
            name: _Bags(sparse, kinds.get(name), self.random("bags", name))
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
        drawn, effects = {name: [] for name in self.groups}, {name: [] for name in self.bags}
        for number in range(CALIBRATION_BLOCKS):
            factors = self._factors("calibration", number)
            for name, group in self.groups.items():
                random = self.random(name, "calibration", number)
                drawn[name].append(group.draw(random, factors, informative=True))
                if number == 7:
                    group.standardise(drawn[name])
                    drawn[name] = [group.readout(*pair) for pair in drawn[name]]
                elif number > 7:
                    drawn[name][-1] = group.readout(*drawn[name][-1])
            for name, bags in self.bags.items():
                effects[name].append(bags.draw(self.random(name, "calibration", number))[1])
        r = self._readout(
            [np.concatenate(readouts) for readouts in drawn.values()],
            [np.concatenate(effect) for effect in effects.values()],
        )
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


class _Group:
    """A dense group: how its columns are drawn, stored and read out."""

    def __init__(
        self,
        name: str,
        dense: Dense,
        kind: str | None,
        informative: float,
        taken: set[str],
        random: np.random.Generator,
    ):
        length = dense.width
        self.kind = kind or _dense_kind(name, dense)
        self._informative = min(length, max(8, int(np.ceil(informative * length))))
        factor = np.arange(length) % NUM_FACTORS
        self._sign = random.choice(np.array([-1.0, 1.0], np.float32), length)
        self._signed_factor = factor + NUM_FACTORS * (self._sign < 0)
        self._scale = random.uniform(1.0, 3.0, length).astype(np.float32)
        self._zeros = random.integers(25, 200, length).astype(np.uint8)  # of 256
        self._threshold = random.uniform(-0.5, 1.5, length).astype(np.float32)
        narrow = {"binary": "int8", "count": "int32"}.get(self.kind)
        if dense.dtype not in ("int32", "int64"):
            narrow = None
        self._dtype = storage_dtype(name, dense, narrow)
        self._nullable = dense.columns is not None
        columns = dense.stored_in
        new = [column not in taken for column in columns]
        taken.update(columns)
        self._written = [place for place in range(len(columns)) if new[place]]
        if dense.column is not None:
            fields = [raw_field(dense.column, self._dtype, length)]
        else:
            fields = [pa.field(column, pa.from_numpy_dtype(self._dtype)) for column in columns]
        self.fields = [fields[place] for place in self._written]
        counts = np.zeros((self._informative, NUM_FACTORS), np.float32)
        usable = np.ones(length, bool) if dense.column is not None else np.array(new)
        if dense.column is not None and not new[0]:
            usable[:] = False
        for j in np.flatnonzero(usable[: self._informative]):
            counts[j, factor[j]] = self._sign[j]
        self._weights = counts / np.maximum(np.abs(counts).sum(axis=0), 1)
        self._centre = np.zeros(self._informative, np.float32)

    def draw(
        self, random: np.random.Generator, factors: np.ndarray, *, informative: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Values [rows, columns] of the informative columns or of the rest, and where nulls are."""
        part = slice(0, self._informative) if informative else slice(self._informative, None)
        score = np.take(factors, self._signed_factor[part], axis=1)
        # One of 65536 quantiles: a quarter of the cost of an exact draw; the factors fill the gaps.
        noise = _NOISE.take(_random_words(random, score.shape, np.uint16), mode="clip")
        score += noise
        if self.kind == "heavy_tailed":
            score *= self._scale[part]
            values = np.expm1(np.abs(score, out=noise), out=noise)
            np.copysign(values, score, out=values)
            kept = _random_words(random, score.shape, np.uint8) >= self._zeros[part]
            bits = values.view(
                np.int32
            )  # and with 0 or -1: ten times faster than assigning by mask
            bits &= np.negative(kept.view(np.int8))
        elif self.kind == "count":
            values = np.floor(np.expm1(np.maximum(score, 0.0)))
        elif self.kind == "binary":
            values = score > self._threshold[part]
        else:
            values = score
        if self._dtype.kind in "iu":
            values = np.minimum(values, np.iinfo(self._dtype).max)
        elif self._dtype == np.float16:
            values = np.clip(values, -60000, 60000)
        nulls = random.random(score.shape) < NULL_SHARE if self._nullable else None
        return values.astype(self._dtype, copy=False), nulls

    def readout(self, values: np.ndarray, nulls: np.ndarray | None) -> np.ndarray:
        """The group's part of r [rows, K], of its informative values; a null counts as 0."""
        return (self._transformed(values, nulls) - self._centre) @ self._weights

    def standardise(self, drawn: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> None:
        """Gives every informative column the same weight, whatever its spread in ``drawn``."""
        transformed = np.concatenate([self._transformed(*pair) for pair in drawn])
        self._centre = transformed.mean(axis=0)
        self._weights = self._weights / (transformed.std(axis=0)[:, None] + np.float32(1e-3))

    def arrays(
        self,
        first: np.ndarray,
        first_nulls: np.ndarray | None,
        rest: np.ndarray,
        rest_nulls: np.ndarray | None,
    ) -> list[pa.Array]:
        """The columns as they are stored, those of :attr:`fields`."""
        values = np.concatenate([first, rest], axis=1)
        if first_nulls is None or rest_nulls is None:
            return [raw_array(values)] if self._written else []
        nulls = np.concatenate([first_nulls, rest_nulls], axis=1)
        if values.dtype.kind == "f":  # half of what is missing is NaN, the other half null
            values[1::2][nulls[1::2]] = np.nan
            nulls[1::2] = False
        return [
            pa.array(np.ascontiguousarray(values[:, place]), mask=nulls[:, place].copy())
            for place in self._written
        ]

    @staticmethod
    def _transformed(values: np.ndarray, nulls: np.ndarray | None) -> np.ndarray:
        values = values.astype(np.float32)
        if nulls is not None:
            values[nulls] = 0.0
        return np.copysign(np.log1p(np.abs(values)), values)


class _Bags:
    """A sparse feature: popular and rare ids, each known one with an effect on the labels."""

    def __init__(self, sparse: Sparse, kind: str | None, random: np.random.Generator):
        vocabulary = _known_ids(sparse)
        strings = isinstance(vocabulary[0], str) or sparse.separator is not None
        self.kind = kind or ("string" if strings else "integer")
        self._separator = sparse.separator
        known = list(vocabulary)
        if "string" in self.kind and not isinstance(known[0], str):
            known = [str(entry) for entry in known]
        unknown: list = []
        if sparse.vocabulary is not None:  # ids out of vocabulary share a slot: they have no effect
            if "string" in self.kind or isinstance(known[0], str):
                unknown = [f"unseen {n}" for n in range(1, 9)]
            else:
                unknown = [int(max(known)) + n for n in range(1, 9)]
        self._ids = pa.array(known + unknown)
        self._num_known = len(known)
        self._effects = np.concatenate([random.standard_normal(len(known)), np.zeros(len(unknown))])
        single = self.kind in ("integer", "string")
        self._many = not single or sparse.separator is not None
        self.field = pa.field(sparse.column, self._ids.type if single else pa.list_(self._ids.type))

    def draw(self, random: np.random.Generator) -> tuple[pa.Array, np.ndarray]:
        """A bag a row, 3 % of them null, and the mean of the effects in each [rows]."""
        empty = random.random(BLOCK_ROWS) < NULL_SHARE
        lengths = random.integers(0, 6, BLOCK_ROWS) if self._many else np.ones(BLOCK_ROWS, int)
        lengths[empty] = 0
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        places = (self._num_known * random.random(offsets[-1]) ** 3).astype(np.int64)
        if len(self._ids) > self._num_known:
            unseen = random.random(len(places)) < NULL_SHARE
            places[unseen] = random.integers(self._num_known, len(self._ids), unseen.sum())
        rows = np.repeat(np.arange(BLOCK_ROWS), lengths)
        effect = np.bincount(rows, self._effects[places], BLOCK_ROWS) / np.maximum(lengths, 1)
        ids = self._ids.take(pa.array(places))
        lists = pa.ListArray.from_arrays(pa.array(offsets), ids, mask=pa.array(empty))
        if pa.types.is_list(self.field.type):
            return lists, effect
        as_lists = lists.to_pylist()
        if self._separator is not None:
            joined = [None if bag is None else self._separator.join(bag) for bag in as_lists]
        else:
            joined = [bag[0] if bag else None for bag in as_lists]
        return pa.array(joined, self.field.type), effect


def _random_words(
    random: np.random.Generator, shape: tuple[int, ...], dtype: type[np.unsignedinteger]
) -> np.ndarray:
    size = int(np.prod(shape))
    words = random.integers(0, 2**64, -(-size * np.dtype(dtype).itemsize // 8), dtype=np.uint64)
    return words.view(dtype)[:size].reshape(shape)


def _dense_kind(name: str, dense: Dense) -> str:
    if dense.dtype == "bool" or name.startswith("binary"):
        return "binary"
    if "int" in dense.dtype:
        return "count"
    return "normal" if name.endswith("embedding") else "heavy_tailed"


def _known_ids(sparse: Sparse) -> Sequence:
    """The ids with own slots; hashed ones are few beside the buckets, so they seldom collide."""
    if sparse.num_buckets is not None:
        return range(max(2, min(sparse.num_buckets // 10, 10_000)))
    if isinstance(sparse.vocabulary, int):
        return range(sparse.vocabulary)
    if isinstance(sparse.vocabulary, str):
        return pq.read_table(sparse.vocabulary).column(0).to_pylist()
    assert sparse.vocabulary is not None
    return sparse.vocabulary


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
    close = get_close_matches(name, known, n=1)
    hint = f"close: {close[0]!r}" if close else f"there are {', '.join(known)}"
    return f"{section}: no {what} is named {name!r}; {hint}"
