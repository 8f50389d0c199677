"""Snapshots of embeddings learned elsewhere, from which a table starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import torch
from torch import Tensor

from recap.schema import Sparse

log = logging.getLogger(__name__)

KINDS = (".pt", ".npy", ".parquet")


def start_from(weight: Tensor, path: str, sparse: Sparse) -> None:
    """Writes the vectors in ``path`` into a table's ``weight`` [slots, embedding_dim].

    A ``.pt`` file (a tensor, or a state dict with one) and a ``.npy`` file hold the whole weight,
    slot by slot. A ``.parquet`` file holds ids in its first column and vectors, a list each, in its
    second: they are matched with the vocabulary of ``sparse``, by which the table's ids are
    numbered. Ids that the vocabulary lacks are left out; slots that no id is for, that of unknown
    ids among them, keep their random start, and the log says how many ids were found.

    Raises:
        ValueError: the file cannot be read, is of another shape, holds a number that is not finite
            or an id twice, or has no id in common with the vocabulary.
    """
    kind = Path(path).suffix
    if kind not in KINDS:
        raise ValueError(f"a snapshot's name ends in one of {', '.join(KINDS)}")
    try:
        if kind == ".parquet":
            slots, vectors = _by_id(path, sparse, weight.shape[1])
        else:
            slots, vectors = slice(None), _tensor(path) if kind == ".pt" else _array(path)
            if vectors.shape != weight.shape:
                raise ValueError(
                    f"its shape is {list(vectors.shape)} and must be {list(weight.shape)}, the "
                    "table's slots (vocabulary and, before it, unknown ids) by embedding_dim"
                )
    except (OSError, RuntimeError, EOFError, pa.ArrowException) as error:
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from error
    if not vectors.isfinite().all():
        raise ValueError("it holds a number that is not finite")
    with torch.no_grad():
        weight[slots] = vectors.to(weight)


def _tensor(path: str) -> Tensor:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(f"not a file of torch.save with tensors alone: {error}") from error
    if isinstance(held, Mapping) and len(held) == 1:
        (held,) = held.values()
    if not isinstance(held, Tensor):
        raise ValueError(f"it holds a {type(held).__name__} and must hold one tensor")
    return held


def _array(path: str) -> Tensor:
    numbers = np.load(path, allow_pickle=False)
    if not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in "fiu":
        raise ValueError("it must hold one array of numbers")
    return torch.from_numpy(numbers.astype(np.float32))


def _by_id(path: str, sparse: Sparse, embedding_dim: int) -> tuple[Tensor, Tensor]:
    """Slots [n] and vectors [n, embedding_dim] of the ids that are in the vocabulary."""
    if sparse.vocabulary is None:
        raise ValueError(
            f"ids of column {sparse.column!r} are hashed, so that none can be found again; give "
            "it a vocabulary in the schema, or a snapshot of the whole weight, .npy or .pt"
        )
    table = pq.read_table(path)
    if table.num_columns < 2:
        raise ValueError("it must have two columns, ids and vectors")
    ids, lists = (table.column(i).combine_chunks() for i in range(2))
    if not (pa.types.is_list(lists.type) or pa.types.is_fixed_size_list(lists.type)):
        raise ValueError(f"its second column is {lists.type} and must be lists of numbers")
    lengths = set(pa.compute.list_value_length(lists).unique().to_pylist())  # pyright: ignore
    if lengths - {embedding_dim}:
        raise ValueError(
            f"its vectors have {', '.join(map(str, lengths))} numbers, embedding_dim is "
            f"{embedding_dim}"
        )
    vocabulary = _vocabulary(sparse)
    try:
        slots = pa.compute.index_in(ids.cast(vocabulary.type), vocabulary)  # pyright: ignore
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"its ids are {ids.type}, those of the vocabulary {vocabulary.type}"
        ) from error
    known = np.flatnonzero(slots.is_valid().to_numpy(zero_copy_only=False))
    slots = slots.drop_null().to_numpy().astype(np.int64) + 1  # slot 0: unknown ids
    if not len(slots):
        raise ValueError(
            f"none of its {len(ids)} ids is in the vocabulary of column {sparse.column!r}"
        )
    if len(np.unique(slots)) != len(slots):
        raise ValueError("an id stands there twice")
    log.info("%s: vectors of %d of %d ids", path, len(slots), len(vocabulary))
    numbers = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return torch.from_numpy(slots), torch.from_numpy(numbers.reshape(-1, embedding_dim)[known])


def _vocabulary(sparse: Sparse) -> pa.Array:
    """The known ids in the order of their slots, from 1, as rows are numbered by them."""
    if isinstance(sparse.vocabulary, int):
        return pa.array(np.arange(sparse.vocabulary))
    if isinstance(sparse.vocabulary, str):
        ids = pq.read_table(sparse.vocabulary).column(0).combine_chunks()
        return ids.cast(pa.int64()) if pa.types.is_integer(ids.type) else ids
    return pa.array(sparse.vocabulary)
