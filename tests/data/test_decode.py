"""Numbers as they are decoded."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from recap.data.decode import mantissa_masked
from recap.data.parquet import ParquetData
from recap.schema import Dense, Schema

FLOATS = st.floats(width=32)


def test_low_bits_of_the_mantissa_are_zeroed():
    numbers = np.array([[1 + 2**-23, 1.5, -1.75, 3.0]], np.float32)
    assert mantissa_masked(numbers, 0).tolist() == numbers.tolist()
    assert mantissa_masked(numbers, 1).tolist() == [[1.0, 1.5, -1.75, 3.0]]
    assert mantissa_masked(numbers, 22).tolist() == [[1.0, 1.5, -1.5, 3.0]]
    assert mantissa_masked(numbers, 23).tolist() == [[1.0, 1.0, -1.0, 2.0]]


@given(arrays_of.arrays(np.float32, (3, 2), elements=FLOATS), st.integers(0, 23))
def test_masking_keeps_signs_and_what_is_not_finite_and_is_close(numbers, bits):
    masked = mantissa_masked(numbers, bits)
    assert masked.dtype == np.float32
    np.testing.assert_array_equal(np.signbit(masked), np.signbit(numbers))
    np.testing.assert_array_equal(np.isnan(masked), np.isnan(numbers))
    np.testing.assert_array_equal(np.isinf(masked), np.isinf(numbers))
    np.testing.assert_array_equal(mantissa_masked(masked, bits), masked)
    normal = np.isfinite(numbers) & (np.abs(numbers) >= np.finfo(np.float32).tiny)
    exact = numbers[normal].astype(np.float64)
    error = np.abs(masked[normal].astype(np.float64) - exact)
    assert (error < 2.0 ** (bits - 23) * np.abs(exact)).all()
    rest = masked.view(np.uint32) & np.uint32((1 << bits) - 1)
    assert not rest[np.isfinite(masked)].any()


def test_a_nan_beside_numbers_stays_one_though_all_of_its_mantissa_is_masked():
    numbers = np.array([np.nan, 1.5, -np.inf, -3.9], np.float32)
    np.testing.assert_array_equal(mantissa_masked(numbers, 23), [np.nan, 1, -np.inf, -2])


@pytest.mark.parametrize("stored", [np.float16, np.float32, np.float64])
def test_the_inputs_that_the_schema_names_are_masked_as_they_are_read(tmp_path: Path, stored):
    numbers = np.array([[1.75, 2.75]], stored)
    raw = pa.array([numbers.tobytes()], pa.binary(numbers.nbytes))
    pq.write_table(pa.table({"x": raw, "y": raw, "is_like": [1]}), tmp_path / "a.parquet")
    schema = Schema(
        labels={"like": "is_like"},
        dense={name: Dense(column=name, length=2) for name in ("x", "y")},
        mask_mantissa_features={"x": 22},
    )
    data = ParquetData(inputs=str(tmp_path), seg_dense_schema=schema, global_batch_size=1)
    for inputs in (None, ["x"]):
        ((batch, _),) = data.batches(tasks=["like"], inputs=inputs, shuffle_seed=None, epochs=1)
        assert batch.dense["x"].tolist() == [[1.5, 2.0]]
    ((batch, _),) = data.batches(tasks=["like"], inputs=["y"], shuffle_seed=None, epochs=1)
    assert batch.dense["y"].tolist() == [[1.75, 2.75]]


def test_masks_that_cannot_be_are_refused_all_at_once():
    dense = {
        "x": Dense(column="x", length=1),
        "half": Dense(column="h", length=1, dtype="float16"),
        "id": Dense(column="i", length=1, dtype="int64"),
    }
    masks = {"x": 24, "half": 3, "id": 3, "idd": 3}
    with pytest.raises(ValueError, match="mask_mantissa_features") as error:
        Schema(labels={}, dense=dense, mask_mantissa_features=masks)
    assert str(error.value).splitlines() == [
        "mask_mantissa_features.x=24 must lie in 0 … 23, the bits of a float32's mantissa",
        "mask_mantissa_features.half=3: the input is float16; only float32 is masked",
        "mask_mantissa_features.id=3: the input is int64; only float32 is masked",
        "mask_mantissa_features.idd=3: there is no such input; dense inputs are x, half, id",
    ]
    with pytest.raises(ValueError, match=r"mask_mantissa_features\.x=-1 must lie in 0 … 23"):
        Schema(labels={}, dense=dense, mask_mantissa_features={"x": -1})
