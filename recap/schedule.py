"""The learning-rate curves: each a pure function from the step (updates done so far) to the rate.

Because a rate follows from the step alone, a checkpoint keeps the step and nothing of the schedule:
a curve that was changed before resuming takes effect at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol


class LearningRate(Protocol):
    """A curve over the steps of a run."""

    def __call__(self, step: int) -> float:
        """The rate in force when update number ``step`` (counted from 0) is made."""
        ...


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same rate at every step."""

    learning_rate: float

    def __post_init__(self) -> None:
        _refuse_negative(learning_rate=self.learning_rate)

    def __call__(self, step: int) -> float:
        """``learning_rate``."""
        return self.learning_rate


@dataclass(frozen=True, kw_only=True)
class LinearRampToConstant:
    """Climbs in a line from 0 at step 0 to ``learning_rate`` at ``num_ramp_steps``, then holds."""

    learning_rate: float
    num_ramp_steps: int

    def __post_init__(self) -> None:
        _refuse_negative(learning_rate=self.learning_rate, num_ramp_steps=self.num_ramp_steps)

    def __call__(self, step: int) -> float:
        """``learning_rate · min(1, step / num_ramp_steps)``."""
        if step < self.num_ramp_steps:
            return self.learning_rate / self.num_ramp_steps * step
        return self.learning_rate


@dataclass(frozen=True, kw_only=True)
class LinearRampToCosine:
    """Climbs to ``learning_rate``, then follows half a cosine down to ``final_learning_rate``.

    The peak is at ``num_ramp_steps``, the end of the cosine at ``final_num_steps``; the final rate
    holds from there on (Loshchilov and Hutter, arXiv 1608.03983, one cycle).
    """

    learning_rate: float
    final_learning_rate: float
    num_ramp_steps: int
    final_num_steps: int

    def __post_init__(self) -> None:
        _refuse_negative(
            learning_rate=self.learning_rate,
            final_learning_rate=self.final_learning_rate,
            num_ramp_steps=self.num_ramp_steps,
        )
        if self.final_num_steps <= self.num_ramp_steps:
            raise ValueError(
                f"final_num_steps={self.final_num_steps} must lie behind "
                f"num_ramp_steps={self.num_ramp_steps}: the cosine needs at least one step"
            )

    def __call__(self, step: int) -> float:
        """The ramp's rate before ``num_ramp_steps``, the cosine's from there."""
        if step < self.num_ramp_steps:
            return self.learning_rate / self.num_ramp_steps * step
        if step >= self.final_num_steps:
            return self.final_learning_rate
        done = (step - self.num_ramp_steps) / (self.final_num_steps - self.num_ramp_steps)
        height = 0.5 * (1.0 + math.cos(math.pi * done))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * height


@dataclass(frozen=True, kw_only=True)
class PiecewiseConstant:
    """Holds each of ``learning_rate_values`` in turn; a boundary step already takes the next."""

    learning_rate_boundaries: Sequence[int]
    learning_rate_values: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.learning_rate_values) != len(self.learning_rate_boundaries) + 1:
            raise ValueError(
                f"{len(self.learning_rate_boundaries)} learning_rate_boundaries separate "
                f"{len(self.learning_rate_boundaries) + 1} learning_rate_values, "
                f"not {len(self.learning_rate_values)}"
            )
        boundaries = list(self.learning_rate_boundaries)
        if any(later <= earlier for earlier, later in pairwise(boundaries)):
            raise ValueError(f"learning_rate_boundaries={boundaries} must increase")
        for value in self.learning_rate_values:
            _refuse_negative(learning_rate_values=value)

    def __call__(self, step: int) -> float:
        """The value of the piece that ``step`` lies in."""
        passed = sum(step >= boundary for boundary in self.learning_rate_boundaries)
        return self.learning_rate_values[passed]


def _refuse_negative(**values: float) -> None:
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value} must be a finite number, 0 or more")
