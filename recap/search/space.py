"""The search space that a command line describes, in Hydra's own syntax for sweeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    FloatRange,
    IntervalSweep,
    Override,
    RangeSweep,
)

from recap.compose import Refused

if TYPE_CHECKING:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    Axis = CategoricalDistribution | FloatDistribution | IntDistribution

TAGS = {"log"}


def split(loader: ConfigLoader, overrides: Sequence[str]) -> tuple[list[str], dict[str, Axis]]:
    """The overrides that all points share, and a distribution by the key of every other.

    ``a,b,c`` and ``choice(a,b)`` are categories; ``interval(low,high)`` is any number between,
    ``int(interval(low,high))`` and ``range(low,stop,step)`` whole ones; ``tag(log, …)`` makes them
    logarithmic. As in every sweep, a range ends before ``stop``, and an interval has both ends.

    Raises:
        Refused: with every override that is no such space, and where there is none at all.
    """
    fixed, space, faults = [], {}, []
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)):
        key = override.get_key_element()
        if not override.is_sweep_override():
            fixed.append(override.input_line or f"{key}={override.get_value_element_as_str()}")
            continue
        try:
            space[key] = _distribution(override)
        except ValueError as error:
            faults.append(f"{override.input_line}: {error}")
    if not space and not faults:
        faults.append(
            "hydra/sweeper=optuna: there is nothing to search in; write "
            "key=interval(1e-5,1e-2), key=tag(log, interval(1e-5,1e-2)), key=range(1,10) or key=a,b"
        )
    if faults:
        raise Refused(faults)
    return fixed, space


def job_overrides(fixed: Sequence[str], params: Mapping[str, Any]) -> list[str]:
    """The overrides of the job of one point."""
    return [*fixed, *(f"{key}={value}" for key, value in params.items())]


def ends(space: Mapping[str, Axis]) -> list[dict[str, Any]]:
    """Two points of the space: all first or lowest values, and all last or highest."""
    from optuna.distributions import FloatDistribution, IntDistribution

    points: list[dict[str, Any]] = [{}, {}]
    for key, axis in space.items():
        if isinstance(axis, FloatDistribution | IntDistribution):
            points[0][key], points[1][key] = axis.low, axis.high
        else:
            points[0][key], points[1][key] = axis.choices[0], axis.choices[-1]
    return points


def _distribution(override: Override) -> Axis:
    from optuna.distributions import (  # half a second
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    value = override.value()
    if isinstance(value, ChoiceSweep):
        if value.shuffle or value.tags:
            raise ValueError("a search takes categories as they are; without shuffle and tag")
        # as text: a category may be a list, a mapping or null
        return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
    if not isinstance(value, RangeSweep | IntervalSweep):
        raise ValueError("a search takes interval, range, choice or a,b,c")
    if isinstance(value, RangeSweep) and value.shuffle:
        raise ValueError("a search takes a range as it is; without shuffle")
    if value.tags - TAGS:
        raise ValueError(f"tag {', '.join(sorted(value.tags - TAGS))}: the one tag is log")
    log = "log" in value.tags
    if isinstance(value, IntervalSweep):
        low, high, step = value.start, value.end, None
    else:
        values: Any = value.range()
        listed = list(values)
        if not listed or value.step <= 0:
            raise ValueError("no number is in this range; it goes up, and ends before its stop")
        low, high, step = listed[0], listed[-1], value.step
        if isinstance(values, FloatRange):
            low, high, step = float(low), float(high), float(step)
    assert low is not None
    assert high is not None
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise ValueError(f"from {low} to {high} there is no number; the lower one comes first")
    if log and low <= 0:
        raise ValueError(f"a logarithmic scale begins above 0, this one at {low}")
    if log and step not in (None, 1):
        raise ValueError("a logarithmic range has no step but 1; leave it out, or the tag")
    if isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None):
        return IntDistribution(low, high, log=log, step=1 if log or step is None else step)
    if log and step is not None:
        raise ValueError("a logarithmic range is one of whole numbers; write an interval")
    return FloatDistribution(float(low), float(high), log=log, step=step)
