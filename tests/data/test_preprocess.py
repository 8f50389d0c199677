"""The steps of ``preprocess``, by themselves and against the reference implementation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from recap.data.files import DataError
from recap.data.preprocess import (
    Downcast,
    DownsampleNegatives,
    ExtractedFeature,
    ExtractFeatures,
    RectifyLabels,
    TruncateAndSlice,
)
from recap.data.rows import BFLOAT16, Rows
from recap.schema import Dense, Schema, Sparse

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no reference numbers here")

HOUR = 3_600_000  # ms
SCHEMA = Schema(
    labels={"fav": "is_fav", "reply": "is_reply", "click": "is_click"},
    dense={
        "continuous": Dense(column="c", length=8),
        "binary": Dense(column="b", length=6, dtype="int64"),
        "discrete": Dense(column="d", length=4, dtype="int64"),
        **{
            name: Dense(column=name, length=1, dtype="int64")
            for name in ("served", "impressed", "engaged_fav", "id")
        },
    },
    sparse={"tag": Sparse(column="tag", vocabulary=3)},
)


def rows_of(labels, *, weights=None, tasks=("fav", "reply", "click"), **dense) -> Rows:
    """Rows of these labels and dense inputs; one input ``row`` numbers them."""
    labels = np.asarray(labels, np.float32)
    numbers = np.arange(len(labels)).reshape(-1, 1)
    bags = (np.arange(len(labels)), np.arange(len(labels) + 1))
    return Rows({"row": numbers, **dense}, {"tag": bags}, tasks[: labels.shape[1]], labels, weights)


def bfloat16(array: np.ndarray) -> np.ndarray:
    """The numbers whose bits the array holds."""
    assert array.dtype == BFLOAT16
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).float().numpy()


# --- the reference's numbers -------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "preprocessors.npz"))


@pytest.fixture(scope="module")
def configs() -> dict[str, dict]:
    cases = json.loads((GOLDEN / "index.json").read_text())["files"]["preprocessors.npz"]["cases"]
    return {name: case["config"] for name, case in cases.items() if "config" in case}


def golden_rows(golden: dict[str, np.ndarray], *, weighted: bool = False) -> Rows:
    dense = {name: golden[f"in/{name}"] for name in SCHEMA.dense}
    labels = [golden[f"in/label/{task}"] for task in SCHEMA.labels]
    bags = (np.arange(12), np.arange(13))
    return Rows(
        dense,
        {"tag": bags},
        tuple(SCHEMA.labels),
        np.concatenate(labels, axis=1).astype(np.float32),
        golden["in/weights"] if weighted else None,
    )


def assert_same(rows: Rows, golden: dict[str, np.ndarray], case: str) -> None:
    """Every array that the reference has of the case is that of the rows, to the bit."""
    found = {name.split("/")[1]: array for name, array in golden.items() if name.startswith(case)}
    assert found
    for name, expected in found.items():
        if name == "weights":
            actual = rows.weights
        elif name in rows.tasks:
            actual = rows.labels[:, [rows.tasks.index(name)]]
        else:
            actual = rows.dense[name]
        assert actual is not None
        if actual.dtype == BFLOAT16:
            actual = bfloat16(actual)
        np.testing.assert_array_equal(actual.reshape(expected.shape), expected, name)
        if name not in rows.tasks:
            assert actual.dtype == expected.dtype


@needs_golden
@pytest.mark.parametrize("case", ["truncate", "slice", "truncate_then_slice"])
def test_truncation_and_masks_are_the_references(golden, configs, tmp_path, case):
    config = {key: value for key, value in configs[case].items() if key != "note"}
    for key, value in config.items():
        if key.endswith("_path"):
            mask = golden[value]
            truncation = config.get(key.replace("mask_path", "truncation"))
            config[key] = str(tmp_path / f"{key}.npy")
            np.save(config[key], mask[:truncation])
    step = TruncateAndSlice(**config)
    out = step(golden_rows(golden))
    assert_same(out, golden, f"{case}/")
    for name, dense in step.schema(SCHEMA).dense.items():
        assert out.dense[name].shape == (12, dense.width)


@needs_golden
@pytest.mark.parametrize("case", ["downcast_bool", "downcast_bfloat16"])
def test_downcasts_are_the_references(golden, configs, case):
    assert_same(Downcast(**configs[case])(golden_rows(golden)), golden, f"{case}/")


@needs_golden
@pytest.mark.parametrize("case", ["rectify", "rectify_real_labels"])
def test_rectified_labels_are_the_references(golden, configs, case):
    rows = golden_rows(golden)
    if case == "rectify":  # the labels that went in were all ones
        rows.labels[:, 0] = 1
    assert_same(RectifyLabels(**configs[case])(rows), golden, f"{case}/")


@needs_golden
def test_extracted_features_are_the_references(golden, configs):
    table = [ExtractedFeature(**row) for row in configs["extract"]["extract_feature_table"]]
    step = ExtractFeatures(extract_feature_table=table)
    out = step(golden_rows(golden))
    assert_same(out, golden, "extract/")
    assert {n: a.shape for n, a in out.dense.items()} == {
        name: (12, dense.width) for name, dense in step.schema(SCHEMA).dense.items()
    }


@needs_golden
@pytest.mark.parametrize(
    ("case", "batch_size"),
    [
        ("downsample_m2", 6),
        ("downsample_m3", 4),
        ("downsample_m4", 3),  # as many positives as rows
        ("downsample_with_weights", 6),
    ],
)
def test_downsampled_negatives_are_the_references(golden, configs, case, batch_size):
    step = DownsampleNegatives(**configs[case])
    assert step.schema(SCHEMA) == SCHEMA
    rows = golden_rows(golden, weighted=case.endswith("weights"))
    assert_same(step(rows, batch_size=batch_size, seed=(0,)), golden, f"{case}/")


@needs_golden
def test_with_more_positives_than_rows_one_negative_stands_for_all(golden, configs):
    """The reference drops every negative there, and weighs the positives as if it had not."""
    step = DownsampleNegatives(**configs["downsample_m6"])
    rows = step(golden_rows(golden), batch_size=2, seed=(0,))
    assert rows.labels[:, :2].any(axis=1).tolist() == [True, False]
    assert rows.weights is not None
    assert rows.weights[:, 0].tolist() == [3, 9]  # of 3 positives and 9 negatives one each
    assert rows.dense["id"][0, 0] in (0, 2, 4)


# --- downcast ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "numbers", "expected"),
    [
        # 1 + 2⁻⁸ lies midway between 1 and 1 + 2⁻⁷: to even, down; 1 + 3·2⁻⁸ midway, up
        ("bfloat16", [1.00390625, 1.01171875, -2.5], [1.0, 1.015625, -2.5]),
        # 1 + 2⁻¹¹ lies midway between 1 and 1 + 2⁻¹⁰
        ("float16", [1.00048828125, 1.00146484375, 65504.0], [1.0, 1.001953125, 65504.0]),
    ],
)
@pytest.mark.parametrize("held", [np.float32, np.float64])
def test_floats_are_rounded_to_the_nearest_and_to_even(dtype, numbers, expected, held):
    array = np.array([numbers], held)
    out = Downcast(features={"x": dtype})(rows_of([[0]], x=array)).dense["x"]
    as_numbers = bfloat16(out) if dtype == "bfloat16" else out
    assert out.dtype == (BFLOAT16 if dtype == "bfloat16" else np.float16)
    np.testing.assert_array_equal(as_numbers.astype(np.float32), np.array([expected], np.float32))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_not_finite_stays_so(dtype):
    array = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    array.flags.writeable = False  # as what is read from a file
    out = Downcast(features={"x": dtype})(rows_of([[0]], x=array)).dense["x"]
    out = bfloat16(out) if dtype == "bfloat16" else out
    np.testing.assert_array_equal(out, array)


def test_integers_become_bytes_or_whether_they_are_not_zero():
    array = np.array([[0, 255, 7]], np.int64)
    rows = Downcast(features={"x": "uint8", "y": "bool"})(rows_of([[0]], x=array, y=-array))
    assert rows.dense["x"].dtype == np.uint8
    assert rows.dense["x"].tolist() == [[0, 255, 7]]
    assert rows.dense["y"].tolist() == [[False, True, True]]
    assert rows.dense["row"].dtype == np.int64


@pytest.mark.parametrize(
    ("dtype", "number", "message"),
    [
        ("uint8", np.int64(256), "256 does not fit uint8"),
        ("uint8", np.int8(-1), "-1 does not fit uint8"),
        ("float16", np.float32(70000), "70000.0 does not fit float16, whose largest is 65504"),
    ],
)
def test_a_number_that_the_new_type_does_not_hold_stops(dtype, number, message):
    rows = rows_of([[0]], x=np.array([[number]]))
    with pytest.raises(DataError, match=rf"downcast\.features\.x: {message}"):
        Downcast(features={"x": dtype})(rows)


def test_the_schema_says_the_new_types():
    step = Downcast(features={"continuous": "bfloat16", "binary": "bool", "discrete": "uint8"})
    types = {name: dense.dtype for name, dense in step.schema(SCHEMA).dense.items()}
    assert types["continuous"] == "bfloat16"
    assert types["binary"] == "bool"
    assert types["discrete"] == "uint8"
    assert types["id"] == "int64"


def test_downcasts_that_cannot_be_are_refused_all_at_once():
    features = {
        "continous": "float16",
        "tag": "bool",
        "continuous": "float32",
        "binary": "float16",
        "discrete": "int8",
    }
    with pytest.raises(ValueError, match="continous") as error:
        Downcast(features=features).schema(SCHEMA)
    assert str(error.value).splitlines() == [
        "features.continous: there is no such dense input; close: continuous",
        "features.tag: the input is sparse; a dense one is needed",
        "features.continuous=float32: must be one of bfloat16, float16, uint8, bool",
        "features.binary=float16: the input is int64; it can become uint8 or bool",
        "features.discrete=int8: must be one of bfloat16, float16, uint8, bool",
    ]


@given(
    arrays_of.arrays(
        np.float32, (3, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    )
)
def test_bfloat16_is_within_half_a_unit_of_its_last_place(numbers):
    out = bfloat16(Downcast(features={"x": "bfloat16"})(rows_of([[0]] * 3, x=numbers)).dense["x"])
    finite = np.isfinite(out)  # within half a unit of infinity is infinity
    assert (np.abs(numbers[~finite]) > 3.38e38).all()
    normal = finite & (np.abs(numbers) > 1e-37)
    error = np.abs(out[normal].astype(np.float64) - numbers[normal])
    assert (error <= np.abs(numbers[normal].astype(np.float64)) * 2.0**-8).all()


# --- rectify_labels ----------------------------------------------------------------------------


RECTIFY = RectifyLabels(
    served_timestamp_field="served",
    impressed_timestamp_field="impressed",
    label_to_engaged_timestamp_field={"fav": "engaged_fav"},
)


def times(served: list[int], impressed: list[int], engaged: list[int]) -> dict[str, np.ndarray]:
    named = {"served": served, "impressed": impressed, "engaged_fav": engaged}
    return {name: np.array(column, np.int64).reshape(-1, 1) for name, column in named.items()}


def test_a_positive_stays_if_both_times_are_within_the_window():
    base, late = 1_700_000_000_000, 3 * HOUR
    rows = rows_of(
        [[1, 1], [1, 1], [1, 1], [0, 0]],
        **times(
            [base] * 4,
            [base + late - 1, base + late, base, base],
            [base + late - 1, base, base + late, base],
        ),
    )
    out = RECTIFY(rows)
    assert out.labels.tolist() == [[1, 1], [0, 1], [0, 1], [0, 0]]
    assert rows.labels[1, 0] == 1  # what came in is left as it is


def test_the_window_is_counted_in_hours():
    rows = rows_of([[1]], **times([0], [HOUR // 2], [HOUR // 2]))
    half = {**vars(RECTIFY), "label_rectification_window_in_hours": 0.5}
    assert RECTIFY(rows).labels.tolist() == [[1]]
    assert RectifyLabels(**half)(rows).labels.tolist() == [[0]]


def test_weights_stay_those_of_the_labels_as_stored():
    weights = np.full((1, 1), 7, np.float32)
    rows = RECTIFY(rows_of([[1]], weights=weights, **times([0], [9 * HOUR], [0])))
    assert rows.labels.tolist() == [[0]]
    assert rows.weights is weights


def test_a_label_that_is_not_read_needs_no_rectifying():
    rows = rows_of([[1]], tasks=("click",), **times([0], [9 * HOUR], [0]))
    assert RECTIFY(rows).labels.tolist() == [[1]]


def test_the_times_are_read_though_no_model_reads_them():
    assert RECTIFY.reads == ("served", "impressed", "engaged_fav")


def test_times_and_labels_that_cannot_be_are_refused_all_at_once():
    step = RectifyLabels(
        served_timestamp_field="serve",
        impressed_timestamp_field="continuous",
        label_to_engaged_timestamp_field={"favv": "id", "reply": "tag"},
    )
    with pytest.raises(ValueError, match="favv") as error:
        step.schema(SCHEMA)
    assert str(error.value).splitlines() == [
        "label_to_engaged_timestamp_field.favv: the schema has no such label; close: fav",
        "served_timestamp_field=serve: there is no such dense input; close: served",
        "impressed_timestamp_field=continuous: the input holds 8 × float32 a row; "
        "a time in ms is 1 × int64",
        "label_to_engaged_timestamp_field.reply=tag: the input is sparse; a dense one is needed",
    ]
    with pytest.raises(ValueError, match="window_in_hours=0 must be above 0"):
        RectifyLabels(**{**vars(RECTIFY), "label_rectification_window_in_hours": 0})


@given(st.lists(st.tuples(*[st.integers(0, 6 * HOUR)] * 3, st.booleans()), min_size=1))
def test_rectifying_only_takes_positives_away_and_a_second_time_changes_nothing(cases):
    served, impressed, engaged, label = map(list, zip(*cases, strict=True))
    rows = rows_of(np.array([label]).T, **times(served, impressed, engaged))
    once = RECTIFY(rows)
    assert (once.labels <= rows.labels).all()
    np.testing.assert_array_equal(RECTIFY(once).labels, once.labels)
    for (s, i, e, before), after in zip(cases, once.labels[:, 0], strict=True):
        assert after == (before and i - s < 3 * HOUR and e - s < 3 * HOUR)


# --- extract_features --------------------------------------------------------------------------


def extract(*table: tuple[str, str, int]) -> ExtractFeatures:
    rows = [
        ExtractedFeature(name=name, source_tensor=source, index=index)
        for name, source, index in table
    ]
    return ExtractFeatures(extract_feature_table=rows)


def test_a_column_becomes_an_input_and_its_source_keeps_it():
    step = extract(("cluster", "discrete", 2))
    discrete = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    rows = step(rows_of([[0], [0]], discrete=discrete))
    assert rows.dense["cluster"].tolist() == [[3], [7]]
    assert rows.dense["discrete"] is discrete
    assert step.reads == ("discrete",)
    made = step.schema(SCHEMA).dense["cluster"]
    assert (made.width, made.dtype) == (1, "int64")


def test_extractions_that_cannot_be_are_refused_all_at_once():
    step = extract(
        ("id", "discrete", 0), ("a", "discrte", 0), ("b", "discrete", 4), ("tag", "id", -1)
    )
    with pytest.raises(ValueError, match="discrte") as error:
        step.schema(SCHEMA)
    assert str(error.value).splitlines() == [
        "extract_feature_table.0.name=id: an input has this name; choose another",
        "extract_feature_table.1.source_tensor=discrte: there is no such dense input; "
        "close: discrete",
        "extract_feature_table.2.index=4 must lie in 0 … 3, the columns of discrete",
        "extract_feature_table.3.name=tag: an input has this name; choose another",
        "extract_feature_table.3.index=-1 must lie in 0 … 0, the columns of id",
    ]


@given(st.data())
def test_an_extracted_input_is_its_sources_column_whatever_the_index(data):
    width = data.draw(st.integers(1, 6))
    index = data.draw(st.integers(0, width - 1))
    source = np.arange(3 * width).reshape(3, width)
    rows = extract(("x", "y", index))(rows_of([[0]] * 3, y=source))
    np.testing.assert_array_equal(rows.dense["x"], source[:, [index]])


# --- downsample_negatives ----------------------------------------------------------------------


def downsample(labels: list[list[int]], batch_size: int, seed: int = 0, **rows) -> Rows:
    multiplier = max(1, len(labels) // batch_size)
    step = DownsampleNegatives(batch_multiplier=multiplier, engagements_list=["fav", "reply"])
    return step(rows_of(labels, **rows), batch_size=batch_size, seed=(seed, 5))


def numbers(rows: Rows) -> list[int]:
    return rows.dense["row"][:, 0].tolist()


def test_positives_of_any_listed_label_come_first_then_negatives_with_their_weight():
    labels = [
        [0, 0, 1],
        [0, 1, 0],
        [0, 0, 0],
        [1, 0, 0],
        [0, 0, 0],
        [0, 0, 1],
        [0, 0, 0],
        [0, 0, 0],
    ]
    rows = downsample(labels, 4)
    assert numbers(rows) == [1, 3, 0, 2]
    assert rows.sparse["tag"][0].tolist() == [1, 3, 0, 2]
    assert rows.labels.tolist() == [labels[i] for i in [1, 3, 0, 2]]
    assert rows.weights is not None
    assert rows.weights.tolist() == [[1] * 3, [1] * 3, [3] * 3, [3] * 3]  # (8 − 2) / (4 − 2)


def test_weights_that_rows_have_are_multiplied():
    weights = np.arange(1, 9, dtype=np.float32).reshape(4, 2)
    rows = downsample([[0, 0], [0, 0], [1, 0], [0, 0]], 2, weights=weights)
    assert numbers(rows) == [2, 0]
    assert rows.weights is not None
    assert rows.weights.tolist() == [[5, 6], [3, 6]]


def test_fewer_rows_than_a_batch_are_all_kept_unweighted():
    rows = downsample([[0, 0], [1, 0]], 4)
    assert numbers(rows) == [1, 0]
    assert rows.weights is None


def test_with_more_positives_than_rows_the_cut_is_random_by_its_seed():
    labels = [[1, 0]] * 6 + [[0, 0]] * 6
    kept = {seed: numbers(downsample(labels, 3, seed)) for seed in range(20)}
    assert kept == {seed: numbers(downsample(labels, 3, seed)) for seed in range(20)}
    assert len({tuple(rows[:2]) for rows in kept.values()}) > 5
    assert len({rows[2] for rows in kept.values()}) > 2
    for rows in kept.values():
        assert rows[0] < rows[1] < 6 <= rows[2]
    weights = downsample(labels, 3).weights
    assert weights is not None
    assert weights.tolist() == [[3, 3], [3, 3], [6, 6]]


def test_without_negatives_the_positives_stand_for_one_another():
    rows = downsample([[1, 0]] * 6, 4)
    assert len(set(numbers(rows))) == 4
    assert rows.weights is not None
    assert rows.weights.tolist() == [[1.5, 1.5]] * 4


# of a batch of 3; exactly 3 positives are the reference's batch, without a negative, see above
@pytest.mark.parametrize("positives", [0, 1, 2, 4, 6, 7, 8])
def test_weighted_sums_are_on_average_those_of_all_rows(positives):
    random = np.random.default_rng(positives)
    labels = random.permutation([[1, 0]] * positives + [[0, 0]] * (8 - positives)).tolist()
    weights = random.uniform(1, 3, (8, 2)).astype(np.float32)
    values = random.normal(size=8)
    sums = []
    for seed in range(3000):
        order = np.random.default_rng((9, seed)).permutation(8)  # rows come shuffled
        rows = downsample([labels[i] for i in order], 3, seed, weights=weights[order])
        assert rows.weights is not None
        sums.append((rows.weights[:, 0] * values[order][rows.dense["row"][:, 0]]).sum())
    expected = (weights[:, 0] * values).sum()
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - expected) < 4 * error + 1e-6


@given(
    arrays_of.arrays(np.bool_, st.tuples(st.integers(1, 30), st.just(2))),
    st.integers(2, 12),
    st.integers(0, 3),
)
def test_a_batch_has_distinct_rows_and_weights_that_add_up_to_the_rows_read(labels, size, seed):
    rows = downsample(labels.astype(int).tolist(), size, seed)
    kept = numbers(rows)
    assert len(kept) == len(set(kept)) == min(size, len(labels))
    np.testing.assert_array_equal(rows.labels, labels[kept])
    weights = np.ones_like(rows.labels) if rows.weights is None else rows.weights
    positive = rows.labels.any(axis=1)
    if labels.any(axis=1).sum() != size:
        assert weights[:, 0].sum() == pytest.approx(len(labels), rel=1e-5)
    assert weights[positive, 0].sum() == pytest.approx(labels.any(axis=1).sum(), rel=1e-5)
    assert (np.diff(positive.astype(int)) <= 0).all()  # positives first


def test_settings_that_cannot_be_are_refused_all_at_once():
    with pytest.raises(ValueError, match="batch_multiplier") as error:
        DownsampleNegatives(batch_multiplier=0, engagements_list=[])
    assert str(error.value).splitlines() == [
        "batch_multiplier=0 must be 1 or more",
        "engagements_list=[] must be a list of labels",
    ]
    with pytest.raises(ValueError, match="engagements_list=fav must be a list of labels"):
        DownsampleNegatives(batch_multiplier=2, engagements_list="fav")
    step = DownsampleNegatives(
        batch_multiplier=2, engagements_list=["favv", "click"], num_engagements=2
    )
    with pytest.raises(ValueError, match="favv") as error:
        step.schema(SCHEMA)
    assert str(error.value).splitlines() == [
        "engagements_list: the schema has no label favv; close: fav",
        "num_engagements=2: the schema has 3 labels, fav, reply, click",
    ]
