import math
from pathlib import Path

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
            "2 learning_rate_boundaries separate 3 learning_rate_values, not 2",
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
            "learning_rate_values=nan must be a finite number",
        ),
        (
            lambda: PiecewiseConstant(
                learning_rate_boundaries=[7], learning_rate_values=[0.1, -0.2]
            ),
            "learning_rate_values=-0.2 must be a finite number",
        ),
    ],
)
def test_numbers_that_make_no_curve_are_refused(build, message: str):
    with pytest.raises(ValueError, match=message):
        build()


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
