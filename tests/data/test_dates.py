"""Files named by days and hours up to a date: real folders, the end among them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recap.data.dates import ExplicitDateInputs, ExplicitDatetimeInputs, day_of, hour_of
from recap.data.files import DataError


def folders_with_files(root: Path, folders: Sequence[str], *names: str) -> Path:
    """An empty file of each name in every folder."""
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for name in names or ("part-0.parquet",):
            (root / folder / name).touch()
    return root


def days(root: object, end: str | int = "2023-03-01", count: int = 3, tolerated: int = 0):
    return ExplicitDateInputs(
        data_root=str(root), end_date=end, days=count, num_missing_days_tol=tolerated
    )


def hours(root: object, end: str | int = "2023-03-01T01", count: int = 3, tolerated: int = 0):
    return ExplicitDatetimeInputs(
        data_root=str(root), end_datetime=end, hours=count, num_missing_hours_tol=tolerated
    )


def test_the_last_day_that_is_read_is_the_end_itself():
    assert days("x").folders() == ["2023/02/27", "2023/02/28", "2023/03/01"]
    assert days("x", "2024-03-01").folders() == ["2024/02/28", "2024/02/29", "2024/03/01"]
    assert days("x", count=1).folders() == ["2023/03/01"]


def test_the_last_hour_that_is_read_is_the_end_itself():
    assert hours("x").folders() == ["2023/02/28/23", "2023/03/01/00", "2023/03/01/01"]
    assert hours("x", count=1).folders() == ["2023/03/01/01"]


@settings(max_examples=50, deadline=None)
@given(end=st.datetimes(datetime(1000, 1, 1)), count=st.integers(1, 400))
def test_days_and_hours_are_all_up_to_the_end_in_order_and_none_twice(end: datetime, count: int):
    expected = [f"{end - timedelta(days=i):%Y/%m/%d}" for i in reversed(range(count))]
    assert days("x", f"{end:%Y-%m-%d}", count).folders() == expected
    expected = [f"{end - timedelta(hours=i):%Y/%m/%d/%H}" for i in reversed(range(count))]
    assert hours("x", f"{end:%Y-%m-%dT%H}", count).folders() == expected


@settings(max_examples=50, deadline=None)
@given(moment=st.datetimes(datetime(1000, 1, 1)))
def test_every_way_to_write_a_moment_means_the_same(moment: datetime):
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    hour = moment.replace(minute=0, second=0, microsecond=0)
    for form in ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d"):
        assert day_of(f"{moment:{form}}") == day
        for rest in ("T%H", " %H:00", "T%H:00:00", "/%H", "%H", "T%H00"):
            assert hour_of(f"{moment:{form}{rest}}") == hour
    assert day_of(int(f"{moment:%Y%m%d}")) == day
    assert hour_of(int(f"{moment:%Y%m%d%H}")) == hour


@pytest.mark.parametrize(
    "text", ["2023-02-29", "2023-1-31", "31.01.2023", "2023-0131", "2023-01-31T05", ""]
)
def test_what_is_no_day_is_refused(text: str):
    with pytest.raises(ValueError, match=rf"^end_date={text}: "):
        days("x", text)


@pytest.mark.parametrize(
    "text", ["2023-01-31", "2023-01-31T24", "2023-01-31T05:30", "2023-01-31T05:00Z"]
)
def test_what_is_no_whole_hour_is_refused(text: str):
    with pytest.raises(ValueError, match=rf"^end_datetime={text}: "):
        hours("x", text)


def test_all_that_is_wrong_with_days_is_told_at_once():
    with pytest.raises(ValueError, match="days=0 must be 1 or more") as error:
        days("x", "tomorrow", 0, -1)
    assert str(error.value).splitlines()[1:] == [
        "num_missing_days_tol=-1 must be 0 or more",
        "end_date=tomorrow: write a day as 2023-01-31",
    ]
    with pytest.raises(ValueError, match="hours=-2 must be 1 or more\nnum_missing_hours_tol=-1"):
        hours("x", count=-2, tolerated=-1)
    with pytest.raises(ValueError, match="800000 of them reach back before the year 1"):
        days("x", count=800_000)


def test_the_parquet_files_of_the_days_come_by_day_and_name(tmp_path: Path):
    every = ["2023/02/26", "2023/02/27", "2023/02/28", "2023/03/01", "2023/03/02"]
    folders_with_files(tmp_path, every, "b.parquet", "a.parquet", "_SUCCESS")
    (tmp_path / "2023/03/01/05").mkdir()  # an hour's folder is not the day's
    (tmp_path / "2023/03/01/05/c.parquet").touch()
    expected = [
        f"{tmp_path}/{day}/{name}.parquet"
        for day in ("2023/02/27", "2023/02/28", "2023/03/01")
        for name in "ab"
    ]
    assert [path for _, path in days(tmp_path).files()] == expected
    assert [path for _, path in days(f"file://{tmp_path}").files()] == expected
    assert [path for _, path in days(f"{tmp_path}/").files()] == expected


def test_wildcards_in_a_root_are_letters(tmp_path: Path):
    folders_with_files(tmp_path / "[a]*", ["2023/03/01"])
    assert len(days(tmp_path / "[a]*", count=1).files()) == 1


def test_more_missing_days_than_tolerated_are_refused_with_their_names(tmp_path: Path):
    folders_with_files(tmp_path, ["2023/02/26", "2023/02/28"])
    folders_with_files(tmp_path, ["2023/03/01"], "_SUCCESS")  # a folder without data
    with pytest.raises(DataError) as error:
        days(tmp_path, count=4, tolerated=1).files()
    assert str(error.value) == (
        f"2 of 4 days have no *.parquet below {tmp_path}: 2023/02/27, 2023/03/01; "
        "num_missing_days_tol=1 allows fewer"
    )


def test_missing_days_within_the_tolerance_are_logged_with_their_names(tmp_path: Path, caplog):
    folders_with_files(tmp_path, ["2023/02/27", "2023/03/01"])
    with caplog.at_level(logging.WARNING):
        assert len(days(tmp_path, tolerated=1).files()) == 2
    (message,) = caplog.messages
    assert message.startswith(f"1 of 3 days have no *.parquet below {tmp_path}: 2023/02/28; ")


def test_hours_have_their_own_tolerance(tmp_path: Path, caplog):
    folders_with_files(tmp_path, ["2023/02/28/23", "2023/03/01/01"])
    with pytest.raises(DataError, match=r"1 of 3 hours .*: 2023/03/01/00; num_missing_hours_tol=0"):
        hours(tmp_path).files()
    with caplog.at_level(logging.WARNING):
        assert len(hours(tmp_path, tolerated=1).files()) == 2
    assert "2023/03/01/00" in caplog.text


def test_days_that_are_all_missing_are_refused_whatever_is_tolerated(tmp_path: Path):
    with pytest.raises(DataError, match=r"2023/02/28, 2023/03/01; not one is there"):
        days(tmp_path, count=2, tolerated=9).files()


def test_a_root_that_is_not_there_is_refused_by_itself(tmp_path: Path):
    with pytest.raises(DataError, match=r"^data_root=.*/nowhere: no such folder$"):
        days(tmp_path / "nowhere").files()
