"""A run opened behind a training's first update records the same; what refuses it ends it."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from tiny import Tiny

from recap.tracking import NoRun
from recap.tracking.opening import Opening

NOWHERE = "sqlite:////dev/null/runs.db"  # in what is no folder


class Recorded(NoRun):
    """Keeps what it is asked."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.told.append((step, dict(metrics)))

    def artifact(self, path: Path) -> None:
        self.told.append(path)

    def flush(self) -> None:
        self.told.append("flushed")

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.told.append(error)


def test_what_is_logged_before_the_run_is_opened_is_recorded_once_it_is():
    run = Recorded()
    opening = Opening(lambda: run)
    with opening:
        opening.log(1, {"loss": 0.5})
        assert run.told == []
        opening.artifact(Path("plan.txt"))
        opening.log(2, {"loss": 0.25})
        opening.flush()
    plan = Path("plan.txt")
    assert run.told == [(1, {"loss": 0.5}), plan, (2, {"loss": 0.25}), "flushed", None]
    assert opening.ready() is run


def test_the_runs_end_learns_of_an_error():
    run, error = Recorded(), RuntimeError("nan")
    with pytest.raises(RuntimeError, match="nan"), Opening(lambda: run):
        raise error
    assert run.told == [error]


def refused() -> Recorded:
    raise ConnectionError("tracking.uri=x does not work")


def test_what_keeps_a_run_from_being_opened_is_raised_where_it_is_needed():
    opening = Opening(refused)
    opening.log(1, {"loss": 0.5})
    with pytest.raises(ConnectionError, match="x does not work"):
        opening.flush()
    with pytest.raises(ConnectionError, match="x does not work"), Opening(refused):
        pass


def test_it_hides_no_error_that_came_first():
    with pytest.raises(RuntimeError, match="nan"), Opening(refused):
        raise RuntimeError("nan")


def test_a_training_ends_behind_its_first_update_where_it_cannot_be_recorded(tiny: Tiny):
    done = tiny.train_elsewhere("tracking=mlflow", f"tracking.uri={NOWHERE}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"tracking\.uri=sqlite:.*tracking=none", done.stderr)
    assert "step 2/" not in done.stderr
    assert tiny.steps() == []
