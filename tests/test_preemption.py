"""A training under a scheduler, as far as no scheduler is needed; the rest is in tests/slurm."""

from __future__ import annotations

import signal

import pytest

from recap.compose import Refused
from recap.distributed import ALONE
from recap.run.preemption import preemptible
from recap.signals import STOPS, Stopped


@pytest.fixture
def job_that_slurm_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("RECAP_SIGNAL_DELAY_S", "30")


def test_outside_slurm_nothing_is_different(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    usual = [signal.getsignal(number) for number in STOPS]
    with preemptible(ALONE):
        assert [signal.getsignal(number) for number in STOPS] == usual
    with pytest.raises(Stopped) as stopped, preemptible(ALONE):
        raise Stopped(signal.SIGUSR2, 3)
    assert stopped.value.exit_code == 128 + signal.SIGUSR2


@pytest.mark.usefixtures("job_that_slurm_does_not_know")
def test_a_job_that_cannot_be_queued_again_ends_with_the_signals_exit_code():
    with pytest.raises(Stopped) as stopped, preemptible(ALONE):
        raise Stopped(signal.SIGUSR2, 3)
    assert stopped.value.exit_code == 128 + signal.SIGUSR2


@pytest.mark.usefixtures("job_that_slurm_does_not_know")
def test_the_jobs_notice_is_what_steps_and_saves_are_compared_with(
    caplog: pytest.LogCaptureFixture,
):
    with preemptible(ALONE) as margin:
        margin.saved(31)
    assert "longer than the 30 s between the scheduler's signal" in caplog.text


@pytest.mark.usefixtures("job_that_slurm_does_not_know")
def test_an_environment_that_cannot_be_meant_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RECAP_REQUEUE", "often")
    with pytest.raises(Refused, match="RECAP_REQUEUE=often: must be a whole number, 0 or more"):
        preemptible(ALONE).__enter__()
