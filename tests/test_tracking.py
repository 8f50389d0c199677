"""Tracking against real stores: sqlite files, a real mlflow server, real processes that die."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun

import recap
from recap.tracking.mlflow import MlflowTracker
from recap.tracking.provenance import checkout, parse_overrides, without_passwords
from recap.tracking.sender import Point, Sender

REPOSITORY = Path(recap.__file__).parents[1]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(REPOSITORY),
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # the server starts fewer processes
}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sqlite file that has MLflow's tables; making them takes seconds, copying does not."""
    folder = tmp_path_factory.mktemp("store")
    tracker = MlflowTracker(folder=str(folder), experiment="first", system_metrics=False)
    tracker.open_sweep(folder / "first")
    return folder / "mlflow.db"


@pytest.fixture
def runs(tmp_path: Path, empty_store: Path) -> Path:
    """A folder with a store of its own."""
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture
def tracker(runs: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowTracker:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return MlflowTracker(folder=str(runs), system_metrics=False)


class Server:
    """A real ``mlflow server`` on a loopback port; can be frozen, woken up and killed."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        store = f"sqlite:///{folder / 'mlflow.db'}"
        artifacts = str(folder / "served")
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
        command += ["--artifacts-destination", artifacts, "--port", str(self.port), "--workers=1"]
        with (folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while not self._is_healthy():
            assert self._process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def freeze(self) -> None:
        os.killpg(self._process.pid, signal.SIGSTOP)

    def wake(self) -> None:
        os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


@pytest.fixture
def server(runs: Path) -> Iterator[Server]:
    server = Server(runs)
    yield server
    server.kill()


def stored(tracker: MlflowTracker, run_dir: Path) -> StoredRun:
    """What the store has of the directory's run."""
    run_id = (run_dir / "mlflow_run_id").read_text().splitlines()[0]
    return MlflowClient(tracker.store()).get_run(run_id)


def history(tracker: MlflowTracker, run_dir: Path, key: str) -> list[tuple[int, float]]:
    run_id = stored(tracker, run_dir).info.run_id
    return [
        (m.step, m.value) for m in MlflowClient(tracker.store()).get_metric_history(run_id, key)
    ]


def artifact(tracker: MlflowTracker, run_dir: Path, name: str) -> str:
    run_id = stored(tracker, run_dir).info.run_id
    return Path(MlflowClient(tracker.store()).download_artifacts(run_id, name)).read_text()


def python(code: str, *arguments: object, flags: Sequence[str] = ()) -> subprocess.Popen[str]:
    """A process that runs the code."""
    return subprocess.Popen(
        [sys.executable, *flags, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# What a run leaves behind


def test_a_run_has_params_config_metrics_and_where_it_came_from(
    tracker: MlflowTracker, runs: Path
) -> None:
    overrides = ["optimizer=adam", "+a.b=[1,2]", "~model.tower", "optimizer@second=sgd"]
    with tracker.run(runs / "one", overrides=overrides, config_yaml="x: 1\n") as run:
        run.log(1, {"loss": 0.5, "validation/is_favorited/auroc": 0.75})
        run.log(2, {"loss": 0.25})
        (runs / "table.txt").write_text("is_favorited 0.75\n")
        run.artifact(runs / "table.txt")
    entry = stored(tracker, runs / "one")
    assert entry.info.status == "FINISHED"
    assert entry.info.run_name == "one"
    assert entry.data.params == {
        "optimizer": "adam",
        "a.b": "[1,2]",
        "model.tower": "(removed)",
        "optimizer_second": "sgd",
    }
    assert history(tracker, runs / "one", "loss") == [(1, 0.5), (2, 0.25)]
    assert entry.data.metrics["validation/is_favorited/auroc"] == 0.75
    assert artifact(tracker, runs / "one", "config.yaml") == "x: 1\n"
    assert artifact(tracker, runs / "one", "table.txt") == "is_favorited 0.75\n"
    assert {"host", "run_dir", "command", "version.recap", "version.torch"} <= set(entry.data.tags)
    assert "mlflow.user" in entry.data.tags
    assert run.view.startswith(f"mlflow ui --backend-store-uri sqlite:///{runs}/mlflow.db, then ")
    assert (entry.info.artifact_uri or "").startswith((runs / "mlartifacts").as_uri())


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_the_status_tells_how_the_run_ended(
    tracker: MlflowTracker, runs: Path, error: type[BaseException], status: str
) -> None:
    def train() -> None:
        with tracker.run(runs / "one") as run:
            run.log(1, {"loss": 0.5})
            raise error

    with pytest.raises(error):
        train()
    assert stored(tracker, runs / "one").info.status == status
    assert history(tracker, runs / "one", "loss") == [(1, 0.5)]


def test_a_metric_name_that_mlflow_refuses_is_refused_at_once(
    tracker: MlflowTracker, runs: Path
) -> None:
    with (
        pytest.raises(ValueError, match=r"metric 'auroc@click': a name has 1 to 250 letters"),
        tracker.run(runs / "one") as run,
    ):
        run.log(1, {"auroc@click": 0.5})


def test_a_param_longer_than_mlflow_takes_is_cut(tracker: MlflowTracker, runs: Path) -> None:
    with tracker.run(runs / "one", overrides=["files=" + "f" * 7000]):
        pass
    assert stored(tracker, runs / "one").data.params["files"] == "f" * 6000


def test_more_metrics_in_a_step_than_one_call_takes_all_arrive(
    tracker: MlflowTracker, runs: Path
) -> None:
    with tracker.run(runs / "one") as run:
        run.log(1, {f"metric/{i}": i for i in range(1001)})
        run.log(2, {"nan": float("nan")})
    assert len(stored(tracker, runs / "one").data.metrics) == 1002


def test_a_short_run_has_system_metrics_and_its_resume_counts_on(
    tracker: MlflowTracker, runs: Path
) -> None:
    tracker.system_metrics = True
    for _ in range(2):
        with tracker.run(runs / "one"):
            pass
    memory = history(tracker, runs / "one", "system/system_memory_usage_megabytes")
    assert [step for step, _ in memory] == [0, 1]
    assert min(value for _, value in memory) > 0
    assert "system-metrics" not in [thread.name for thread in threading.enumerate()]


def test_tracking_leaves_the_random_state_alone(tracker: MlflowTracker, runs: Path) -> None:
    before = random.getstate()
    with tracker.run(runs / "one") as run:
        run.log(1, {"loss": 0.5})
    assert random.getstate() == before


def test_passwords_are_not_recorded(tracker: MlflowTracker, runs: Path) -> None:
    assert without_passwords("x=http://me:secret@host/a") == "x=http://me:***@host/a"
    assert without_passwords("sqlite:////a/b.db") == "sqlite:////a/b.db"
    secret = "uri: postgresql://me:secret@host/db"
    with tracker.run(runs / "one", overrides=["u=http://a:secret@b"], config_yaml=secret):
        pass
    assert stored(tracker, runs / "one").data.params == {"u": "http://a:***@b"}
    assert "secret" not in artifact(tracker, runs / "one", "config.yaml")


def test_an_override_is_read_as_hydra_writes_it() -> None:
    overrides = ["a=1", "++b.c=x=y", "~d", "~e=3", "f="]
    assert parse_overrides(overrides) == {
        "a": "1",
        "b.c": "x=y",
        "d": "(removed)",
        "e": "(removed)",
        "f": "",
    }


def test_a_checkout_is_named_with_commit_branch_and_whether_it_is_dirty(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *settings, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code = tmp_path / "code"
    code.mkdir()
    assert checkout(code) == {}
    git("init", "-b", "main")
    (code / "a.py").write_text("")
    assert checkout(code) == {}
    git("add", "code")
    git("commit", "-m", "first")
    clean = {"git.commit": git("rev-parse", "HEAD"), "git.branch": "main", "git.dirty": "false"}
    assert checkout(code) == clean
    (code / "a.py").write_text("x = 1")
    assert checkout(code) == {**clean, "git.dirty": "true"}
    installed = tmp_path / "venv"
    installed.mkdir()
    assert checkout(installed) == {}


# Which store


def test_an_explicit_uri_wins_over_the_environment_and_that_over_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert MlflowTracker().store() == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert MlflowTracker().store() == "http://tracking:5000"
    assert MlflowTracker(uri="sqlite:///a.db").store() == f"sqlite:///{tmp_path}/a.db"


def test_no_tracking_imports_no_mlflow() -> None:
    process = python(
        """
        import sys
        from pathlib import Path
        import hydra, yaml
        tracker = hydra.utils.instantiate(yaml.safe_load(Path(sys.argv[1]).read_text()))
        tracker.open_sweep(Path("nowhere"))
        with tracker.run(Path("nowhere"), overrides=["a=1"], resume_step=3) as run:
            run.log(1, {"loss": 0.5})
            run.artifact(Path("nothing"))
            run.flush()
        tracker.close_sweep(Path("nowhere"), status="FINISHED")
        assert run.view == ""
        print("mlflow" in sys.modules, Path("nowhere").exists())
        """,
        REPOSITORY / "conf" / "tracking" / "none.yaml",
    )
    assert process.communicate()[0] == "False False\n"


def test_processes_that_start_at_once_on_a_new_store_all_record_their_run_silently(
    tmp_path: Path,
) -> None:
    code = """
        import logging, sys
        from pathlib import Path
        logging.basicConfig(level=logging.INFO)
        from recap.tracking.mlflow import MlflowTracker
        with MlflowTracker(uri="sqlite:///" + sys.argv[1]).run(Path(sys.argv[2])) as run:
            run.log(1, {"loss": 0.5})
        """
    store = tmp_path / "new" / "mlflow.db"
    jobs = [python(code, store, tmp_path / str(i), flags=["-W", "default"]) for i in range(3)]
    assert [(job.communicate()[0], job.returncode) for job in jobs] == [("", 0)] * 3
    tracker = MlflowTracker(uri=f"sqlite:///{store}")
    for i in range(3):
        assert history(tracker, tmp_path / str(i), "loss") == [(1, 0.5)]


def test_an_unreachable_server_stops_the_start_and_names_the_ways_out(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://me:secret@127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(ConnectionError, match=r"tracking\.uri=http://me:\*\*\*@127.*tracking=none"):
        MlflowTracker(uri=uri).run(tmp_path)


def test_a_folder_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConnectionError, match=r"tracking\.uri=sqlite:.*file/runs/mlflow\.db"):
        MlflowTracker(folder=str(tmp_path / "file" / "runs")).run(tmp_path)


# Resume


def test_a_resumed_run_continues_and_tags_what_changed(tracker: MlflowTracker, runs: Path) -> None:
    with tracker.run(runs / "one", overrides=["a=1", "b=1"], config_yaml="x: 1\n") as run:
        run.log(1, {"loss": 0.5})
    changed = ["a=2", "c=3"]
    with tracker.run(
        runs / "one", overrides=changed, config_yaml="x: 2\n", tags={"job": "7"}, resume_step=1
    ) as run:
        assert stored(tracker, runs / "one").info.status == "RUNNING"
        run.log(2, {"loss": 0.25})
    entry = stored(tracker, runs / "one")
    assert entry.info.status == "FINISHED"
    assert entry.data.params == {"a": "1", "b": "1"}
    resumed = {key: value for key, value in entry.data.tags.items() if key.startswith("resumed")}
    assert resumed == {
        "resumed_at_1/a": "2",
        "resumed_at_1/b": "(not given)",
        "resumed_at_1/c": "3",
        "resumed_at_1/job": "7",
    }
    assert artifact(tracker, runs / "one", "config.yaml") == "x: 1\n"
    assert artifact(tracker, runs / "one", "config-1.yaml") == "x: 2\n"
    assert history(tracker, runs / "one", "loss") == [(1, 0.5), (2, 0.25)]


LOG_FIVE_STEPS_AND_DIE = """
    import os, signal, sys
    from pathlib import Path
    from recap.tracking.mlflow import MlflowTracker
    tracker = MlflowTracker(folder=sys.argv[1], system_metrics=False)
    with tracker.run(Path(sys.argv[2]), config_yaml="x: 1") as run:
        for step in range(1, 6):
            run.log(step, {"loss": 1 / step, "examples_per_s": 100 + step})
        run.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    """


def test_steps_done_again_after_a_kill_appear_once(tracker: MlflowTracker, runs: Path) -> None:
    process = python(LOG_FIVE_STEPS_AND_DIE, runs, runs / "one")
    assert process.communicate()[0] == ""
    assert process.returncode == -signal.SIGKILL
    assert stored(tracker, runs / "one").info.status == "RUNNING"
    with tracker.run(runs / "one", config_yaml="x: 1", resume_step=3) as run:
        run.log(5, {"validation/auroc": 0.7})  # the kill came before this was logged
        for step in range(4, 8):
            run.log(step, {"loss": 1 / step, "examples_per_s": 900 + step})
    assert history(tracker, runs / "one", "loss") == [(step, 1 / step) for step in range(1, 8)]
    speeds = history(tracker, runs / "one", "examples_per_s")
    assert speeds == [(1, 101), (2, 102), (3, 103), (4, 104), (5, 105), (6, 906), (7, 907)]
    assert history(tracker, runs / "one", "validation/auroc") == [(5, 0.7)]


def test_steps_done_again_under_other_settings_keep_both_results(
    tracker: MlflowTracker, runs: Path
) -> None:
    with tracker.run(runs / "one", config_yaml="rate: 1") as run:
        run.log(1, {"loss": 0.5, "lr": 0.1})
        run.log(2, {"loss": 0.4, "lr": 0.1})
    with tracker.run(runs / "one", config_yaml="rate: 2", resume_step=1) as run:
        run.log(2, {"loss": 0.3, "lr": 0.1})
    assert history(tracker, runs / "one", "loss") == [(1, 0.5), (2, 0.4), (2, 0.3)]
    assert history(tracker, runs / "one", "lr") == [(1, 0.1), (2, 0.1)]
    assert stored(tracker, runs / "one").data.metrics["loss"] == 0.3


def test_a_deleted_run_is_not_continued(tracker: MlflowTracker, runs: Path) -> None:
    with tracker.run(runs / "one"):
        pass
    run_id = stored(tracker, runs / "one").info.run_id
    client = MlflowClient(tracker.store())
    client.delete_run(run_id)
    with pytest.raises(ValueError, match=f"deleted; `mlflow runs restore --run-id {run_id}` brin"):
        tracker.run(runs / "one")
    (runs / "one" / "mlflow_run_id").write_text(f"{'0' * 32}\n{tracker.store()}\n")
    with pytest.raises(ValueError, match=r"any more; remove .*/one/mlflow_run_id to begin a new"):
        tracker.run(runs / "one")


def test_a_deleted_experiment_is_refused(tracker: MlflowTracker, runs: Path) -> None:
    with tracker.run(runs / "one"):
        pass
    MlflowClient(tracker.store()).delete_experiment(
        stored(tracker, runs / "one").info.experiment_id
    )
    with pytest.raises(
        ValueError, match=r"tracking\.experiment=recap was deleted from tracking\.u"
    ):
        tracker.run(runs / "two")


def test_a_run_resumed_with_another_store_begins_anew_there(
    tracker: MlflowTracker, runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tracker.run(runs / "one"):
        pass
    first = stored(tracker, runs / "one").info.run_id
    shutil.copy(runs / "mlflow.db", runs / "other.db")
    tracker.uri = f"sqlite:///{runs / 'other.db'}"
    with tracker.run(runs / "one"):
        pass
    assert stored(tracker, runs / "one").info.run_id != first
    assert f"names run {first} in sqlite:///{runs / 'mlflow.db'}" in caplog.text


# A server


def test_a_server_that_is_away_during_a_run_has_every_metric_once_in_the_end(
    server: Server,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    tracker = MlflowTracker(uri=server.uri, system_metrics=False)
    with tracker.run(tmp_path / "one", overrides=["a=1", "b="], config_yaml="x: 1\n") as run:
        run.log(1, {"loss": 0.5})
        run.flush()
        server.freeze()
        run.log(2, {"loss": 0.25})
        run.flush()  # returns although nobody answers
        run.log(3, {"loss": 0.125})
        server.wake()  # and finds every attempt that was made in its inbox
    assert history(tracker, tmp_path / "one", "loss") == [(1, 0.5), (2, 0.25), (3, 0.125)]
    entry = stored(tracker, tmp_path / "one")
    assert entry.info.status == "FINISHED"
    assert entry.data.params == {"a": "1", "b": ""}
    assert artifact(tracker, tmp_path / "one", "config.yaml") == "x: 1\n"
    assert run.view.startswith(f"{server.uri}/#/experiments/2/runs/{entry.info.run_id}?")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "does not take metrics" in caplog.text

    # The same run ends while nobody answers: one more warning says what was lost.
    caplog.clear()
    with tracker.run(tmp_path / "one", resume_step=3) as run:
        server.kill()
        run.log(4, {"loss": 0.1, "auroc": 0.7})
        run.artifact(tmp_path / "one" / "mlflow_run_id")
    assert "artifact" in caplog.messages[0]
    assert "did not get 2 metric values and the status FINISHED" in caplog.messages[-1]


# The sender


def test_the_sender_keeps_order_and_tries_again_what_was_refused() -> None:
    arrived: list[int] = []
    refusals = [OSError("no route"), OSError("no route")]

    def send(points: Sequence[Point]) -> None:
        if refusals and arrived:
            raise refusals.pop()
        arrived.extend(point.step for point in points)

    sender = Sender(send, store="s", max_points=2, collect_s=0, retry_s=0)
    sender.put([Point("loss", 0.5, 0, step) for step in range(7)])
    assert sender.close() == 0
    assert arrived == list(range(7))


def test_what_could_not_be_sent_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    def send(points: Sequence[Point]) -> None:
        raise OSError("no route\nto host")

    sender = Sender(send, store="tracking.uri=u", collect_s=0, retry_s=0)
    sender.put([Point("loss", 0.5, 0, 1), Point("loss", 0.5, 0, 2)])
    sender.flush()
    assert sender.close(patience_s=0) == 2
    assert caplog.messages == [
        "tracking: tracking.uri=u does not take metrics (no route); the run goes on, "
        "they are kept in memory and sent later"
    ]


def test_flush_hands_over_everything_logged_before(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    arrived: list[Point] = []
    sender = Sender(arrived.extend, store="s", collect_s=3600)
    sender.put([Point("loss", 0.5, 0, 1)])
    sender.flush()
    assert len(arrived) == 1
    assert sender.close() == 0
    assert caplog.messages == []


def test_a_full_call_of_points_is_sent_without_waiting_for_more() -> None:
    arrived: list[Point] = []
    there = threading.Event()

    def send(points: Sequence[Point]) -> None:
        arrived.extend(points)
        there.set()

    sender = Sender(send, store="s", max_points=3, collect_s=3600)
    sender.put([Point("loss", 0.5, 0, step) for step in range(3)])
    assert there.wait(timeout=60)
    assert len(arrived) == 3
    assert sender.close() == 0


def test_flush_does_not_wait_for_what_is_put_meanwhile() -> None:
    arrived: list[int] = []

    def send(points: Sequence[Point]) -> None:  # a store that is slower than the run
        arrived.extend(point.step for point in points)
        if (step := points[-1].step) < 2:
            sender.put([Point("loss", 0.5, 0, step + 1)])

    sender = Sender(send, store="s", collect_s=3600)
    sender.put([Point("loss", 0.5, 0, 0)])
    sender.flush()
    assert arrived == [0]
    assert sender.close() == 0
    assert arrived == [0, 1, 2]


# Sweeps


def test_a_sweep_is_a_run_that_its_jobs_are_children_of(tracker: MlflowTracker, runs: Path) -> None:
    tracker.open_sweep(runs / "sweep", overrides=["x=1,2"], config_yaml="x: 0\n")
    with tracker.run(runs / "sweep" / "x=1", name="x=1", parent=runs / "sweep"):
        pass
    sweep = stored(tracker, runs / "sweep")
    job = stored(tracker, runs / "sweep" / "x=1")
    assert sweep.info.status == "RUNNING"
    assert sweep.data.params == {"x": "1,2"}
    assert job.data.tags["mlflow.parentRunId"] == sweep.info.run_id

    tracker.close_sweep(runs / "sweep", status="FAILED", tags={"points.failed": "1"}, objective=0.5)
    closed = stored(tracker, runs / "sweep")
    assert closed.info.status == "FAILED"
    assert closed.data.tags["points.failed"] == "1"
    assert closed.data.metrics == {"objective": 0.5}

    tracker.open_sweep(runs / "sweep", overrides=["x=1,2"], config_yaml="x: 0\n")
    tracker.close_sweep(runs / "sweep", status="RUNNING")
    assert stored(tracker, runs / "sweep").info.run_id == sweep.info.run_id
    assert stored(tracker, runs / "sweep").info.status == "RUNNING"


def test_how_a_run_ended_is_recorded_with_its_reason(tracker: MlflowTracker, runs: Path) -> None:
    class Early(RuntimeError):
        outcome = "pruned"

    for error, status, came_to in [
        (ArithmeticError("too large"), "FAILED", "failed"),
        (Early("at step 2"), "FINISHED", "pruned"),
        (KeyboardInterrupt(), "KILLED", "stopped"),
    ]:
        with pytest.raises(type(error)), tracker.run(runs / "one"):
            raise error
        entry = stored(tracker, runs / "one")
        assert (entry.info.status, entry.data.tags["outcome"]) == (status, came_to)
        assert str(error) in entry.data.tags["error"]
    with tracker.run(runs / "one"):
        pass
    entry = stored(tracker, runs / "one")
    assert (entry.data.tags["outcome"], entry.data.tags["error"]) == ("finished", "")
