"""The scheduler's own word on its jobs: which signal asks for what, and who is queued again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster, wait_for

ROOT = Path(__file__).resolve().parents[2]

# what a rank of a training does: leaves some time after the signal, as if it had saved
LEAVES = """
import os, signal, sys, time
from recap import scheduler
from recap.signals import stop_signals

job = scheduler.job()
with stop_signals(patient=True) as came:
    print("started", job, job.signal_delay_s(), flush=True)
    deadline = time.monotonic() + 100
    while not came and time.monotonic() < deadline and not job.restarts:
        time.sleep(0.05)
    if not came:
        sys.exit(3 if not job.restarts else 0)
    time.sleep(1)
    fate = scheduler.Fate(True, "") if int(os.environ["SLURM_PROCID"]) else job.after(came[0])
    print(came[0].name, fate, flush=True)
    time.sleep(1)
    sys.exit(0 if fate.returns else 128 + came[0])
"""


def submitted(
    cluster: Cluster, folder: Path, *options: str, nodes: int = 1, warned: bool = True
) -> tuple[str, Path]:
    """A job of one rank a node, and its log; it has started."""
    (folder / "leaves.py").write_text(LEAVES)
    script, log = folder / "job.sh", folder / "log"
    notice = "#SBATCH --signal=USR2@7\n" if warned else ""
    script.write_text(f"#!/bin/bash\n{notice}srun {sys.executable} {folder}/leaves.py\n")
    queued = cluster.run(
        *("sbatch", "--parsable", f"--nodes={nodes}", "--ntasks-per-node=1"),
        *("--open-mode=append", f"--output={log}", *options, script),
        env={"PYTHONPATH": str(ROOT)},
    )
    assert queued.returncode == 0, queued.stderr
    said(log, "started", times=nodes)
    return queued.stdout.strip(), log


def said(log: Path, text: str, *, times: int = 1) -> str:
    """The log, once it holds the text so many times."""

    def read() -> str:
        found = log.read_text() if log.exists() else ""
        return found if found.count(text) >= times else ""

    return wait_for(read, f"{text!r} in the log", seconds=60)


def ended(cluster: Cluster, job: str, *states: str) -> dict[str, str]:
    """What SLURM says of the job, once it is in one of the states."""
    wait_for(lambda: cluster.state(job) in states, f"job {job} to be {states}", seconds=60)
    return cluster.shown(job)


def test_a_preempted_job_returns_and_is_told_in_time(cluster: Cluster, tmp_path: Path):
    job, log = submitted(cluster, tmp_path, nodes=2)
    facts = f"name='{job}', restarts=0, requeues=None, delay_s=None"
    assert f"started Job({facts}) 7.0" in log.read_text()
    cluster.preempt()
    assert f"SIGUSR2 Fate(returns=True, why='job {job} is queued again, restart 1')" in (
        said(log, "job " + job)
    )
    assert ended(cluster, job, "COMPLETED")["Restarts"] == "1"
    assert "restarts=1" in log.read_text()


def test_a_job_that_is_preempted_without_a_warning_of_its_own_returns_too(
    cluster: Cluster, tmp_path: Path
):
    job, log = submitted(cluster, tmp_path, warned=False)
    cluster.preempt()
    assert "SIGTERM Fate(returns=True" in said(log, "job " + job)
    ended(cluster, job, "COMPLETED")


def test_scancel_leaves_time_to_save_and_nothing_returns(cluster: Cluster, tmp_path: Path):
    job, log = submitted(cluster, tmp_path, nodes=2)
    cluster.run("scancel", job)
    assert (
        f"SIGTERM Fate(returns=False, why='job {job} was cancelled, so it is not queued again')"
    ) in said(log, "job " + job)
    assert ended(cluster, job, "CANCELLED")["Restarts"] == "0"
    assert cluster.jobs() == []


def test_a_task_of_an_array_returns_alone(cluster: Cluster, tmp_path: Path):
    array, log = submitted(cluster, tmp_path, "--array=0-1")
    said(log, "started", times=2)
    cluster.run("scancel", "--signal=USR2", f"{array}_1")
    assert f"'job {array}_1 is queued again, restart 1'" in said(log, "queued again")
    ended(cluster, f"{array}_1", "COMPLETED")
    assert cluster.state(f"{array}_0") == "RUNNING"
    assert cluster.shown(f"{array}_0")["Restarts"] == "0"


@pytest.mark.parametrize(
    ("option", "limit", "why"),
    [
        ("--no-requeue", None, "it was submitted with --no-requeue; submit it with --requeue"),
        ("--requeue", "0", "it was restarted 0 times, and launcher.requeue=0 allows no more"),
    ],
)
def test_a_job_that_must_not_return_does_not(
    cluster: Cluster, tmp_path: Path, option: str, limit: str | None, why: str
):
    exported = f"--export=ALL,RECAP_REQUEUE={limit}" if limit else "--export=ALL"
    job, log = submitted(cluster, tmp_path, option, exported)
    cluster.run("scancel", "--signal=USR2", job)
    assert f"job {job} is not queued again: {why}" in said(log, "job " + job)
    assert ended(cluster, job, "FAILED")["ExitCode"] == "140:0"


def test_a_signal_from_elsewhere_ends_the_job_for_good(cluster: Cluster, tmp_path: Path):
    job, log = submitted(cluster, tmp_path)
    cluster.run("scancel", "--signal=TERM", job)
    assert f"SIGTERM came from no scheduler, so job {job} is not queued again" in (
        said(log, "job " + job)
    )
    assert ended(cluster, job, "FAILED")["ExitCode"] == "143:0"
