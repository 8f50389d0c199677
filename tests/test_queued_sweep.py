"""Sweeps through a launcher: who waits may leave, and the last job closes the sweep's run."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from queued_command import jobs
from queues import end_queues
from sweeping import recorded, sweeping, swept
from test_local_queue import wait_for
from tiny import ENVIRONMENT, Tiny

import recap
from recap.tracking.provenance import checkout

POINTS = (
    *("tracking=mlflow", "tracking.folder=runs", "tracking.system_metrics=false"),
    *("hydra/launcher=submitit_local", "launcher.array_parallelism=1", "launcher.gpus=[]"),
    "training.num_train_steps=2",
)
SLOWLY = "+train_data.preprocess.slowly={_target_: slowly.Slowly, seconds: 5, while_exists: %s}"


@pytest.fixture
def queued(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tiny]:
    """The tiny experiment, with devices and queues of its own, which end with the test."""
    (tiny.root / "tmp").mkdir()
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(tiny.root / "tmp"))
    yield tiny
    end_queues(tiny.root)


def slow(tiny: Tiny) -> str:
    """Makes runs slow as long as the file ``slowly`` is there."""
    (tiny.root / "slowly").touch()
    return SLOWLY % (tiny.root / "slowly")


def until(process: subprocess.Popen[str], text: str) -> str:
    """What a process prints up to the line that holds the text."""
    assert process.stdout is not None
    printed = ""
    while text not in printed:
        line = process.stdout.readline()
        assert line, printed
        printed += line
    return printed


def open_points(tiny: Tiny) -> Path:
    return tiny.root / "sweep" / "points.json"


def test_the_jobs_of_a_sweep_go_on_after_ctrl_c_and_the_same_command_waits_for_them(queued: Tiny):
    points = (*POINTS, "training.objective=valid/mean/auroc", "training.seed=-1,0,1", slow(queued))
    refused = "not queued:\ntraining.seed=-1 must be 0 or more (training.seed=-1)\n"
    with sweeping(queued, *points) as first:
        begun = until(first, "runs on this machine")
        first.send_signal(signal.SIGINT)
        assert first.stdout is not None
        rest = first.stdout.read()
    assert first.returncode == 128 + signal.SIGINT, rest
    assert refused in begun  # before anything is queued, and the others are
    assert "The jobs go on; the same command waits for them again.\n" in rest
    assert "follow: python -m recap.jobs follow L" in rest
    assert "cancel: python -m recap.jobs cancel L" in rest
    parent, children = recorded(queued.root, "sweep")
    assert parent.info.status == "RUNNING"
    assert children["training.seed=-1"].info.status == "FAILED"

    with sweeping(queued, *points) as again:
        until(again, "queued before:")
        (queued.root / "slowly").unlink()
        rest = again.communicate(timeout=300)[0]
    assert again.returncode == 1, rest
    assert len(list((queued.root / "sweep/jobs").iterdir())) == 1  # nothing is queued twice
    assert "did not end well" not in rest  # the table tells it
    assert rest.count("    training.seed=-1 must be 0 or more\n") == 1
    parent, children = recorded(queued.root, "sweep")
    assert parent.info.status == "FAILED"
    tags = parent.data.tags
    counts = tuple(tags[f"points.{name}"] for name in ("failed", "finished", "not_ended"))
    assert counts == ("1", "2", "0")
    assert parent.data.tags["best.overrides"] in ("training.seed=0", "training.seed=1")
    assert not open_points(queued).exists()


def test_the_last_job_of_a_sweep_that_nobody_waits_for_closes_it(queued: Tiny):
    points = (*POINTS, "launcher.detach=true", "launcher.snapshot=true", "training.seed=0,1")
    with sweeping(queued, *points, slow(queued)) as detached:
        printed = detached.communicate(timeout=300)[0]
    assert detached.returncode == 0, printed
    parent, _ = recorded(queued.root, "sweep")
    assert parent.info.status == "RUNNING"
    (queued.root / "slowly").unlink()
    wait_for(lambda: not open_points(queued).exists(), "the end of the sweep", seconds=180)
    wait_for(lambda: recorded(queued.root, "sweep")[0].info.status == "FINISHED", "its record")
    parent, children = recorded(queued.root, "sweep")
    assert parent.data.tags["points.finished"] == "2"
    # jobs run from a copy of the code, which is no checkout
    commit = checkout(Path(recap.__file__).parent).get("git.commit")
    assert {child.data.tags.get("git.commit") for child in children.values()} == {commit}


def test_a_sweep_whose_jobs_were_cancelled_is_closed_by_who_lists_them(queued: Tiny):
    points = (*POINTS, "launcher.detach=true", "training.seed=0,1", slow(queued))
    for _ in range(2):  # what is in the queue is not queued again
        with sweeping(queued, *points) as detached:
            printed = detached.communicate(timeout=300)[0]
        assert detached.returncode == 0, printed
    [submission] = (queued.root / "sweep/jobs").iterdir()
    parent, _ = recorded(queued.root, "sweep")
    assert parent.info.status == "RUNNING"
    told = json.loads((submission / "submission.json").read_text())
    first = told["jobs"][0]["id"]
    log = submission / f"{first}_0_log.out"
    wait_for(lambda: log.exists() and "step" in log.read_text(), "the first to train", seconds=180)
    jobs("cancel", first.split("_")[0], "--runs", "sweep", cwd=queued.root)

    def listed() -> str:
        return jobs("list", "--runs", "sweep", cwd=queued.root).stdout

    closed = "sweep: all jobs are over; the sweep is recorded as FAILED\n"
    wait_for(lambda: closed in listed(), "its record", seconds=180)
    parent, _ = recorded(queued.root, "sweep")
    assert parent.info.status == "FAILED"
    assert parent.data.tags["points.finished"] == "0"
    assert int(parent.data.tags["points.stopped"]) + int(parent.data.tags["points.failed"]) == 2


def test_a_preview_of_a_sweep_leaves_nothing_behind(
    queued: Tiny, capsys: pytest.CaptureFixture[str]
):
    before = sorted(queued.root.rglob("*"))
    assert swept(queued, *POINTS, "training.seed=0,1", "--preview") == 0
    assert f"  {queued.root}/sweep/training.seed=1\n" in capsys.readouterr().out
    assert sorted(queued.root.rglob("*")) == before
