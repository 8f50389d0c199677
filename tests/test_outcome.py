"""What a run came to, as its folder keeps it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from recap import outcome
from recap.outcome import Outcome


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path):
    finished = Outcome(status="finished", config="ab", step=6, objective=0.1 + 0.2)
    outcome.write(tmp_path, finished)
    assert outcome.read(tmp_path) == finished
    assert [path.name for path in tmp_path.iterdir()] == ["outcome.json"]
    outcome.remove(tmp_path)
    assert outcome.read(tmp_path) is None


def test_an_objective_that_is_no_number_is_kept_in_valid_json(tmp_path: Path):
    outcome.write(tmp_path, Outcome(status="not finite", config="", objective=math.nan))
    kept = json.loads((tmp_path / "outcome.json").read_text(), parse_constant=pytest.fail)
    assert kept["objective"] == "nan"
    read = outcome.read(tmp_path)
    assert read is not None
    assert read.objective is not None
    assert math.isnan(read.objective)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"status": "odd", "objective": null}'])
def test_what_is_no_outcome_is_none(tmp_path: Path, text: str):
    (tmp_path / "outcome.json").write_text(text)
    assert outcome.read(tmp_path) is None


def test_the_digest_of_a_config_leaves_out_where_to_write():
    config = {"training": {"seed": 0, "save_dir": "a"}, "tracking": {"uri": "x"}, "model": {"w": 1}}
    elsewhere = {"model": {"w": 1}, "training": {"save_dir": "b", "seed": 0}, "hydra": {"run": 1}}
    assert outcome.digest(config) == outcome.digest(elsewhere)
    assert outcome.digest(config) != outcome.digest({**config, "model": {"w": 2}})
    assert config["training"]["save_dir"] == "a"


def test_the_status_follows_from_the_error():
    class NotFinite(ArithmeticError):
        outcome = "not finite"

    errors = [None, ValueError(), NotFinite(), KeyboardInterrupt(), SystemExit(143)]
    assert [outcome.status_of(error) for error in errors] == [
        "finished",
        "failed",
        "not finite",
        "stopped",
        "stopped",
    ]
