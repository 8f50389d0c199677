"""Two ranks whose files are damaged: one run all the same, or one end for both."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ranks import outputs, run, started
from tiny import Tiny, rows, write

from recap.distributed import ALONE

IGNORE = ("ignore_data_errors=true", "ignored_rows_limit=0.4")
SETTINGS = (
    "optimizer=sgd",
    "schedule=single_task",
    "schedule.curve.learning_rate=0.05",
    "model.backbone.dropout=null",
    "model.tasks.follow.tower.dropout=null",
    "train_data.interleave_num_parallel_calls=2",
    "train_data.examples_shuffle_buffer_size=16",
    "training.num_train_steps=20",
)


def damage(path: Path, row_group: int) -> None:
    chunk = pq.ParquetFile(path).metadata.row_group(row_group).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 60] = bytes(60)
    path.write_bytes(content)


def test_two_ranks_go_on_as_one_without_what_either_of_them_cannot_read(tiny: Tiny):
    damage(tiny.root / "train/part-0.parquet", 2)
    columns = rows(48, seed=1)
    labels = columns["is_follow"].to_numpy().copy()
    labels[3] = 2
    write(tiny.root / "train/part-1.parquet", {**columns, "is_follow": pa.array(labels)})
    damage(tiny.root / "valid/part-0.parquet", 1)
    ignore = [f"{data}.{s}" for data in ("train_data", "validation_data.valid") for s in IGNORE]
    said = run(tiny.command(*SETTINGS, *ignore, run="shared"), 2, tiny.root)
    tiny.train(*SETTINGS, *ignore, run="alone")
    alone, shared = tiny.logged("alone"), tiny.logged("shared")
    assert shared["data/ignored_rows"][20] == alone["data/ignored_rows"][20] == 32
    assert len(alone["loss"]) == 20
    for name in [name for name in alone if name.startswith(("loss", "valid"))]:
        assert alone[name] == pytest.approx(shared[name], abs=1e-5, rel=1e-4), name
    told = [re.findall(r"ignored: \S*(part-\d)\S* row group (\d)", text) for text in said]
    assert {*told[0], *told[1]} >= {("part-0", "2"), ("part-1", "0")}


@pytest.mark.parametrize("folder", ["train", "valid"])
def test_a_reader_that_fails_on_one_rank_ends_both_with_its_words(tiny: Tiny, folder: str):
    # the footers are sound: it shows when rows are read, in one lane or one half of a batch
    path = tiny.root / folder / "part-0.parquet"
    damage(path, 1)
    with started(tiny.command(*SETTINGS), 2, tiny.root) as ranks:
        said = outputs(ranks)
        assert [rank.returncode for rank in ranks] == [1, 1], "\n".join(said)
    assert f"{path}, row group 1: " in said[0]
    assert np.any([f"{path}, row group 1: " in text for text in said])


def test_alone_items_come_one_by_one_until_a_stop_or_an_error():
    def broken():
        yield 1
        raise OSError("disk is gone")

    assert list(ALONE.in_step([1, 2, 3])) == [1, 2, 3]
    seen: list[int] = []
    for item in ALONE.in_step([1, 2, 3], lambda: len(seen) // 2):
        seen.append(item)
    assert seen == [1, 2]
    items = ALONE.in_step(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="disk is gone"):
        next(items)
