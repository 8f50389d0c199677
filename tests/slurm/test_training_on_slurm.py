"""Trainings as jobs of a real SLURM: on two nodes, as an array, preempted, out of time, failing."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from slurm_cluster import Cluster, wait_for
from test_resume import assert_same
from tiny import ENVIRONMENT, Tiny

from recap.tracking.mlflow import MlflowTracker

ON_TWO_NODES = ("hydra/launcher=slurm", "launcher.nodes=2", "launcher.partition=low")
# 75 row groups a rank: with SLOWLY longer than any test lets it run
LONG = ("training.num_train_steps=300", "training.checkpoint_every_n=150")
SLOWLY = "+train_data.preprocess.slowly={_target_: slowly.Slowly, seconds: 2, while_exists: %s}"


@dataclass(frozen=True)
class Training:
    """A job that trains, and has done a few steps."""

    job: str
    log: Path
    launcher: subprocess.Popen[str] | None = None  # that waits for it

    def said(self) -> str:
        """What rank 0 has printed."""
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, text: str) -> None:
        """Returns once rank 0 has printed the text."""
        wait_for(lambda: text in self.said(), f"{text!r} in {self.log}", seconds=180)

    def launcher_ended(self) -> int:
        """Its exit code."""
        assert self.launcher is not None
        return self.launcher.wait(timeout=180)


def slow(tiny: Tiny) -> str:
    """Makes a run slow as long as the file ``slowly`` is there."""
    (tiny.root / "slowly").touch()
    return SLOWLY % (tiny.root / "slowly")


@contextmanager
def launched(cluster: Cluster, tiny: Tiny, *overrides: str) -> Iterator[Training]:
    """``python -m recap.train hydra/launcher=slurm`` on two nodes, slowly."""
    with (tiny.root / "launcher.out").open("w") as said:
        launcher = subprocess.Popen(
            tiny.command(*ON_TWO_NODES, *LONG, slow(tiny), *overrides),
            env=environment(cluster),
            cwd=tiny.root,
            text=True,
            stdout=said,
            stderr=said,
        )
    try:
        job = wait_for(lambda: queued(tiny.root / "run"), "a job", seconds=180)
        log = tiny.root / f"run/jobs/0001/{job}_0_log.out"
        training = Training(job, log, launcher)
        training.wait_for("step 4/")
        yield training
    finally:
        launcher.kill()
        launcher.wait()


def submitted(cluster: Cluster, tiny: Tiny, *options: str) -> Training:
    """A batch script of one's own on two nodes, slowly."""
    command = tiny.command(*LONG, slow(tiny))
    script, log = tiny.root / "train.sh", tiny.root / "train.out"
    script.write_text(
        "\n".join(
            [
                "#!/bin/bash",
                *(f"#SBATCH {option}" for option in ("--nodes=2", "--ntasks-per-node=1", *options)),
                "export RECAP_SIGNAL_DELAY_S=0",  # less than any step and save take
                f"srun {shlex.join(command)}",
            ]
        )
    )
    options = ("--parsable", "--partition=low", "--open-mode=append", f"--output={log}")
    done = cluster.run("sbatch", *options, script, env=environment(cluster), cwd=tiny.root)
    training = Training(done.stdout.strip(), log)
    training.wait_for("step 4/")
    return training


def queued(run_dir: Path) -> str:
    """The id of the run's job; "" as long as it has none."""
    record = run_dir / "jobs/0001/submission.json"
    return json.loads(record.read_text())["jobs"][0]["id"] if record.exists() else ""


def environment(cluster: Cluster) -> dict[str, str]:
    """Of the launcher, and so of its jobs."""
    return {**ENVIRONMENT, **cluster.environment}


def trained(cluster: Cluster, tiny: Tiny, *overrides: str, run: str) -> subprocess.CompletedProcess:
    """The launcher, to its end."""
    command = tiny.command(*overrides, run=run)
    return cluster.run(*command, env=environment(cluster), cwd=tiny.root)


def assert_done_once(tiny: Tiny, run: str, steps: int) -> None:
    """Every step's loss is logged, by one rank and by one of the job's lives."""
    lines = (tiny.root / run / "logged.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [e["step"] for e in entries if e["name"] == "loss"] == list(range(1, steps + 1))


@pytest.fixture
def undisturbed(cluster: Cluster, tiny: Tiny) -> str:
    """A training on two nodes that nothing happens to."""
    settings = (*ON_TWO_NODES, *LONG, SLOWLY % (tiny.root / "nowhere"))
    ended = trained(cluster, tiny, *settings, run="undisturbed")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return "undisturbed"


def test_a_training_on_two_nodes_is_one_run_and_returns_after_a_preemption(
    cluster: Cluster, tiny: Tiny, undisturbed: str
):
    assert tiny.steps(undisturbed) == [150, 300]
    assert_done_once(tiny, undisturbed, 300)

    folder = tiny.root / "runs"
    mlflow = ("tracking=mlflow", f"tracking.folder={folder}", "tracking.system_metrics=false")
    tracker = MlflowTracker(folder=str(folder), system_metrics=False)
    tracker.open_sweep(tiny.root / "first")  # makes the database
    with launched(cluster, tiny, *mlflow) as training:
        run_id = (tiny.root / "run/mlflow_run_id").read_text()
        cluster.preempt()
        training.wait_for(f"job {training.job} is queued again, restart 1 of at most 100")
        (tiny.root / "slowly").unlink()
        assert training.launcher_ended() == 0
    assert "SIGUSR2: stopping after this step" in training.said()
    shown = cluster.shown(training.job)
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "1")
    assert_same(tiny.state(), tiny.state(undisturbed))

    assert (tiny.root / "run/mlflow_run_id").read_text() == run_id
    client = MlflowClient(tracker.store())
    history = client.get_metric_history(run_id.splitlines()[0], "loss")
    assert [metric.step for metric in history] == list(range(1, 301))
    assert client.get_run(run_id.splitlines()[0]).info.status == "FINISHED"


def test_a_job_over_its_time_limit_continues_by_itself(cluster: Cluster, tiny: Tiny):
    training = submitted(cluster, tiny, "--time=30", "--signal=USR2@60", "--requeue")
    # SLURM looks at time limits every 30 s, and then warns of all that is a minute ahead
    cluster.run("scontrol", "update", f"JobId={training.job}", "TimeLimit=2")
    training.wait_for(f"job {training.job} is queued again, restart 1")
    cluster.run("scontrol", "update", f"JobId={training.job}", "TimeLimit=30")
    (tiny.root / "slowly").unlink()
    wait_for(lambda: cluster.state(training.job) == "COMPLETED", "the last step", seconds=180)
    assert cluster.shown(training.job)["Restarts"] == "1"
    # the restart knows from the checkpoint how long the first life's step and save took
    warning = " take longer than the 0 s between the scheduler's signal and the end of the job"
    assert warning in training.said().split("continuing")[1].split(" tasks, ")[0]
    assert tiny.steps()[-1] == 300
    assert_done_once(tiny, "run", 300)


def test_scancel_leaves_a_checkpoint_and_nothing_in_the_queue(cluster: Cluster, tiny: Tiny):
    with launched(cluster, tiny) as training:
        cluster.run("scancel", training.job)
        training.wait_for(f"job {training.job} was cancelled, so it is not queued again")
        assert training.launcher_ended() == 1
    (last,) = tiny.steps()
    assert f"SIGTERM came; step {last} is saved" in training.said()
    shown = cluster.shown(training.job)
    assert (shown["JobState"], shown["Restarts"]) == ("CANCELLED", "0")
    assert "CANCELLED" in (tiny.root / "launcher.out").read_text()
    assert cluster.jobs() == []


def test_a_job_whose_rank_1_fails_has_failed(cluster: Cluster, tiny: Tiny):
    fails = "+train_data.preprocess.fails={_target_: slowly.FailsOnRank, rank: 1}"
    ended = trained(cluster, tiny, *ON_TWO_NODES, fails, run="run")
    assert ended.returncode == 1
    told = ended.stdout + ended.stderr
    assert "RuntimeError: rank 1 fails on purpose" in told
    jobs = tiny.root / "run/jobs/0001"
    (job,) = json.loads((jobs / "submission.json").read_text())["jobs"]
    assert cluster.state(job["id"]) == "FAILED"
    log = (jobs / f"{job['id']}_1_log.out").read_text()
    assert "Traceback" in log
    assert "RuntimeError: rank 1 fails on purpose" in log
    assert f"{job['id']}_1_log.out" in told


def test_a_sweep_is_an_array(cluster: Cluster, tiny: Tiny):
    sweep = ["-m", "hydra/launcher=slurm", f"hydra.sweep.dir={tiny.root / 'sweep'}"]
    points = ["optimizer=adam,sgd", "training.seed=0,1"]
    own = [override for override in tiny.overrides() if "save_dir" not in override]
    program = tiny.command()[: -len(tiny.overrides())]
    command = [*program, *sweep, *points, *own]
    ended = cluster.run(*command, env=environment(cluster), cwd=tiny.root)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (record,) = (tiny.root / "sweep/jobs").glob("*/submission.json")
    jobs = json.loads(record.read_text())["jobs"]
    array = jobs[0]["id"].split("_")[0]
    assert [job["id"] for job in jobs] == [f"{array}_{task}" for task in range(4)]
    assert len({job["run_dir"] for job in jobs}) == 4
    for job in jobs:
        assert cluster.state(job["id"]) == "COMPLETED"
        assert tiny.steps(job["run_dir"]) == [6]
