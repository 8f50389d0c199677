"""The random columns of one input: dense groups that share hidden factors, and bags of ids."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pyarrow as pa

from recap.data.decode import vocabulary_array
from recap.data.layout import raw_array, raw_field, storage_dtype
from recap.schema import Dense, Sparse

BLOCK_ROWS = 256  # rows are drawn in blocks, each from its own random streams
NUM_FACTORS = 6
LOADING = 0.6  # correlation of a column's normal score with its factor
NULL_SHARE = 0.03
NUM_IDS = 100_000  # of a dense group that holds ids: few enough to come again

_QUANTILES = [NormalDist().inv_cdf((n + 0.5) / 65536) for n in range(65536)]
_NOISE = np.array(_QUANTILES, np.float32) * np.float32(np.sqrt(1 - LOADING**2))

DENSE_KINDS = ("heavy_tailed", "normal", "count", "binary", "id")
SPARSE_KINDS = ("integer", "string", "integer_list", "string_list")


class DenseGroup:
    """A dense group: how its columns are drawn, stored and read out.

    Columns in ``taken`` belong to an input before it: it neither writes them nor counts on them;
    its own are added.
    """

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
        usable &= self.kind != "id"
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
            # bitwise and with 0 or -1: ten times faster than assigning by mask
            bits = values.view(np.int32)
            bits &= np.negative(kept.view(np.int8))
        elif self.kind == "count":
            values = np.floor(np.expm1(np.maximum(score, 0.0)))
        elif self.kind == "id":
            values = random.integers(0, NUM_IDS, score.shape)
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


class Bags:
    """A sparse feature: popular and rare ids, each known one with an effect on the labels."""

    def __init__(self, sparse: Sparse, kind: str | None, random: np.random.Generator):
        vocabulary = _known_ids(sparse)
        strings = isinstance(vocabulary[0], str) or sparse.separator is not None
        self.kind = kind or ("string" if strings else "integer")
        self._separator = sparse.separator
        if strings and "string" not in self.kind:
            raise ValueError(f"column {sparse.column!r}: its ids are strings, not {self.kind}")
        if sparse.separator is not None and self.kind != "string":
            raise ValueError(f"column {sparse.column!r}: a separator stands in strings, not lists")
        known = list(vocabulary)
        if "string" in self.kind and not isinstance(known[0], str):
            known = [str(entry) for entry in known]
        unknown: list = []
        if sparse.vocabulary is not None:  # ids out of vocabulary share a slot: they have no effect
            if "string" in self.kind:
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
        return "id" if name.endswith("_id") else "count"
    return "normal" if name.endswith("embedding") else "heavy_tailed"


def _known_ids(sparse: Sparse) -> Sequence:
    """The ids with own slots; hashed ones are few beside the buckets, so they seldom collide."""
    if sparse.num_buckets is not None:
        return range(max(2, min(sparse.num_buckets // 10, 10_000)))
    if isinstance(sparse.vocabulary, int):
        return range(sparse.vocabulary)
    return vocabulary_array(sparse).to_pylist()
