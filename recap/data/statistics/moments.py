"""Count, mean, variance and range of columns, from parts that are merged exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """What is known of W columns; a column without a finite number has count 0.

    The variance is the population's: the mean squared distance from the mean. It is 0, not nearly
    0, for a column of one number again and again.
    """

    count: np.ndarray  # [W] int64: the finite numbers, of which all the rest speaks
    num_non_finite: np.ndarray  # [W] int64: NaN and infinities, left out
    mean: np.ndarray  # [W] float64; 0 for count 0
    variance: np.ndarray  # [W] float64; 0 for count 0
    min: np.ndarray  # [W] float64; inf for count 0
    max: np.ndarray  # [W] float64; -inf for count 0

    @staticmethod
    def none(width: int) -> Moments:
        """Of no rows at all: what merging starts from."""
        counts, zeros = np.zeros(width, np.int64), np.zeros(width)
        return Moments(counts, counts, zeros, zeros, zeros + np.inf, zeros - np.inf)

    @staticmethod
    def of(numbers: np.ndarray) -> Moments:
        """Of the columns of ``numbers`` [n, W], in float64.

        Distances are taken from a number of the column itself, so that a large mean (1e6 with a
        standard deviation of 1e-3) costs no digits of the variance.
        """
        rows, width = numbers.shape
        if not rows:
            return Moments.none(width)
        numbers = numbers.astype(np.float64)
        finite = np.isfinite(numbers)
        count = finite.sum(axis=0)
        origin = numbers[finite.argmax(axis=0), np.arange(width)]
        origin = np.where(count > 0, origin, 0.0)
        divisor = np.maximum(count, 1)
        with np.errstate(over="ignore", invalid="ignore"):  # float64's own range can be exceeded
            distances = np.where(finite, numbers - origin, 0.0)
            shift = distances.sum(axis=0) / divisor
            distances = np.where(finite, distances - shift, 0.0)
            return Moments(
                count=count,
                num_non_finite=rows - count,
                mean=origin + shift,
                variance=np.square(distances).sum(axis=0) / divisor,
                min=np.where(finite, numbers, np.inf).min(axis=0),
                max=np.where(finite, numbers, -np.inf).max(axis=0),
            )

    def merge(self, other: Moments) -> Moments:
        """Of the rows of both (Chan, Golub and LeVeque, The American Statistician 37(3), 1983)."""
        count = self.count + other.count
        divisor = np.maximum(count, 1)
        share = other.count / divisor
        with np.errstate(over="ignore", invalid="ignore"):
            delta = np.where(other.count > 0, other.mean - self.mean, 0.0)
            squares = self.variance * self.count + other.variance * other.count
            squares += np.square(delta) * self.count * share
            return Moments(
                count=count,
                num_non_finite=self.num_non_finite + other.num_non_finite,
                mean=self.mean + delta * share,
                variance=squares / divisor,
                min=np.minimum(self.min, other.min),
                max=np.maximum(self.max, other.max),
            )
