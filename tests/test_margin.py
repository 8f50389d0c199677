"""The time that a job has between its scheduler's signal and its end."""

from __future__ import annotations

import pytest

from recap.run.margin import Margin


def test_a_notice_that_is_too_short_is_told_as_soon_as_a_save_was_measured(
    caplog: pytest.LogCaptureFixture,
):
    margin = Margin(10)
    margin.stepped(4)
    margin.stepped(3)
    assert not caplog.messages
    margin.saved(7.5)
    assert margin.needed_s == 19
    (message,) = caplog.messages
    assert message.startswith(
        "a step of 4.0 s and two saves of 7.5 s (one may be on its way) take longer than the 10 s "
        "between the scheduler's signal and the end of the job"
    )
    assert message.endswith("raise launcher.signal_delay_s (--signal=USR2@SECONDS) above 19")


def test_a_continued_run_is_warned_at_its_start(caplog: pytest.LogCaptureFixture):
    Margin(10).recall(longest_step_s=4, save_s=7)
    assert len(caplog.messages) == 1


def test_the_warning_comes_again_only_when_the_time_has_doubled(
    caplog: pytest.LogCaptureFixture,
):
    margin = Margin(10)
    margin.stepped(1)
    margin.saved(11)
    margin.saved(12)
    margin.saved(22)
    assert len(caplog.messages) == 1
    margin.saved(23)
    assert len(caplog.messages) == 2


def test_a_notice_that_suffices_is_not_told(caplog: pytest.LogCaptureFixture):
    Margin(10).recall(longest_step_s=2, save_s=4)
    Margin(None).recall(longest_step_s=2, save_s=800)
    assert not caplog.messages
