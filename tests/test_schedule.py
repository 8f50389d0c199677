import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap.schedule import (
    Constant,
    LearningRate,
    LinearRampToConstant,
    LinearRampToCosine,
    PiecewiseConstant,
)

GOLDEN = Path(__file__).resolve().parents[1] / "../shared/golden/lr.npz"


def test_a_constant_rate_is_the_same_at_every_step():
    assert {Constant(learning_rate=0.05)(step) for step in (0, 1, 10**9)} == {0.05}


def test_a_ramp_starts_at_zero_climbs_in_a_line_and_holds():
    ramp = LinearRampToConstant(learning_rate=8.0, num_ramp_steps=4)
    assert [ramp(step) for step in range(6)] == [0.0, 2.0, 4.0, 6.0, 8.0, 8.0]


def test_a_ramp_of_no_steps_is_at_its_peak_from_the_first():
    assert LinearRampToConstant(learning_rate=8.0, num_ramp_steps=0)(0) == 8.0
    cosine = LinearRampToCosine(
        learning_rate=8.0, final_learning_rate=0.0, num_ramp_steps=0, final_num_steps=2
    )
    assert cosine(0) == 8.0


def test_a_cosine_has_its_peak_at_the_end_of_the_ramp_and_its_mean_half_way_down():
    curve = LinearRampToCosine(
        learning_rate=10.0, final_learning_rate=2.0, num_ramp_steps=2, final_num_steps=6
    )
    assert [curve(step) for step in (0, 1, 2)] == [0.0, 5.0, 10.0]
    assert curve(3) == pytest.approx(2 + 8 * (1 + math.cos(math.pi / 4)) / 2)
    assert curve(4) == pytest.approx(6.0)
    assert [curve(step) for step in (6, 7, 1000)] == [2.0, 2.0, 2.0]


def test_a_boundary_step_already_takes_the_next_value():
    steps = PiecewiseConstant(
        learning_rate_boundaries=[3, 7], learning_rate_values=[0.1, 0.05, 0.02]
    )
    assert [steps(step) for step in (0, 2, 3, 6, 7, 100)] == [0.1, 0.1, 0.05, 0.05, 0.02, 0.02]


def test_a_piecewise_rate_without_boundaries_is_constant():
    assert PiecewiseConstant(learning_rate_boundaries=[], learning_rate_values=[0.3])(5) == 0.3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Constant(learning_rate=-0.1), "learning_rate=-0.1 must be a finite number, 0 or"),
        (lambda: Constant(learning_rate=math.nan), "learning_rate=nan must be a finite number"),
        (
            lambda: LinearRampToConstant(learning_rate=0.1, num_ramp_steps=-1),
            "num_ramp_steps=-1 must be a finite number, 0 or more",
        ),
        (
            lambda: LinearRampToCosine(
                learning_rate=0.1, final_learning_rate=0.0, num_ramp_steps=5, final_num_steps=5
            ),
            "final_num_steps=5 must lie behind num_ramp_steps=5",
        ),
        (
            lambda: PiecewiseConstant(
                learning_rate_boundaries=[3, 7], learning_rate_values=[0.1, 0.2]
            ),
            r"learning_rate_values=\[0.1, 0.2\]: 2 learning_rate_boundaries separate 3 v",
        ),
        (
            lambda: PiecewiseConstant(
                learning_rate_boundaries=[7, 7], learning_rate_values=[0.1, 0.2, 0.3]
            ),
            r"learning_rate_boundaries=\[7, 7\] must increase",
        ),
        (
            lambda: PiecewiseConstant(
                learning_rate_boundaries=[7], learning_rate_values=[0.1, math.nan]
            ),
            "learning_rate_values.1=nan must be a finite number",
        ),
        (
            lambda: PiecewiseConstant(
                learning_rate_boundaries=[7], learning_rate_values=[0.1, -0.2]
            ),
            "learning_rate_values.1=-0.2 must be a finite number",
        ),
    ],
)
def test_numbers_that_make_no_curve_are_refused(build, message: str):
    with pytest.raises(ValueError, match=message):
        build()


CURVES = {
    Constant: {"learning_rate": 0.1},
    LinearRampToConstant: {"learning_rate": 0.1, "num_ramp_steps": 3},
    LinearRampToCosine: {
        "learning_rate": 0.1,
        "final_learning_rate": 0.0,
        "num_ramp_steps": 3,
        "final_num_steps": 6,
    },
}


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field) for kind, fields in CURVES.items() for field in fields]
)
def test_every_number_of_a_curve_is_finite_and_not_negative(kind: type, field: str, value: float):
    with pytest.raises(ValueError, match=rf"(?m)^{field}={value} must be a finite number, 0 or"):
        kind(**{**CURVES[kind], field: value})


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, -math.inf])
def test_every_number_of_a_list_is_finite_and_not_negative(value: Any):
    with pytest.raises(ValueError, match=rf"(?m)^learning_rate_boundaries\.0={value} must be a fi"):
        PiecewiseConstant(learning_rate_boundaries=[value], learning_rate_values=[0.1, 0.2])
    with pytest.raises(ValueError, match=rf"(?m)^learning_rate_values\.1={value} must be a finite"):
        PiecewiseConstant(learning_rate_boundaries=[3], learning_rate_values=[0.1, value])


def test_all_numbers_that_make_no_curve_are_named_together():
    with pytest.raises(ValueError, match="must be") as refused:
        LinearRampToCosine(
            learning_rate=-1, final_learning_rate=math.nan, num_ramp_steps=5, final_num_steps=5
        )
    assert [line.split(" ")[0] for line in str(refused.value).splitlines()] == [
        "learning_rate=-1",
        "final_learning_rate=nan",
        "final_num_steps=5",
    ]
    with pytest.raises(ValueError, match="must be") as refused:
        PiecewiseConstant(learning_rate_boundaries=[7, 3], learning_rate_values=[-0.1])
    assert [line.split("=")[0] for line in str(refused.value).splitlines()] == [
        "learning_rate_values",
        "learning_rate_boundaries",
        "learning_rate_values.0",
    ]


@pytest.mark.parametrize("boundaries", [[3, 3], [7, 3], [3, 7, 7], [3, 9, 7]])
def test_boundaries_increase(boundaries: list[int]):
    values = [0.1] * (len(boundaries) + 1)
    with pytest.raises(ValueError, match="must increase"):
        PiecewiseConstant(learning_rate_boundaries=boundaries, learning_rate_values=values)


@pytest.mark.parametrize("number", [0, 1, 2, 4])
def test_there_is_one_value_more_than_boundaries(number: int):
    with pytest.raises(ValueError, match=rf"separate 3 values, not {number}"):
        PiecewiseConstant(learning_rate_boundaries=[3, 7], learning_rate_values=[0.1] * number)


# step → rate, at and beside every edge of a curve
EDGES = [
    (Constant(learning_rate=8.0), {0: 8.0, 1: 8.0, 10**9: 8.0}),
    (
        LinearRampToConstant(learning_rate=8.0, num_ramp_steps=4),
        {0: 0.0, 1: 2.0, 3: 6.0, 4: 8.0, 5: 8.0, 10**9: 8.0},
    ),
    (LinearRampToConstant(learning_rate=8.0, num_ramp_steps=0), {0: 8.0, 1: 8.0}),
    (LinearRampToConstant(learning_rate=8.0, num_ramp_steps=1), {0: 0.0, 1: 8.0, 2: 8.0}),
    (
        LinearRampToCosine(
            learning_rate=8.0, final_learning_rate=2.0, num_ramp_steps=4, final_num_steps=8
        ),
        {
            **{0: 0.0, 1: 2.0, 3: 6.0, 4: 8.0, 6: 5.0, 8: 2.0, 9: 2.0, 10**9: 2.0},
            5: 5.0 + 3.0 * math.cos(math.pi / 4),
            7: 5.0 - 3.0 * math.cos(math.pi / 4),
        },
    ),
    (
        LinearRampToCosine(
            learning_rate=8.0, final_learning_rate=2.0, num_ramp_steps=0, final_num_steps=1
        ),
        {0: 8.0, 1: 2.0, 2: 2.0},
    ),
    (
        LinearRampToCosine(
            learning_rate=8.0, final_learning_rate=2.0, num_ramp_steps=1, final_num_steps=2
        ),
        {0: 0.0, 1: 8.0, 2: 2.0, 3: 2.0},
    ),
    (
        LinearRampToCosine(  # up again: the final rate may be the higher one
            learning_rate=2.0, final_learning_rate=8.0, num_ramp_steps=0, final_num_steps=2
        ),
        {0: 2.0, 1: 5.0, 2: 8.0, 3: 8.0},
    ),
    (
        PiecewiseConstant(
            learning_rate_boundaries=[3, 4, 7], learning_rate_values=[8.0, 4.0, 0.0, 2.0]
        ),
        {0: 8.0, 2: 8.0, 3: 4.0, 4: 0.0, 5: 0.0, 6: 0.0, 7: 2.0, 8: 2.0, 10**9: 2.0},
    ),
    (
        PiecewiseConstant(learning_rate_boundaries=[0], learning_rate_values=[8.0, 4.0]),
        {0: 4.0, 1: 4.0},
    ),
    (PiecewiseConstant(learning_rate_boundaries=[], learning_rate_values=[8.0]), {0: 8.0, 9: 8.0}),
]


@pytest.mark.parametrize(("curve", "rates"), EDGES)
def test_a_curve_at_its_edges(curve: LearningRate, rates: dict[int, float]):
    assert {step: curve(step) for step in rates} == pytest.approx(rates, rel=1e-14, abs=0.0)


@pytest.mark.skipif(
    not GOLDEN.is_file(), reason="../shared/golden, rates of the reference system, is not here"
)
@pytest.mark.parametrize(
    ("name", "curve"),
    [
        ("constant", Constant(learning_rate=0.05)),
        (
            "piecewise_constant",
            PiecewiseConstant(
                learning_rate_boundaries=[3, 7, 12], learning_rate_values=[0.1, 0.05, 0.02, 0.001]
            ),
        ),
        ("linear_ramp_to_constant", LinearRampToConstant(learning_rate=0.0008, num_ramp_steps=7)),
        (
            "linear_ramp_to_cosine",
            LinearRampToCosine(
                learning_rate=0.01,
                final_learning_rate=0.0005,
                num_ramp_steps=5,
                final_num_steps=15,
            ),
        ),
        ("local_prod_favorited", LinearRampToConstant(learning_rate=0.0008, num_ramp_steps=5000)),
        (
            "cosine_ramp1",
            LinearRampToCosine(
                learning_rate=1.0, final_learning_rate=0.0, num_ramp_steps=1, final_num_steps=2
            ),
        ),
    ],
)
def test_rates_equal_the_reference_systems_to_the_last_bit(name: str, curve: LearningRate):
    golden = np.load(GOLDEN)
    rates = [curve(int(step)) for step in golden["steps"]]
    np.testing.assert_array_equal(rates, golden[f"lr/{name}"])


PEAKS = st.floats(0, 10)
STEPS = st.integers(0, 10**6)


@st.composite
def curves(draw: st.DrawFn) -> tuple[LearningRate, float]:
    """A curve of any kind and its highest rate."""
    peak, ramp = draw(PEAKS), draw(STEPS)
    final = draw(st.floats(0, peak))
    boundaries = sorted(draw(st.sets(STEPS, max_size=4)))
    values = [draw(st.floats(0, peak)) for _ in range(len(boundaries) + 1)]
    curve = draw(
        st.sampled_from(
            [
                Constant(learning_rate=peak),
                LinearRampToConstant(learning_rate=peak, num_ramp_steps=ramp),
                LinearRampToCosine(
                    learning_rate=peak,
                    final_learning_rate=final,
                    num_ramp_steps=ramp,
                    final_num_steps=ramp + draw(st.integers(1, 10**6)),
                ),
                PiecewiseConstant(learning_rate_boundaries=boundaries, learning_rate_values=values),
            ]
        )
    )
    return curve, peak


@given(curves(), st.integers(0, 3 * 10**6))
def test_a_rate_is_finite_and_never_negative_or_above_the_peak(
    curve_and_peak: tuple[LearningRate, float], step: int
):
    curve, peak = curve_and_peak
    assert 0 <= curve(step) <= peak * (1 + 1e-15)  # final + (peak - final) may round upwards


@given(curves(), st.lists(st.integers(0, 3 * 10**6), min_size=1))
def test_a_rate_follows_from_the_step_alone(
    curve_and_peak: tuple[LearningRate, float], steps: list[int]
):
    curve, _ = curve_and_peak
    rates = {step: curve(step) for step in steps}
    assert {step: curve(step) for step in reversed(steps)} == rates


@given(PEAKS, st.integers(1, 10**6), st.data())
def test_a_ramp_climbs_without_a_jump_to_its_peak(peak: float, ramp: int, data: st.DataObject):
    curve = LinearRampToConstant(learning_rate=peak, num_ramp_steps=ramp)
    step = data.draw(st.integers(0, ramp - 1))
    assert 0 <= curve(step) <= curve(step + 1) <= curve(ramp) == peak
    assert curve(step + 1) - curve(step) <= peak / ramp * (1 + 1e-6) + 1e-12


@given(PEAKS, PEAKS, st.integers(0, 10**6), st.integers(1, 10**6), st.data())
def test_a_cosine_goes_one_way_between_its_two_rates_without_a_jump(
    peak: float, final: float, ramp: int, length: int, data: st.DataObject
):
    curve = LinearRampToCosine(
        learning_rate=peak,
        final_learning_rate=final,
        num_ramp_steps=ramp,
        final_num_steps=ramp + length,
    )
    assert curve(ramp) == pytest.approx(peak, abs=1e-12)
    assert curve(ramp + length) == final
    step = ramp + data.draw(st.integers(0, length - 1))
    change, rounding = curve(step + 1) - curve(step), 1e-12
    way = 1 if final >= peak else -1
    assert change * way >= -rounding
    steepest = abs(final - peak) * math.pi / 2 / length  # half way down
    assert abs(change) <= steepest * (1 + 1e-6) + rounding
    assert min(peak, final) - rounding <= curve(step) <= max(peak, final) + rounding


@given(PEAKS, st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 3 * 10**6))
def test_both_ramps_are_the_same_line(peak: float, ramp: int, length: int, step: int):
    constant = LinearRampToConstant(learning_rate=peak, num_ramp_steps=ramp)
    cosine = LinearRampToCosine(
        learning_rate=peak,
        final_learning_rate=peak,
        num_ramp_steps=ramp,
        final_num_steps=ramp + length,
    )
    assert cosine(step) == constant(step)


@given(st.lists(st.integers(0, 100), max_size=5, unique=True).map(sorted), st.integers(0, 110))
def test_a_piecewise_rate_is_that_of_the_piece(boundaries: list[int], step: int):
    values = [float(number) for number in range(len(boundaries) + 1)]
    curve = PiecewiseConstant(learning_rate_boundaries=boundaries, learning_rate_values=values)
    pieces = zip([0, *boundaries], [*boundaries, 1000], values, strict=True)
    [value] = [value for start, end, value in pieces if start <= step < end]
    assert curve(step) == value
