"""``hydra/launcher=slurm`` on a real SLURM."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from queued_command import HERE, jobs, queue
from slurm_cluster import Cluster, wait_for

from recap.launcher.submission import submissions

SLURM = ("hydra/launcher=slurm", "launcher.time_min=5")


def test_a_point_whose_second_rank_fails_is_failed_for_slurm_and_for_the_command(
    cluster: Cluster, tmp_path: Path
):
    done = queue(
        *("-m", *SLURM, "ends={1:raise},null", "launcher.nodes=2", "launcher.cpus_per_task=2"),
        cwd=tmp_path,
    )
    [submission] = submissions(tmp_path)
    failed, well = submission.jobs
    array = failed.id.removesuffix("_0")
    assert well.id == f"{array}_1"
    assert done.returncode == 1, done.stderr
    assert (cluster.state(failed.id), cluster.state(well.id)) == ("FAILED", "COMPLETED")
    assert done.stdout.endswith(
        "1 of 2 jobs did not end well:\n"
        f"{tmp_path}/sweep/0: job {failed.id} FAILED, {submission.log_file(failed.id, 1)}\n"
        "  ArithmeticError: rank 1 cannot go on\n"  # rank 0 would have waited for ever
    )
    said = submission.log_file(failed.id, 1).read_text()
    assert "ArithmeticError: rank 1 cannot go on" in said
    assert "Traceback (most recent call last)" in said
    assert "'OMP_NUM_THREADS': '2'" in said


def test_a_job_runs_on_the_config_that_it_was_queued_with_and_is_cancelled(
    cluster: Cluster, tmp_path: Path
):
    conf = tmp_path / "conf"
    conf.mkdir()
    shutil.copy(HERE / "conf/queued.yaml", conf)
    done = queue(
        *SLURM, "+launcher.sbatch.hold=true", "launcher.detach=true", cwd=tmp_path, conf=conf
    )
    assert done.returncode == 0, done.stderr
    [submission] = submissions(tmp_path)
    [job] = submission.jobs
    assert done.stdout.startswith(
        f"job {job.id}: {tmp_path}/runs/queued_command\n  log: {submission.log_file(job.id, 0)}\n"
    )
    shown = cluster.shown(job.id)
    assert (shown["JobState"], shown["TimeLimit"], shown["Requeue"]) == ("PENDING", "00:05:00", "1")
    (conf / "queued.yaml").write_text((conf / "queued.yaml").read_text().replace("hello", "bye"))
    cluster.run("scontrol", "release", job.id)
    wait_for(lambda: cluster.state(job.id) == "COMPLETED", "the job to end", seconds=60)
    assert "rank 0 says hello" in submission.log_file(job.id, 0).read_text()

    queue(*SLURM, "wait_for=never", "launcher.detach=true", cwd=tmp_path)
    [_, waiting] = submissions(tmp_path)
    [job] = waiting.jobs
    wait_for(lambda: cluster.state(job.id) == "RUNNING", "the next one to run", seconds=60)
    table = jobs("list", cwd=tmp_path).stdout
    assert f"{job.id} " in table
    assert "RUNNING (n1)" in table
    assert jobs("cancel", job.id, cwd=tmp_path).stdout == f"{job.id}: cancelled\n"
    followed = jobs("follow", job.id, cwd=tmp_path)
    assert followed.returncode == 1
    assert f"job {job.id}: CANCELLED" in followed.stderr


def test_what_slurm_refuses_is_told_and_nothing_is_left(cluster: Cluster, tmp_path: Path):
    done = queue(*SLURM, "launcher.partition=nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert "sbatch refused: " in done.stderr
    assert "invalid partition" in done.stderr
    assert not list(tmp_path.rglob("submission.json"))


def test_without_slurm_the_launcher_says_what_else_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = queue(*SLURM, cwd=tmp_path)
    assert done.returncode == 1
    assert "hydra/launcher=slurm: there is no sbatch on this machine" in done.stderr
    assert not list(tmp_path.rglob("submission.json"))
