"""The learning-rate curves: each a pure function from the step (updates done so far) to the rate.

Because a rate follows from the step alone, a checkpoint keeps the step and nothing of the schedule:
a curve that was changed before resuming takes effect at once.

Every curve refuses with a ValueError all of its numbers that make no curve, one a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol


class LearningRate(Protocol):
    """A curve over the steps of a run; as a string, the curve in words."""

    def __call__(self, step: int) -> float:
        """The rate in force when update number ``step`` (counted from 0) is made."""
        ...


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same rate at every step."""

    learning_rate: float

    def __post_init__(self) -> None:
        _refuse(_number_faults(learning_rate=self.learning_rate))

    def __call__(self, step: int) -> float:
        """``learning_rate``."""
        return self.learning_rate

    def __str__(self) -> str:
        return f"{self.learning_rate:g} at every step"


@dataclass(frozen=True, kw_only=True)
class LinearRampToConstant:
    """Climbs in a line from 0 at step 0 to ``learning_rate`` at ``num_ramp_steps``, then holds."""

    learning_rate: float
    num_ramp_steps: int

    def __post_init__(self) -> None:
        _refuse(
            _number_faults(learning_rate=self.learning_rate, num_ramp_steps=self.num_ramp_steps)
        )

    def __call__(self, step: int) -> float:
        """``learning_rate · min(1, step / num_ramp_steps)``."""
        if step < self.num_ramp_steps:
            return self.learning_rate / self.num_ramp_steps * step
        return self.learning_rate

    def __str__(self) -> str:
        return f"{_ramp(self.learning_rate, self.num_ramp_steps)}, then constant"


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
        faults = _number_faults(
            learning_rate=self.learning_rate,
            final_learning_rate=self.final_learning_rate,
            num_ramp_steps=self.num_ramp_steps,
            final_num_steps=self.final_num_steps,
        )
        if self.final_num_steps <= self.num_ramp_steps:
            faults.append(
                f"final_num_steps={self.final_num_steps} must lie behind "
                f"num_ramp_steps={self.num_ramp_steps}: the cosine needs at least one step"
            )
        _refuse(faults)

    def __call__(self, step: int) -> float:
        """The ramp's rate before ``num_ramp_steps``, the cosine's from there."""
        if step < self.num_ramp_steps:
            return self.learning_rate / self.num_ramp_steps * step
        if step >= self.final_num_steps:
            return self.final_learning_rate
        done = (step - self.num_ramp_steps) / (self.final_num_steps - self.num_ramp_steps)
        height = 0.5 * (1.0 + math.cos(math.pi * done))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * height

    def __str__(self) -> str:
        ramp = _ramp(self.learning_rate, self.num_ramp_steps)
        return (
            f"{ramp}, then a cosine to {self.final_learning_rate:g} at step {self.final_num_steps}"
        )


@dataclass(frozen=True, kw_only=True)
class PiecewiseConstant:
    """Holds each of ``learning_rate_values`` in turn; a boundary step already takes the next."""

    learning_rate_boundaries: Sequence[int]
    learning_rate_values: Sequence[float]

    def __post_init__(self) -> None:
        boundaries, values = list(self.learning_rate_boundaries), list(self.learning_rate_values)
        faults = []
        if len(values) != len(boundaries) + 1:
            faults.append(
                f"learning_rate_values={values}: {len(boundaries)} learning_rate_boundaries "
                f"separate {len(boundaries) + 1} values, not {len(values)}"
            )
        if any(later <= earlier for earlier, later in pairwise(boundaries)):
            faults.append(f"learning_rate_boundaries={boundaries} must increase")
        for index, boundary in enumerate(boundaries):
            faults += _number_faults(**{f"learning_rate_boundaries.{index}": boundary})
        for index, value in enumerate(values):
            faults += _number_faults(**{f"learning_rate_values.{index}": value})
        _refuse(faults)

    def __call__(self, step: int) -> float:
        """The value of the piece that ``step`` lies in."""
        passed = sum(step >= boundary for boundary in self.learning_rate_boundaries)
        return self.learning_rate_values[passed]

    def __str__(self) -> str:
        first, *later = self.learning_rate_values
        steps = zip(self.learning_rate_boundaries, later, strict=True)
        return ", ".join([f"{first:g}", *(f"{value:g} from step {step}" for step, value in steps)])


def _ramp(peak: float, num_steps: int) -> str:
    return f"0 → {peak:g} over {num_steps} steps" if num_steps else f"{peak:g} from the start"


def _number_faults(**values: float) -> list[str]:
    return [
        f"{name}={value} must be a finite number, 0 or more"
        for name, value in values.items()
        if not (value >= 0 and math.isfinite(value))
    ]


def _refuse(faults: list[str]) -> None:
    if faults:
        raise ValueError("\n".join(faults))
