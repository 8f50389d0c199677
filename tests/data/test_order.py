"""The order of rows: every row once an epoch, and the row at any position found at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recap.data.order import Lane

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
) -> Lane:
    return Lane(row_groups, index=index, lanes=lanes, buffer=buffer, seed=seed)


def test_without_a_seed_rows_come_as_they_lie_in_the_files():
    lane = lane_of([[2, 1], [2]], seed=None)
    assert rows_of(lane, 0, 5) == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1)]


def test_every_epoch_holds_each_row_once_and_in_another_order():
    lane = lane_of(ROW_GROUPS)
    first, second = rows_of(lane, 0, 12), rows_of(lane, 12, 24)
    assert sorted(first) == sorted(second) == sorted(rows_of(lane_of(ROW_GROUPS, seed=None), 0, 12))
    assert first != second


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
