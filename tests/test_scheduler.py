"""What a process says of its SLURM job; tests/slurm has the questions that SLURM answers."""

from __future__ import annotations

import signal

import pytest

from recap import scheduler
from recap.scheduler import Job


def test_outside_slurm_there_is_no_job():
    assert scheduler.job({}) is None


def test_a_job_is_called_by_its_number():
    assert scheduler.job({"SLURM_JOB_ID": "12"}) == Job("12")


def test_a_task_of_an_array_is_not_called_by_a_number_that_the_array_has_too():
    environment = {
        "SLURM_JOB_ID": "12",
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_RESTART_COUNT": "2",
        "RECAP_REQUEUE": "5",
        "RECAP_SIGNAL_DELAY_S": "90",
    }
    job = scheduler.job(environment)
    assert job == Job("12_3", restarts=2, requeues=5, delay_s=90)
    assert Job("12", delay_s=90).signal_delay_s() == 90


def test_a_setting_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"RECAP_REQUEUE=-1: must be a whole number, 0 or more"):
        scheduler.job({"SLURM_JOB_ID": "12", "RECAP_REQUEUE": "-1"})


def test_where_scontrol_is_missing_the_job_is_not_queued_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    fate = Job("12").after(signal.SIGUSR2)
    assert not fate.returns
    assert "job 12 cannot be queued again: scontrol --oneliner show job 12:" in fate.why
    assert Job("12").signal_delay_s() is None
