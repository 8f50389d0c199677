"""Training on files of which a part cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_resume import assert_same_runs
from tiny import Tiny, rows, write

from recap.data.files import DataError

IGNORE = ("train_data.ignore_data_errors=true", "train_data.ignored_rows_limit=0.5")
BLOCKS = "train_data.examples_shuffle_buffer_size=16"
SIX, THREE = "training.num_train_steps=6", "training.num_train_steps=3"


@pytest.fixture
def damaged(tiny: Tiny) -> Tiny:
    """Of the six row groups of 16 rows one cannot be decoded and one holds a label 2."""
    path = tiny.root / "train/part-0.parquet"
    chunk = pq.ParquetFile(path).metadata.row_group(2).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 60] = bytes(60)
    path.write_bytes(content)
    columns = rows(48, seed=1)
    labels = columns["is_follow"].to_numpy().copy()
    labels[3] = 2
    write(tiny.root / "train/part-1.parquet", {**columns, "is_follow": pa.array(labels)})
    return tiny


def test_a_run_goes_on_without_what_cannot_be_read_and_counts_it(damaged: Tiny):
    damaged.train(*IGNORE, "training.num_train_steps=18")  # more than an epoch of 12 batches
    logged = damaged.logged()
    assert logged["data/ignored_rows"][18] == 32
    assert np.isfinite(list(logged["loss"].values())).all()


def test_batches_of_which_nothing_is_left_cost_no_step_and_no_metric(damaged: Tiny):
    # blocks of a row group of 16 rows, batches of 8: four of an epoch's twelve are empty
    one_by_one = ("train_data.interleave_num_parallel_calls=1", BLOCKS)
    damaged.train(*IGNORE, *one_by_one, "training.num_train_steps=16")
    assert damaged.state()["position"] >= 2 * 96 - 4 * 8  # two epochs but for what ends them
    assert np.isfinite(list(damaged.logged()["loss"].values())).all()
    empty = "validation_data.valid"  # the training files, as they lie
    damaged.train(
        *(f"{empty}.{line.removeprefix('train_data.')}" for line in IGNORE),
        f"{empty}.inputs={damaged.root}/train",
        f"{empty}.global_batch_size=8",
        *IGNORE,
        THREE,
        run="evaluates them",
    )
    logged = damaged.logged("evaluates them")
    assert logged["valid/follow/examples"][3] == 64


def test_a_run_without_the_setting_counts_nothing(tiny: Tiny):
    tiny.train(THREE)
    assert "data/ignored_rows" not in tiny.logged()


def test_more_than_the_limit_stops_the_run_with_what_was_left_out(damaged: Tiny):
    limit = "train_data.ignored_rows_limit=0.2"
    with pytest.raises(DataError, match=r"ignored 2 row groups with 32 rows, 33\.333%"):
        damaged.train(*IGNORE, limit, "training.num_train_steps=18")


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_run_continued_behind_lost_rows_is_the_run_that_never_stopped(damaged: Tiny, stop: int):
    damaged.train(*IGNORE, SIX, run="whole")
    damaged.train(*IGNORE, f"training.num_train_steps={stop}", run="parts")
    damaged.train(*IGNORE, SIX, run="parts")
    assert_same_runs(damaged, "whole", "parts")


def test_a_run_with_a_cache_is_the_run_without_one(tiny: Tiny, tmp_path: Path):
    tiny.train(SIX, run="without")
    for run in ("fills it", "reads it"):
        tiny.train(SIX, f"train_data.cache={tiny.root / 'cache'}", run=run)
        assert_same_runs(tiny, "without", run)
    assert list((tiny.root / "cache").rglob("*.arrow"))
