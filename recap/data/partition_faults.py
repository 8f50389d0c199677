"""Whether one partition's inputs are what a model was built for."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterator

from recap.data.decode import num_slots, vocabulary_array
from recap.schema import Schema, Sparse


def partition_faults(
    section: str, partition: Schema, built_for: Schema, inputs: Collection[str] | None
) -> Iterator[str]:
    """The ``inputs`` (None: all) that are not what a model of ``built_for`` reads."""
    for name in [*built_for.dense, *built_for.sparse]:
        if inputs is not None and name not in inputs:
            continue
        if dense := built_for.dense.get(name):
            own, expected = partition.dense.get(name), f"width {dense.width}"
            same = own is not None and own.width == dense.width
            found = f"width {own.width}" if own else "no such input"
        else:
            sparse, own = built_for.sparse[name], partition.sparse.get(name)
            expected, same = _slots(sparse), own is not None and _same_slots(own, sparse)
            found = _slots(own) if own else "no such input"
        if not same:
            yield f"{section}: input {name}: {found}; the model is built for train_data: {expected}"


def _slots(sparse: Sparse) -> str:
    if sparse.num_buckets is not None:
        return f"num_buckets={sparse.num_buckets}"
    return f"vocabulary={reprlib.repr(sparse.vocabulary)}, {num_slots(sparse)} slots"


def _same_slots(one: Sparse, other: Sparse) -> bool:
    """Whether ids take the same slots; a vocabulary's file may have another path."""
    if (one.num_buckets, one.vocabulary) == (other.num_buckets, other.vocabulary):
        return True
    if any(isinstance(sparse.vocabulary, int | None) for sparse in (one, other)):
        return False
    return vocabulary_array(one).equals(vocabulary_array(other))
