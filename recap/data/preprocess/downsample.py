"""Batches with all the positives of several times as many rows, and few of their negatives."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from recap.data.rows import Rows
from recap.nearest import nearest
from recap.schema import Schema

_NAME = zlib.crc32(b"downsample_negatives")  # among all that is random by a seed and a position


@dataclass(frozen=True, kw_only=True)
class DownsampleNegatives:
    """Makes a batch of B rows of ``batch_multiplier``·B rows: positives first, then negatives.

    Of n rows read (m·B, fewer at the end of the data), P are positive: in any label of
    ``engagements_list``. Where n > B the first B − P negatives stay, and their weights are
    multiplied by (n − P) / (B − P).

    With P = B the positives are the batch, as in the reference; its negatives are not stood for.

    With P > B and any negatives, B − 1 positives drawn at random stay, their weights multiplied by
    P / (B − 1), and one negative drawn at random stands for all n − P. Without negatives, B
    positives drawn at random stay, multiplied by P / B. A row's weight is one over the probability
    with which it stayed (Horvitz and Thompson), so that weighted sums over a batch are on average
    those over all rows read for it; of the case P < B that holds as far as rows come in a random
    order.

    Which rows stay follows from all that are read for a batch, so every one of several ranks reads
    them all, and takes its part of the batch: reading gets no faster with more ranks.

    A batch size of 1 has no room for both kinds and is refused by the data set.

    Args:
        batch_multiplier: rows read for each row of a batch, 1 or more.
        engagements_list: labels of the schema; the model need not have a task of theirs.
        num_engagements: how many labels there are in the schema, to be checked; null: not checked.
    """

    batch_multiplier: int
    engagements_list: Sequence[str]
    num_engagements: int | None = None

    def __post_init__(self) -> None:
        faults = []
        if self.batch_multiplier < 1:
            faults.append(f"batch_multiplier={self.batch_multiplier} must be 1 or more")
        if not self.engagements_list or isinstance(self.engagements_list, str):
            faults.append(f"engagements_list={self.engagements_list} must be a list of labels")
        if faults:
            raise ValueError("\n".join(faults))

    @property
    def reads(self) -> tuple[str, ...]:
        """No input that the model does not read."""
        return ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels whose positives are kept."""
        return tuple(self.engagements_list)

    def schema(self, schema: Schema) -> Schema:
        """``schema`` as it is.

        Raises:
            ValueError: a label that the schema does not name, another number of labels; a line per
                fault.
        """
        faults = []
        for label in self.engagements_list:
            if label not in schema.labels:
                hint = nearest(label, schema.labels)
                faults.append(f"engagements_list: the schema has no label {label}; {hint}")
        if self.num_engagements not in (None, len(schema.labels)):
            faults.append(
                f"num_engagements={self.num_engagements}: the schema has {len(schema.labels)} "
                f"labels, {', '.join(schema.labels)}"
            )
        if faults:
            raise ValueError("\n".join(faults))
        return schema

    def __call__(self, rows: Rows, *, batch_size: int, seed: tuple[int, ...]) -> Rows:
        """At most ``batch_size`` of the rows, weighted; the same for the same ``seed``."""
        engaged = rows.labels[:, [rows.tasks.index(label) for label in self.engagements_list]]
        positive = engaged.any(axis=1)
        positives, negatives = np.flatnonzero(positive), np.flatnonzero(~positive)
        n, room = len(rows), batch_size
        if n <= room:
            return rows.take(np.concatenate([positives, negatives]))
        if len(positives) <= room:
            kept, left = positives, negatives[: room - len(positives)]
        else:
            random = np.random.default_rng((_NAME, *seed))
            left = random.choice(negatives, min(1, len(negatives)))
            kept = np.sort(random.choice(positives, room - len(left), replace=False))
        factors = np.ones((room, 1), np.float32)
        factors[: len(kept)] = len(positives) / max(1, len(kept))
        factors[len(kept) :] = len(negatives) / max(1, len(left))
        batch = rows.take(np.concatenate([kept, left]))
        if batch.weights is None:
            return replace(batch, weights=np.repeat(factors, len(rows.tasks), axis=1))
        return replace(batch, weights=batch.weights * factors)
