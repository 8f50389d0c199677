"""The order of rows: every row once an epoch, and the row at any position found at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recap.data.order import Lane, Line

# two files: the first with row groups of 4 and 3 rows, the second with one of 5
ROW_GROUPS = [[4, 3], [5]]


def rows_of(lane: Lane, start: int, stop: int) -> list[tuple[int, int, int]]:
    """(file, row group, row in it) at the lane's positions [start, stop)."""
    rows = []
    for block, begin, end in lane.spans(start, stop):
        laid_out = [
            (p.source, p.row_group, r) for p in block.pieces for r in range(p.start, p.stop)
        ]
        rows += [laid_out[i] for i in block.permutation()[begin:end]]
    return rows


def lane_of(
    row_groups: list[list[int]],
    *,
    index: int = 0,
    lanes: int = 1,
    buffer: int = 4,
    seed: int | None = 7,
    file_batch_size: int | None = None,
) -> Lane:
    line = Line(row_groups, seed=seed, file_batch_size=file_batch_size)
    return Lane(line, index=index, lanes=lanes, buffer=buffer)


def test_without_a_seed_rows_come_as_they_lie_in_the_files():
    lane = lane_of([[2, 1], [2]], seed=None)
    assert rows_of(lane, 0, 5) == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1)]


def test_every_epoch_holds_each_row_once_and_in_another_order():
    lane = lane_of(ROW_GROUPS)
    first, second = rows_of(lane, 0, 12), rows_of(lane, 12, 24)
    assert sorted(first) == sorted(second) == sorted(rows_of(lane_of(ROW_GROUPS, seed=None), 0, 12))
    assert first != second


def test_the_order_of_a_seed_stays_from_release_to_release():
    rows = [7 * file + 4 * group + row for file, group, row in rows_of(lane_of(ROW_GROUPS), 0, 24)]
    assert rows[:12] == [3, 1, 2, 0, 9, 10, 7, 11, 8, 5, 6, 4]
    assert rows[12:] == [0, 1, 2, 3, 11, 7, 10, 8, 9, 4, 5, 6]


def test_another_seed_is_another_order():
    assert rows_of(lane_of(ROW_GROUPS, seed=1), 0, 12) != rows_of(
        lane_of(ROW_GROUPS, seed=2), 0, 12
    )


def test_rows_are_mixed_across_row_groups_up_to_the_buffer():
    lane = lane_of([[4, 4, 4]], buffer=8)
    blocks = [block for block, _, _ in lane.spans(0, 12)]
    assert [len(block.pieces) for block in blocks] == [2, 1]


def test_lanes_split_the_rows_without_overlap_and_differ_by_one_row_at_most():
    lanes = [lane_of(ROW_GROUPS, index=i, lanes=5) for i in range(5)]
    assert [lane.num_rows for lane in lanes] == [2, 2, 3, 2, 3]
    rows = [row for lane in lanes for row in rows_of(lane, 0, lane.num_rows)]
    assert len(rows) == len(set(rows)) == 12


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=4),
    lanes=st.integers(1, 5),
    buffer=st.integers(1, 12),
    cut=st.integers(0, 60),
)
def test_a_lane_can_be_entered_at_any_position(groups, lanes, buffer, cut):
    total = int(np.sum([sum(group) for group in groups]))
    if total < lanes:
        return
    lane = lane_of(groups, index=lanes - 1, lanes=lanes, buffer=buffer)
    end = 3 * lane.num_rows
    cut = min(cut, end)
    assert rows_of(lane, 0, end) == rows_of(lane, 0, cut) + rows_of(lane, cut, end)


FILES = [[2, 2]] * 6  # six files of two row groups of two rows


def files_of(lane: Lane, epoch: int, rows: int) -> list[int]:
    """The file of each row of an epoch."""
    return [source for source, _, _ in rows_of(lane, epoch * rows, (epoch + 1) * rows)]


def test_a_batch_of_files_is_read_to_its_end_before_the_next_one_is_begun():
    lane = lane_of(FILES, buffer=1, file_batch_size=2)
    begun, mixed = set(), False
    for epoch in range(20):
        files = files_of(lane, epoch, 24)
        assert [len(set(files[i : i + 8])) for i in (0, 8, 16)] == [2, 2, 2]
        begun.add(frozenset(files[:8]))
        mixed |= files[0] == files[7] != files[3]
    assert len(begun) > 3  # other files meet in every epoch
    assert mixed  # and their row groups come among each other


def test_a_batch_of_all_files_or_more_changes_nothing():
    expected = rows_of(lane_of(FILES), 0, 72)
    for size in (6, 7, 100):
        assert rows_of(lane_of(FILES, file_batch_size=size), 0, 72) == expected
    assert rows_of(lane_of(FILES, file_batch_size=5), 0, 72) != expected


def test_without_a_seed_a_batch_of_files_changes_nothing():
    lane = lane_of(FILES, seed=None, file_batch_size=2)
    assert rows_of(lane, 0, 24) == rows_of(lane_of(FILES, seed=None), 0, 24)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=7),
    lanes=st.integers(1, 4),
    size=st.integers(1, 8),
    epoch=st.integers(0, 3),
)
def test_with_any_batch_of_files_an_epoch_holds_each_row_once(groups, lanes, size, epoch):
    expected = [
        (f, g, r) for f, rows in enumerate(groups) for g, n in enumerate(rows) for r in range(n)
    ]
    if len(expected) < lanes:
        return
    parts = [lane_of(groups, index=i, lanes=lanes, file_batch_size=size) for i in range(lanes)]
    line = [r for p in parts for r in rows_of(p, epoch * p.num_rows, (epoch + 1) * p.num_rows)]
    assert sorted(line) == expected


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=9),
    size=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_at_any_place_no_more_files_are_begun_and_unfinished_than_a_batch_holds(groups, size, seed):
    total = sum(map(sum, groups))
    files = files_of(lane_of(groups, buffer=1, seed=seed, file_batch_size=size), 0, total)
    last = {file: i for i, file in enumerate(files)}
    for i in range(total):
        assert len({file for file in files[: i + 1] if last[file] > i}) <= size
