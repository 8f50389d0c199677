"""Signals that ask a process to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from tiny import ENVIRONMENT

from recap.signals import STOPS, hold_warnings, stop_signals


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
def test_each_of_them_asks_to_stop(number: signal.Signals):
    with stop_signals() as came:
        os.kill(os.getpid(), number)
        assert came == [number]


def test_what_came_before_the_run_listens_is_not_lost():
    with stop_signals(patient=True) as early:
        os.kill(os.getpid(), signal.SIGUSR2)
        with stop_signals() as came:
            assert came is early
            assert came == [signal.SIGUSR2]
        os.kill(os.getpid(), signal.SIGTERM)  # still heard: the inner one ended nothing
        assert early == [signal.SIGUSR2, signal.SIGTERM]


def test_a_warning_that_comes_before_anyone_listens_is_held():
    before = [signal.getsignal(number) for number in STOPS]
    try:
        hold_warnings()
        os.kill(os.getpid(), signal.SIGUSR2)
        with stop_signals() as came:
            assert came == [signal.SIGUSR2]
        with stop_signals() as came:
            assert came == []
    finally:
        for number, handler in zip(STOPS, before, strict=True):
            signal.signal(number, handler)


def test_ctrl_c_ends_at_once_the_second_time_under_a_scheduler_too():
    with stop_signals(patient=True) as came:
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGINT)
        assert came == [signal.SIGUSR2, signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_scheduler_may_send_a_signal_more_than_once():
    with stop_signals(patient=True) as came:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM] * 3


def test_afterwards_signals_have_their_usual_effect():
    before = [signal.getsignal(number) for number in STOPS]
    with stop_signals(patient=True):
        pass
    assert [signal.getsignal(number) for number in STOPS] == before


@pytest.mark.parametrize(("last", "code"), [("hold", -signal.SIGUSR2), ("ignore", 0)])
def test_a_warning_behind_pythons_end_kills_only_where_it_is_not_ignored(last: str, code: int):
    # as at its end, a process that becomes another one loses all handlers of Python
    ended = f"""
import os
from recap.signals import hold_warnings, ignore_warnings
hold_warnings()
{last}_warnings()
os.execv("/bin/sh", ["sh", "-c", "kill -USR2 $$; exit 0"])
"""
    assert subprocess.run([sys.executable, "-c", ended], env=ENVIRONMENT).returncode == code
