"""Statistics of columns, in parts and as a whole, against numpy."""

import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra.errors import CompactHydraException
from hypothesis import given
from hypothesis import strategies as st
from tiny import Tiny

from recap.data.files import DataError
from recap.data.parquet import ParquetData
from recap.data.preprocess import Downcast, DownsampleNegatives, TruncateAndSlice
from recap.data.statistics import (
    log1p_abs,
    merged,
    read_statistics,
    statistics_of,
    write_statistics,
)
from recap.data.statistics.command import run
from recap.data.statistics.moments import Moments
from recap.schema import Dense, Schema


def assert_is_numpys(moments: Moments, numbers: np.ndarray):
    """The moments are those of ``numbers`` [n, W], column by column."""
    for column, values in enumerate(numbers.astype(np.float64).T):
        finite = values[np.isfinite(values)]
        assert moments.count[column] == len(finite)
        assert moments.num_non_finite[column] == len(values) - len(finite)
        if not len(finite):
            continue
        largest = np.abs(finite).max()
        np.testing.assert_allclose(moments.mean[column], finite.mean(), 1e-6, 1e-12 * largest)
        np.testing.assert_allclose(moments.variance[column], finite.var(), 1e-6, 1e-24 * largest**2)
        assert moments.min[column] == finite.min()
        assert moments.max[column] == finite.max()


def test_a_column_by_hand():
    numbers = np.array([[1.0, 5.0], [np.nan, 5.0], [3.0, 5.0], [np.inf, 5.0], [8.0, 5.0]])
    moments = Moments.of(numbers)
    assert moments.count.tolist() == [3, 5]
    assert moments.num_non_finite.tolist() == [2, 0]
    assert moments.mean.tolist() == [4.0, 5.0]
    # distances 3, 1, 4: squares 9 + 1 + 16, over three
    np.testing.assert_allclose(moments.variance, [26 / 3, 0.0])
    assert (moments.min.tolist(), moments.max.tolist()) == ([1.0, 5.0], [8.0, 5.0])


@st.composite
def columns(draw):
    """[n, 2] float64 with offsets far larger than the spread, and numbers that are not finite."""
    offset = draw(st.floats(-1e6, 1e6))
    scale = draw(st.floats(1e-3, 1e3))
    rows = draw(st.lists(st.tuples(*[st.integers(-1000, 1000)] * 2), max_size=40))
    numbers = offset + scale * np.array(rows, np.float64).reshape(-1, 2)
    for row, column in draw(
        st.lists(st.tuples(st.integers(0, 39), st.integers(0, 1)), max_size=10)
    ):
        if row < len(numbers):
            numbers[row, column] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    return numbers


@given(columns(), st.integers(0, 40), st.integers(0, 40))
def test_parts_merged_in_any_way_are_the_whole(numbers: np.ndarray, one: int, two: int):
    first, last = sorted((one, two))
    a, b, c = (Moments.of(p) for p in (numbers[:first], numbers[first:last], numbers[last:]))
    for moments in (
        Moments.of(numbers),
        a.merge(b).merge(c),
        a.merge(b.merge(c)),
        c.merge(a).merge(b),
        Moments.none(2).merge(a).merge(b).merge(c).merge(Moments.none(2)),
    ):
        assert_is_numpys(moments, numbers)


@pytest.mark.parametrize("order", ["drawn", "sorted"])
def test_a_large_mean_costs_no_digits_of_a_small_spread(order: str):
    numbers = np.random.default_rng(0).normal(1e6, 1e-3, size=(20_000, 3))
    if order == "sorted":
        numbers.sort(axis=0)
    moments = Moments.none(3)
    for part in np.array_split(numbers, 200):
        moments = moments.merge(Moments.of(part))
    np.testing.assert_allclose(moments.mean, numbers.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, numbers.var(axis=0), rtol=1e-6)


@pytest.mark.parametrize("value", [0.1, -7.3e5, 1e-30])
def test_a_constant_column_has_a_variance_of_exactly_zero(value: float):
    parts = [Moments.of(np.full((rows, 1), value)) for rows in (3, 7, 11)]
    moments = parts[0].merge(parts[1]).merge(parts[2])
    assert moments.variance.tolist() == [0.0]
    assert moments.mean.tolist() == [value]


def test_numbers_beyond_the_range_of_squares_overflow_to_infinity_without_a_warning():
    moments = Moments.of(np.array([[1e300], [-1e300]]))
    assert moments.variance.tolist() == [math.inf]
    assert moments.merge(moments).variance.tolist() == [math.inf]


def data_of(folder, numbers: np.ndarray, more: np.ndarray, **settings) -> ParquetData:
    """A file of ``numbers`` [n, 4] float32 and ``more`` [n, 2] int64 in row groups of 7."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {
        "c": pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 4),
        "d": pa.FixedSizeListArray.from_arrays(pa.array(more.ravel()), 2),
        "is_like": pa.array(np.arange(len(numbers)) % 3 == 0),
    }
    pq.write_table(pa.table(table), folder / "part.parquet", row_group_size=7)
    schema = Schema(
        labels={"like": "is_like"},
        dense={
            "continuous": Dense(column="c", length=4),
            "discrete": Dense(column="d", length=2, dtype="int64"),
        },
    )
    return ParquetData(inputs=str(folder), seg_dense_schema=schema, global_batch_size=8, **settings)


@pytest.fixture
def numbers() -> np.ndarray:
    drawn = np.random.default_rng(1).lognormal(2.0, 3.0, size=(50, 4)).astype(np.float32)
    drawn[::3] *= -1
    drawn[4, 1], drawn[9, 1], drawn[:, 3] = np.nan, np.inf, np.nan
    return drawn


@pytest.fixture
def more() -> np.ndarray:
    return np.random.default_rng(2).integers(-5, 1000, size=(50, 2))


def test_every_row_of_a_data_set_counts_once_raw_and_as_logarithm(tmp_path, numbers, more):
    found = statistics_of(data_of(tmp_path, numbers, more))
    assert list(found) == ["continuous", "discrete"]
    assert_is_numpys(found["continuous"].raw, numbers)
    assert_is_numpys(found["continuous"].log1p_abs, log1p_abs(numbers.astype(np.float64)))
    assert_is_numpys(found["discrete"].raw, more)
    assert_is_numpys(found["discrete"].log1p_abs, log1p_abs(more.astype(np.float64)))


def test_columns_are_those_that_preprocessing_leaves(tmp_path, numbers, more):
    steps = {"truncate": TruncateAndSlice(continuous_feature_truncation=2)}
    found = statistics_of(data_of(tmp_path, numbers, more, preprocess=steps))
    assert_is_numpys(found["continuous"].raw, numbers[:, :2])


def test_columns_may_be_of_a_type_that_numpy_lacks(tmp_path, numbers, more):
    steps = {"downcast": Downcast(features={"continuous": "bfloat16"})}
    small = np.clip(numbers, -100, 100)
    found = statistics_of(data_of(tmp_path, small, more, preprocess=steps))
    rounded = torch.from_numpy(small).bfloat16().double().numpy()
    assert_is_numpys(found["continuous"].raw, rounded)


def test_rows_are_those_that_preprocessing_leaves(tmp_path, numbers, more):
    step = DownsampleNegatives(batch_multiplier=2, engagements_list=["like"])
    data = data_of(tmp_path, numbers, more, preprocess={"downsample": step})
    found = statistics_of(data)
    # of 16, 16, 16 and the last 2 rows read, 8, 8, 8 and 2 stay
    assert found["discrete"].raw.count.tolist() == [26, 26]


def test_inputs_can_be_named(tmp_path, numbers, more):
    data = data_of(tmp_path, numbers, more)
    assert list(statistics_of(data, inputs=["discrete"])) == ["discrete"]
    with pytest.raises(ValueError, match="no dense input discret; there is continuous, discrete"):
        statistics_of(data, inputs=["discret"])
    with pytest.raises(ValueError, match="there is no dense input to count"):
        statistics_of(data, inputs=[])


def test_the_file_has_a_row_per_column_and_is_read_back_as_written(tmp_path, numbers, more):
    found = statistics_of(data_of(tmp_path / "data", numbers, more))
    write_statistics(found, tmp_path / "statistics.parquet")
    rows = pq.read_table(tmp_path / "statistics.parquet").to_pylist()
    assert [(row["input"], row["index"]) for row in rows] == [
        *(("continuous", i) for i in range(4)),
        *(("discrete", i) for i in range(2)),
    ]
    second, empty, first_discrete = rows[1], rows[3], rows[4]
    assert (second["count"], second["num_non_finite"]) == (48, 2)
    assert (empty["count"], empty["num_non_finite"]) == (0, 50)
    assert {empty[f"{s}{f}"] for s in ("", "log1p_abs_") for f in ("mean", "std", "min")} == {None}
    assert first_discrete["std"] == pytest.approx(more[:, 0].std())
    assert first_discrete["std"] ** 2 == pytest.approx(first_discrete["variance"])
    back = read_statistics(tmp_path / "statistics.parquet")
    for name, columns in found.items():
        for ours, theirs in (
            (columns.raw, back[name].raw),
            (columns.log1p_abs, back[name].log1p_abs),
        ):
            for field in vars(ours):
                assert np.array_equal(getattr(ours, field), getattr(theirs, field))
    assert [path.name for path in tmp_path.glob("*.incomplete")] == []


def test_merged_files_are_those_of_all_rows(tmp_path, numbers, more):
    for name, part in {"a": slice(0, 20), "b": slice(20, 50)}.items():
        found = statistics_of(data_of(tmp_path / name, numbers[part], more[part]))
        write_statistics(found, tmp_path / f"{name}.parquet")
    whole = merged(read_statistics(tmp_path / f"{name}.parquet") for name in "ab")
    assert_is_numpys(whole["continuous"].raw, numbers)
    assert_is_numpys(whole["discrete"].log1p_abs, log1p_abs(more.astype(np.float64)))


def test_statistics_of_other_inputs_or_widths_are_not_merged(tmp_path, numbers, more):
    data = data_of(tmp_path, numbers, more)
    parts = [statistics_of(data), statistics_of(data, inputs=["continuous"])]
    message = r"of continuous \[4\] cannot be merged with those of continuous \[4\], discrete \[2\]"
    with pytest.raises(ValueError, match=message):
        merged(parts)


def test_another_file_is_no_file_of_statistics(tmp_path):
    pq.write_table(pa.table({"input": ["a"], "index": [0]}), tmp_path / "a.parquet")
    with pytest.raises(
        DataError, match=r"a\.parquet is no file of statistics: it has no column co"
    ):
        read_statistics(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: "):
        read_statistics(tmp_path / "b.parquet")


def command(tiny: Tiny, *overrides: str):
    """What ``python -m recap.data.statistics`` does with these overrides."""
    run(tiny.config(*overrides, config_name="statistics"))


def test_the_command_counts_the_training_data(tiny: Tiny, capsys):
    command(tiny)
    found = read_statistics(tiny.root / "statistics.parquet")
    files = sorted((tiny.root / "train").glob("*.parquet"))
    numbers = np.concatenate([np.stack(pq.read_table(f).column("c").to_numpy()) for f in files])
    assert_is_numpys(found["continuous"].raw, numbers)
    assert "continuous: 4 columns of 96 rows; 0 constant, 0 with" in capsys.readouterr().out


def test_the_command_merges_what_it_wrote_for_parts(tiny: Tiny):
    target = f"statistics.target={tiny.root}"
    command(tiny, f"{target}/whole.parquet", "statistics.inputs=[continuous]")
    for part in range(2):
        command(
            tiny,
            f"train_data.inputs={tiny.root}/train/part-{part}.parquet",
            f"{target}/{part}.parquet",
            "statistics.inputs=continuous",
        )
    parts = f"statistics.merge=[{tiny.root}/0.parquet,{tiny.root}/1.parquet]"
    command(tiny, parts, f"{target}/merged.parquet")
    one, other = (read_statistics(tiny.root / f"{n}.parquet") for n in ("whole", "merged"))
    assert list(one) == list(other) == ["continuous"]
    np.testing.assert_allclose(one["continuous"].raw.variance, other["continuous"].raw.variance)
    assert one["continuous"].raw.count.tolist() == [96] * 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train_data.inputs=/nowhere/x.parquet",
            r"^train_data\.inputs: /nowhere/x\.parquet: no such",
        ),
        ("train_data.global_batch_size=eight", "train_data.global_batch_size='eight': must be int"),
        ("train_data.global_batch_size=0", "global_batch_size=0 must be 1 or more"),
        ("train_data.seg_dense_schema.dense.continuous.column=x", "column 'x'"),
        ("train_data.seg_dense_schema.dense.binary.column=x", r"statistics\.inputs=null reads ev"),
        ("statistics.inputs=[video]", r"^statistics\.inputs: no dense input video; there is cont"),
        (
            "statistics.merge=[/nowhere/x.parquet,/nowhere/y.parquet]",
            r"^statistics\.merge: /nowhere/x\.parquet: no such file\nstatistics\.merge: /nowhere/y",
        ),
        ("statistics.merge=3", r"statistics\.merge=3: must be null, a name or a list of names"),
        ("statistics.inputs=[3]", r"statistics\.inputs=\[3\]: must be null, a name or a list"),
        ("statistics.target=null", r"statistics\.target=None: must be the path of the file to w"),
        ("train_data=null", "train_data=None: must be a mapping"),
        ("statistics.merge=[]", r"^statistics\.merge=\[\] must name at least one file"),
    ],
)
def test_the_command_refuses_what_cannot_be_read(tiny: Tiny, override: str, message: str):
    with pytest.raises(CompactHydraException, match=message):
        command(tiny, override)


def test_a_target_that_cannot_be_written_is_refused_before_anything_is_read(tiny: Tiny):
    absent = "train_data.inputs=/nowhere/x.parquet"
    (tiny.root / "file").touch()
    for target, reason in (
        ("/proc/x.parquet", r"cannot be written \("),
        (f"{tiny.root}/file/x.parquet", r"cannot be written \(Not a directory\)"),
        (f"{tiny.root}/train", r"is a folder; name the file to write"),
    ):
        with pytest.raises(CompactHydraException) as refused:
            command(tiny, absent, f"statistics.target={target}")
        assert re.fullmatch(rf"statistics\.target={target}: {reason}.*", str(refused.value))


def test_statistics_of_other_columns_are_not_merged_and_the_key_is_named(tiny: Tiny):
    for name in ("continuous", "binary"):
        file = f"statistics.target={tiny.root}/{name}.parquet"
        command(tiny, file, f"statistics.inputs=[{name}]")
    parts = f"statistics.merge=[{tiny.root}/continuous.parquet,{tiny.root}/binary.parquet]"
    with pytest.raises(CompactHydraException, match=r"^statistics\.merge: statistics of binary \["):
        command(tiny, parts)
