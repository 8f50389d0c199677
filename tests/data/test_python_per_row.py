"""Python's work for a batch does not grow with its rows, whatever the rows hold."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recap.data.parquet import ParquetData
from recap.data.preprocess import (
    Downcast,
    DownsampleNegatives,
    ExtractedFeature,
    ExtractFeatures,
    RectifyLabels,
    TruncateAndSlice,
)
from recap.data.sampling import SamplingRates
from recap.schema import Dense, Schema, Sparse

FEW, MANY = 128, 1024  # rows of a batch
BATCHES = 6  # of an epoch, a row group each

SCHEMA = Schema(
    labels={"like": "is_like", "flag": "is_flag", "real": "is_real"},
    dense={
        "continuous": Dense(column="raw", length=5),
        "binary": Dense(column="small", length=4, dtype="int64"),
        "fixed": Dense(column="fixed", length=3),
        "lists": Dense(column="lists", length=3),
        "scalars": Dense(columns=["one", "two"]),
        "time": Dense(column="time", length=1, dtype="int64"),
    },
    sparse={
        "tags": Sparse(column="tags", vocabulary=9),
        "words": Sparse(column="words", num_buckets=50),
        "listed": Sparse(column="words", vocabulary=["w1", "w2"]),
        "bag_of_words": Sparse(column="bag_of_words", vocabulary=["w1", "w2"]),
        "separated": Sparse(column="separated", num_buckets=50, separator=","),
        "number": Sparse(column="number", num_buckets=50),
    },
    mask_mantissa_features={"fixed": 12},
)

PLAIN: dict[str, Any] = {}
STEPS = {
    "truncate": TruncateAndSlice(continuous_feature_truncation=3),
    "extract": ExtractFeatures(
        extract_feature_table=[ExtractedFeature(name="first", source_tensor="fixed", index=1)]
    ),
    "rectify": RectifyLabels(
        served_timestamp_field="time",
        impressed_timestamp_field="time",
        label_to_engaged_timestamp_field={"like": "time"},
    ),
    "narrow": Downcast(features={"fixed": "bfloat16", "lists": "float16", "binary": "bool"}),
}
RATES = {"like": SamplingRates(neg_downsampling_rate=0.5)}
HALF = {"half": DownsampleNegatives(batch_multiplier=2, engagements_list=["like"])}


def write(folder: Path, rows: int) -> Path:
    """A file of row groups of ``rows`` rows: all ways in which a column is held, with nulls."""
    n = rows * BATCHES
    number = np.arange(n)
    random = np.random.default_rng(0)
    null = number % 7 == 0
    raw = [None if i % 7 == 0 else bytes(20) for i in number]
    full = [[1.0, 2.0, float(i)] for i in number.tolist()]  # Arrow reads no nulls among such
    lists = [None if i % 7 == 0 else numbers for i, numbers in enumerate(full)]
    table = {
        "raw": pa.array(raw, pa.binary(20)),
        "small": pa.array([bytes([i % 2, 0, 1, 1]) for i in number.tolist()], pa.binary(4)),
        "fixed": pa.array(full, pa.list_(pa.float32(), 3)),
        "lists": pa.array(lists, pa.list_(pa.float32())),
        "one": pa.array(random.normal(size=n).astype(np.float32), mask=null),
        "two": pa.array(number % 100, mask=null),
        "time": pa.array(number),
        "tags": pa.array([[i % 9] * (i % 3) for i in number.tolist()]),
        "words": pa.array([None if i % 5 == 0 else f"w{i % 9}" for i in number.tolist()]),
        "bag_of_words": pa.array([[f"w{i % 9}", None] * (i % 3) for i in number.tolist()]),
        "separated": pa.array([",".join(["a", "b"][: i % 3]) for i in number.tolist()]),
        "number": pa.array(number, mask=null),
        "is_like": (number % 4 == 0).astype(np.int8),
        "is_flag": number % 3 == 0,
        "is_real": (number % 2).astype(np.float64),
    }
    path = folder / f"{rows}.parquet"
    pq.write_table(pa.table(table), path, row_group_size=rows)
    return path


def counted(work: Callable[[], object]) -> int:
    """Lines of Python that are run by ``work`` and the threads it starts, and calls from them."""
    counts: list[int] = []  # a list's append is one step of the interpreter, for any thread

    def lines(frame: FrameType, event: str, argument: object) -> Any:
        counts.append(1)
        return lines

    def calls(frame: FrameType, event: str, argument: object) -> None:
        if event == "c_call":
            counts.append(1)

    for module in (sys, threading):
        module.settrace(lines)
        module.setprofile(calls)
    try:
        work()
    finally:
        for module in (sys, threading):
            module.settrace(None)
            module.setprofile(None)
    return len(counts)


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        (PLAIN, {}),
        (PLAIN, {"shuffle_seed": None}),
        (PLAIN, {"inputs": {"continuous"}}),
        ({"tasks": RATES}, {"weighted": True}),
        ({"preprocess": STEPS}, {}),
        ({"preprocess": HALF}, {}),
        ({"interleave_num_parallel_calls": 4}, {}),
        ({"cache": "cache"}, {}),
        ({"ignore_data_errors": True}, {}),
    ],
    ids=[
        "shuffled",
        "as_they_lie",
        "subset",
        "weighted",
        "steps",
        "batch_step",
        "lanes",
        "cached",
        "ignoring",
    ],
)
def test_a_batch_of_eight_times_the_rows_takes_no_more_of_python(tmp_path, settings, how):
    def count(rows: int) -> int:
        written = write(tmp_path, rows)
        if "cache" in settings:
            settings["cache"] = str(tmp_path / f"cache-{rows}")
        data = ParquetData(
            inputs=str(written),
            seg_dense_schema=SCHEMA,
            global_batch_size=rows,
            examples_shuffle_buffer_size=rows,
            **settings,
        )

        def epoch() -> None:
            stream = {"tasks": ["like", "flag", "real"], "shuffle_seed": 1, "epochs": 1, **how}
            read = sum(len(batch) for batch, _ in data.batches(**stream))
            assert 0 < read <= rows * BATCHES

        epoch()  # what is found and made once, as imports; of a cache, its files
        return counted(epoch)

    few, many = count(FEW), count(MANY)
    assert few > 1000
    # which thread waits for which, and how often, differs by a few lines from time to time
    assert many < 1.1 * few, "Python runs per row somewhere"


def test_what_runs_per_row_is_counted():
    few = counted(lambda: [str(i) for i in range(FEW)])
    assert counted(lambda: [str(i) for i in range(MANY)]) > 5 * few
