"""``hydra/launcher=submitit_local`` and ``python -m recap.jobs``, with real processes."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from queued_command import HERE, environment, jobs, queue, start
from queues import end_queues

from recap.launcher.states import states
from recap.launcher.submission import Submission, submissions

LOCAL = "hydra/launcher=submitit_local"
Found = TypeVar("Found")


def wait_for(condition: Callable[[], Found], what: str, seconds: float = 60) -> Found:
    """What ``condition`` says as soon as it says anything."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)
    return value


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose queues end with the test, and their jobs with them."""
    yield tmp_path
    end_queues(tmp_path)


def submitted(folder: Path) -> Submission:
    [submission] = submissions(folder)
    return submission


def state_names(submission: Submission) -> list[str]:
    found = states(submission)
    return [found[job.id].name for job in submission.jobs]


def log(submission: Submission, job: int = 0, rank: int = 0) -> str:
    return submission.log_file(submission.jobs[job].id, rank).read_text()


def test_jobs_take_free_gpus_in_turn_and_share_the_cores(folder: Path):
    done = queue(
        *("-m", LOCAL, "say=a,b,c", "wait_for=go", "launcher.detach=true"),
        *("launcher.gpus=[3,5]", "launcher.cpus=4"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    submission = submitted(folder)
    ids = [job.id for job in submission.jobs]
    for index, job_id in enumerate(ids):
        assert f"job {job_id}: {folder}/sweep/{index}\n" in done.stdout
        assert f"log: {submission.log_file(job_id, 0)}\n" in done.stdout
    running = ["RUNNING", "RUNNING", "PENDING"]
    wait_for(lambda: state_names(submission) == running, "two jobs on two GPUs")
    wait_for(lambda: "says" in log(submission) + log(submission, 1), "what they say")

    again = queue("-m", LOCAL, "say=a,b,c", "wait_for=go", "--preview", cwd=folder)
    assert again.stdout == "nothing to submit\n"  # all three are in the queue

    table = jobs("list", "--runs", "sweep", cwd=folder)
    assert re.search(rf"{ids[0]} +RUNNING \(GPU 3\) +0:00:\d\d +sweep/0\n", table.stdout)
    assert re.search(rf"{ids[2]} +PENDING +sweep/2\n", table.stdout)
    (folder / "go").touch()
    wait_for(lambda: state_names(submission) == ["COMPLETED"] * 3, "the end of all")
    said = [log(submission, index) for index in range(3)]
    gpus = [re.search(r"'CUDA_VISIBLE_DEVICES': '(\d)'", text) for text in said]
    assert [match[1] for match in gpus if match] in (["3", "5", "3"], ["3", "5", "5"])
    assert all("'OMP_NUM_THREADS': '2'" in text for text in said)  # 4 cores, 2 jobs at a time
    assert all("WORLD_SIZE" not in text for text in said)


def test_a_rank_that_fails_ends_its_job_and_the_command_with_what_it_said(folder: Path):
    points = "ends={1:raise},{0:kill},null"
    done = queue("-m", LOCAL, points, "launcher.tasks_per_node=2", cwd=folder)
    submission = submitted(folder)
    assert done.returncode == 1
    assert state_names(submission) == ["FAILED", "FAILED", "COMPLETED"]
    raised, killed, _ = submission.jobs
    assert done.stdout.endswith(
        "2 of 3 jobs did not end well:\n"
        f"{folder}/sweep/0: job {raised.id} FAILED, {submission.log_file(raised.id, 1)}\n"
        "  ArithmeticError: rank 1 cannot go on\n"  # rank 0 would have waited for ever
        f"{folder}/sweep/1: job {killed.id} FAILED, {submission.log_file(killed.id, 0)}\n"
        "  it was killed, or its node was lost: it has not said how it ended\n"
    )
    assert "Traceback (most recent call last)" in log(submission, rank=1)
    assert "'WORLD_SIZE': '2', 'RANK': '1', 'LOCAL_RANK': '1'" in log(submission, rank=1)


def test_a_job_is_warned_before_its_time_limit_and_started_again(folder: Path):
    queue(
        *(LOCAL, "launcher.detach=true", "wait_for=go"),
        *("launcher.time_min=1", "launcher.signal_delay_s=58", "launcher.requeue=1"),
        cwd=folder,
    )
    submission = submitted(folder)
    wait_for(lambda: "start 2 of job" in log(submission), "another start")
    (folder / "go").touch()
    wait_for(lambda: state_names(submission)[0] in ("COMPLETED", "FAILED", "TIMEOUT"), "its end")
    assert state_names(submission) == ["COMPLETED"]


def test_jobs_are_followed_and_cancelled(folder: Path):
    queue("-m", LOCAL, "say=a,b", "wait_for=never", "launcher.detach=true", cwd=folder)
    submission = submitted(folder)
    first, second = (job.id for job in submission.jobs)
    wait_for(lambda: state_names(submission) == ["RUNNING", "PENDING"], "the first to run")
    wait_for(lambda: "says" in log(submission), "what it says")
    cancelled = jobs("cancel", first.split("_")[0], "--runs", "sweep", cwd=folder)
    assert cancelled.stdout == f"{first}: cancelled\n{second}: cancelled\n"
    followed = jobs("follow", first, "--runs", str(folder), cwd=folder)
    assert followed.returncode == 1
    assert "rank 0 says a" in followed.stdout
    assert f"job {first}: CANCELLED after 0:00:0" in followed.stderr
    assert state_names(submission) == ["CANCELLED", "CANCELLED"]
    over = jobs("cancel", second, "--runs", "sweep", cwd=folder)
    assert over.stdout == f"{second}: is over, CANCELLED\n"
    nothing = jobs("follow", "L1", "--runs", "sweep", cwd=folder)
    assert (nothing.returncode, nothing.stderr) == (
        1,
        "L1: there is no such job below sweep; see python -m recap.jobs list\n",
    )


def test_jobs_go_on_without_who_waits_and_end_with_their_queue(folder: Path):
    with start(LOCAL, "wait_for=never", cwd=folder) as waiting:
        assert waiting.stdout is not None
        while "runs on this machine" not in waiting.stdout.readline():
            assert waiting.poll() is None
        waiting.send_signal(signal.SIGINT)
        rest = waiting.stdout.read()
    assert waiting.returncode == 128 + signal.SIGINT
    assert "The jobs go on; the same command waits for them again." in rest
    assert "cancel: python -m recap.jobs cancel L" in rest
    submission = submitted(folder)
    assert state_names(submission) == ["RUNNING"]
    process = psutil.Process(json.loads((submission.folder / "queue.json").read_text())["pid"])
    [rank] = wait_for(process.children, "its rank")
    process.kill()
    wait_for(lambda: not rank.is_running(), "the end of its rank")
    assert state_names(submission) == ["FAILED"]


def test_what_is_edited_while_a_job_waits_changes_nothing(folder: Path):
    conf = folder / "conf"
    conf.mkdir()
    shutil.copy(HERE / "conf/queued.yaml", conf)
    shutil.copy(HERE / "queued_command.py", folder / "mine.py")
    command = ["-m", "mine", f"--config-dir={conf}", "-m", LOCAL, "value=1,2", "wait_for=go"]
    done = subprocess.run(
        [sys.executable, *command, "launcher.detach=true", "launcher.snapshot=true"],
        cwd=folder,
        env=environment(folder),
        timeout=120,
    )
    assert done.returncode == 0
    submission = submitted(folder)
    wait_for(lambda: state_names(submission) == ["RUNNING", "PENDING"], "the first to run")
    for path, old, new in ((conf / "queued.yaml", "hello", "bye"), (folder / "mine.py", "on", "?")):
        path.write_text(path.read_text().replace(old, new))
    (folder / "go").touch()
    wait_for(lambda: state_names(submission) == ["COMPLETED"] * 2, "the end of both")
    assert "rank 0 says hello" in log(submission, 1)
    assert f"code of {submission.folder}/code/recap\n" in log(submission, 1)


def test_faults_of_the_launcher_and_of_the_config_come_together_and_nothing_is_queued(
    folder: Path,
):
    done = queue(
        *(LOCAL, "refuse=this", "launcher.tasks_per_node=2", "launcher.time_min=0"),
        *("launcher.setup=echo", "launcher.gpus=[]"),
        cwd=folder,
    )
    assert done.returncode == 1
    assert "launcher.time_min=0: must be 1 or more\n" in done.stderr
    assert "launcher.setup='echo': must be Sequence[str]\n" in done.stderr
    assert "refuse=this: for 1 ranks\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(folder.rglob("jobs"))
