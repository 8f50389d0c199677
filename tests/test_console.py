import io
import logging
import math

import pytest

from recap.console import Progress, metrics_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass only when a test lets them."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_without_a_terminal_each_report_is_one_line(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Progress(10, stream=io.StringIO(), clock=clock) as progress:
        for _ in range(4):
            progress.advance(num_examples=500)
        clock.now += 2.0
        assert progress.report(loss=0.25) == 1000.0
    # Four of ten steps took two seconds, so six take three.
    assert caplog.messages == ["step 4/10: loss 0.25000, 1,000 examples/s, 00:03 left"]


def test_time_left_of_a_resumed_run_counts_its_own_steps_only(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Progress(100, first_step=90, stream=io.StringIO(), clock=clock) as progress:
        progress.advance(num_examples=1)
        clock.now += 10.0
        progress.report(loss=1.0)
    assert caplog.messages == ["step 91/100: loss 1.00000, 0 examples/s, 01:30 left"]


def test_time_spent_aside_does_not_lower_the_speed(clock: Clock) -> None:
    with Progress(10, stream=io.StringIO(), clock=clock) as progress:
        progress.advance(num_examples=300)
        clock.now += 3.0
        with progress.aside():
            clock.now += 60.0
        assert progress.report(loss=0.0) == 100.0
        progress.advance(num_examples=300)
        clock.now += 6.0
        assert progress.report(loss=0.0) == 50.0


def test_a_terminal_gets_a_bar_and_no_log_lines(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    terminal = Terminal()
    with Progress(4, first_step=1, stream=terminal, clock=clock) as progress:
        progress.advance(num_examples=128)
        clock.now += 0.5
        progress.report(loss=0.125)
    assert "2/4 |" in terminal.getvalue()
    assert "loss 0.12500, 256 examples/s" in terminal.getvalue()
    assert "left]" in terminal.getvalue()
    assert caplog.messages == []


def test_the_table_has_a_block_per_partition_and_aligned_columns() -> None:
    table = metrics_table(
        {
            "validation": {
                "click": {"auroc": 0.73, "log_loss": 0.5, "examples": 120000},
                "like": {"auroc": math.nan, "examples": 7},
            },
            "train": {"click": {"auroc": 0.75, "log_loss": 0.0004, "examples": 12}},
        }
    )
    assert table.splitlines() == [
        "validation   auroc   log_loss  examples",
        "click       0.7300     0.5000   120,000",
        "like           nan          –         7",
        "",
        "train        auroc   log_loss  examples",
        "click       0.7500  4.000e-04        12",
    ]


def test_long_task_names_lose_their_middle_so_that_lines_fit_100_columns() -> None:
    metrics = dict.fromkeys(["auroc", "log_loss", "rce", "nrce", "calibration", "ctr"], 12.5)
    task = "is_good_clicked_convo_desc_favorited_or_replied_v2"
    metrics |= {"examples": 1_000_000}
    table = metrics_table({"validation": {task: metrics, "is_replied": metrics}})
    assert max(map(len, table.splitlines())) <= 100
    assert "is_good_clic" in table
    assert "replied_v2 " in table


def test_task_names_that_would_read_alike_stay_whole() -> None:
    metrics = {f"metric_{i:02}": 0.5 for i in range(12)}
    tasks = [f"is_good_clicked_conversation_{x}_with_favorite_or_reply" for x in "ab"]
    table = metrics_table({"validation": dict.fromkeys(tasks, metrics)})
    assert all(task in table for task in tasks)


def test_a_table_of_nothing_is_empty() -> None:
    assert metrics_table({}) == ""
