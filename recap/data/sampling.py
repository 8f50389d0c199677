"""The rates at which a data set's examples were kept, per task, and the weights that undo them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class SamplingRates:
    """The fractions of a task's positives and of its negatives that the data set kept.

    Raises ValueError for rates that are not above 0 and at most 1, both at once.
    """

    pos_downsampling_rate: float = 1.0
    neg_downsampling_rate: float = 1.0

    def __post_init__(self) -> None:
        faults = [
            f"{name}={rate} is not a fraction above 0 and at most 1"
            for name, rate in vars(self).items()
            if not 0 < rate <= 1
        ]
        if faults:
            raise ValueError("\n".join(faults))

    @property
    def ratio(self) -> float:
        """Negatives kept per positives kept: the odds of the files times this are the true odds."""
        return self.neg_downsampling_rate / self.pos_downsampling_rate


def sampling_weights(
    labels: np.ndarray, tasks: Sequence[str], rates: Mapping[str, SamplingRates]
) -> np.ndarray | None:
    """Weights [n, T] float32 that undo sampling: label / p + (1 − label) / n, per task.

    ``labels`` [n, T] are 0 or 1, columns in the order of ``tasks``. p and n are the fractions of a
    task's positives and negatives that were kept; a task without ``rates`` kept all. None where all
    tasks kept all.
    """
    kept = [rates.get(task, SamplingRates()) for task in tasks]
    if all(row == SamplingRates() for row in kept):
        return None
    positive = np.array([1 / row.pos_downsampling_rate for row in kept], np.float32)
    negative = np.array([1 / row.neg_downsampling_rate for row in kept], np.float32)
    return np.where(labels == 1, positive, negative)
