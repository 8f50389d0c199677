"""Many runs from one command line: what fails stops no other, what is finished is not run again."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweeping import killed_at, recorded, statuses, sweeping, swept
from tiny import Tiny

from recap import outcome
from recap.outcome import Outcome
from recap.sweep.points import Point
from recap.sweep.table import best_first, direction, sweep_table

TWO = "training.num_train_steps=2"
OBJECTIVE = "training.objective=valid/mean/auroc"
MLFLOW = ("tracking=mlflow", "tracking.folder=runs", "tracking.system_metrics=false")


def test_two_sweeps_that_start_at_once_on_a_fresh_database_are_both_recorded(tiny: Tiny):
    with (
        sweeping(tiny, *MLFLOW, TWO, "training.seed=0,1", sweep="one") as one,
        sweeping(tiny, *MLFLOW, TWO, "training.seed=0,1", sweep="two") as two,
    ):
        outputs = [process.communicate(timeout=300)[0] for process in (one, two)]
    assert [one.returncode, two.returncode] == [0, 0], outputs
    for sweep in ("one", "two"):
        parent, children = recorded(tiny.root, sweep)
        assert parent.info.status == "FINISHED"
        assert parent.data.tags["points.finished"] == "2"
        assert {name: child.info.status for name, child in children.items()} == {
            "training.seed=0": "FINISHED",
            "training.seed=1": "FINISHED",
        }


def test_a_failing_and_a_diverging_point_stop_no_other(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
):
    points = (
        *MLFLOW,
        "training.num_train_steps=3",
        OBJECTIVE,
        "schedule.curve.learning_rate=1e30,0.01,0.02",
        "training.seed=-1,0",
    )
    assert swept(tiny, *points) == 1
    printed = capsys.readouterr().out
    folder = tiny.root / "sweep"
    expected = {
        f"schedule.curve.learning_rate={rate},training.seed={seed}": status
        for rate, seed, status in [
            ("0.01", -1, "failed"),
            ("0.01", 0, "finished"),
            ("0.02", -1, "failed"),
            ("0.02", 0, "finished"),
            ("1e+30", -1, "failed"),
            ("1e+30", 0, "not finite"),
        ]
    }
    assert statuses(folder) == expected
    table = printed[printed.index(f"sweep: {folder}") :].splitlines()
    assert table[1].split() == ["status", "valid/mean/auroc", "run"]
    ranked = [line.split()[1:3] for line in table[2:8]]
    assert [status for status, _ in ranked[:2]] == ["finished", "finished"]
    assert ranked[0][1] >= ranked[1][1]
    assert table.count("    training.seed=-1 must be 0 or more") == 3
    assert any(line.startswith("    loss/like became nan between steps 2 and 3") for line in table)

    parent, children = recorded(tiny.root, "sweep")
    assert parent.info.status == "FAILED"
    assert {name: child.data.tags["outcome"] for name, child in children.items()} == expected
    ended = {child.data.tags["outcome"]: child.info.status for child in children.values()}
    assert ended == {"failed": "FAILED", "not finite": "FAILED", "finished": "FINISHED"}
    refused = children["schedule.curve.learning_rate=0.01,training.seed=-1"]
    assert "training.seed=-1 must be 0 or more" in refused.data.tags["error"]
    assert parent.data.tags["best.overrides"] == table[2].split(maxsplit=3)[3]

    # again: only what failed by an error
    assert swept(tiny, *points) == 1
    printed = capsys.readouterr().out
    assert "6 points, of which 3 have a result and 0 are running" in printed
    assert "Launching 3 jobs locally" in printed
    assert printed[printed.index("sweep: ") :].splitlines() == table


def test_a_sweep_that_was_killed_goes_on_where_it_was(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
):
    points = ("training.seed=0,1,2", "training.checkpoint_every_n=1")
    # a step is reported before its save, so the third report is behind the save of the second
    killed_at(tiny, "step 3/6", *points, times=2)
    folder = tiny.root / "sweep"
    assert statuses(folder) == {"training.seed=0": "finished", "training.seed=1": "none"}
    before = (folder / "training.seed=0" / "outcome.json").stat().st_mtime_ns

    assert swept(tiny, *points) == 0
    printed = capsys.readouterr()
    assert "3 points, of which 1 have a result and 0 are running" in printed.out
    assert "training.seed=1: 3 tasks" in printed.err
    assert "steps 0 to 6" not in printed.err.split("training.seed=2: 3 tasks")[0]
    assert set(statuses(folder).values()) == {"finished"}
    assert len(statuses(folder)) == 3
    assert (folder / "training.seed=0" / "outcome.json").stat().st_mtime_ns == before


def test_a_point_whose_config_has_changed_is_not_finished(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
):
    assert swept(tiny, TWO, "training.seed=choice(0)") == 0
    assert swept(tiny, "training.num_train_steps=3", "training.seed=choice(0)") == 0
    printed = capsys.readouterr().out
    assert "1 points, of which 0 have a result" in printed
    assert "its config has changed since it was last run (training.num_train_steps: 2 → 3)" in (
        printed
    )
    assert tiny.steps("sweep/training.seed=0") == [2, 3]


def test_points_that_would_share_a_folder_are_refused_before_anything_is_made(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
):
    shared = f"training.save_dir={tiny.root / 'x'}"
    assert swept(tiny, *MLFLOW, shared, "training.seed=0,1") == 1
    assert (
        f"training.save_dir={tiny.root / 'x'}: 2 points of the sweep would train in this folder "
        "(training.seed=0; training.seed=1); hydra.sweep.dir=… names the folder of the sweep, in "
        "which each has its own"
    ) in capsys.readouterr().err
    assert not (tiny.root / "x").exists()
    assert not (tiny.root / "sweep").exists()
    assert not (tiny.root / "runs").exists()

    each = f"training.save_dir={tiny.root}/x-${{training.seed}}"
    assert swept(tiny, TWO, each, "training.seed=0,1") == 0
    assert tiny.steps("x-0") == tiny.steps("x-1") == [2]


def test_an_interval_needs_a_search(tiny: Tiny, capsys: pytest.CaptureFixture[str]):
    assert swept(tiny, "schedule.curve.learning_rate=interval(0,1)") == 1
    assert "search in it with hydra/sweeper=optuna" in capsys.readouterr().err


def test_processes_that_were_started_together_are_no_sweep(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert swept(tiny, "training.seed=0,1") == 1
    assert "2 processes were started for this sweep: start it by one" in capsys.readouterr().err


def points_of(**objectives: float | None) -> dict[Point, Outcome | None]:
    return {
        Point((), name, Path("/s") / name, ""): Outcome(
            status="finished", config="", objective=objective
        )
        for name, objective in objectives.items()
    }


def test_the_table_is_ordered_as_the_metric_asks():
    results = points_of(a=0.2, b=None, c=0.3, d=float("nan"))
    results[Point((), "e", Path("/s/e"), "")] = None

    def order(objective: str) -> str:
        return "".join(point.told for point in best_first(results, direction(objective)))

    assert order("valid/mean/auroc") == "cabde"
    assert order("valid/like/log_loss") == "acbde"
    assert order("valid/like/calibration") == "acbde"  # as they were given
    table = sweep_table(results, Path("/s"), "valid/mean/auroc", "maximize").splitlines()
    assert [line.split() for line in table] == [
        ["sweep:", "/s"],
        ["status", "valid/mean/auroc", "run"],
        ["1", "finished", "0.30000", "c"],
        ["2", "finished", "0.20000", "a"],
        ["3", "finished", "–", "b"],
        ["4", "finished", "nan", "d"],
        ["5", "not", "ended", "–", "e"],
    ]


def test_an_outcome_of_another_config_is_not_the_points(tmp_path: Path):
    outcome.write(tmp_path, Outcome(status="finished", config="ab"))
    assert Point((), "", tmp_path, "ab").has_result
    assert not Point((), "", tmp_path, "cd").has_result
