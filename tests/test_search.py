"""Searches by Optuna: what they draw, what they are told, and how they go on after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from sweeping import killed_at, statuses, swept
from tiny import Tiny

from recap.compose import CONF, Refused
from recap.search.space import ends, split
from recap.search.study import opened

OPTUNA = ("hydra/sweeper=optuna", "training.objective=valid/mean/auroc")
RATE = "schedule.curve.learning_rate=tag(log, interval(1e-3,1e-1))"
LOADER = ConfigLoaderImpl(create_config_search_path(str(CONF)))


def study_in(folder: Path) -> optuna.Study:
    return opened(folder / "study.journal", "search", pruner={})


def space(*overrides: str) -> dict[str, Any]:
    return split(LOADER, overrides)[1]


def test_a_space_is_written_as_a_sweep_is():
    assert space(
        "a=int(interval(1,8))",
        "b=interval(1,8)",
        "c=tag(log, interval(1e-5,1e-2))",
        "d=range(1,10)",
        "e=range(1,10,4)",
        "f=range(0.5,2,0.5)",
        "g=x,y,x",
        "h=[8],[16,8]",
        "i=tag(log, range(1,9))",
    ) == {
        "a": IntDistribution(1, 8),
        "b": FloatDistribution(1, 8),
        "c": FloatDistribution(1e-5, 1e-2, log=True),
        "d": IntDistribution(1, 9),
        "e": IntDistribution(1, 9, step=4),
        "f": FloatDistribution(0.5, 1.5, step=0.5),
        "g": CategoricalDistribution(["x", "y"]),
        "h": CategoricalDistribution(["[8]", "[16,8]"]),
        "i": IntDistribution(1, 8, log=True),
    }


def test_what_is_no_space_is_refused_all_at_once():
    with pytest.raises(Refused) as refused:
        split(
            LOADER,
            [
                "a=interval(2,1)",
                "b=tag(log, interval(0,1))",
                "c=tag(fast, interval(0,1))",
                "d=range(3,1)",
                "e=glob(*)",
                "f=shuffle(1,2)",
                "g=tag(log, range(1,9,2))",
            ],
        )
    assert str(refused.value).splitlines() == [
        "a=interval(2,1): from 2.0 to 1.0 there is no number; the lower one comes first",
        "b=tag(log, interval(0,1)): a logarithmic scale begins above 0, this one at 0.0",
        "c=tag(fast, interval(0,1)): tag fast: the one tag is log",
        "d=range(3,1): no number is in this range; it goes up, and ends before its stop",
        "e=glob(*): a search takes interval, range, choice or a,b,c",
        "f=shuffle(1,2): a search takes categories as they are; without shuffle and tag",
        "g=tag(log, range(1,9,2)): a logarithmic range has no step but 1; leave it out, or the tag",
    ]
    with pytest.raises(Refused, match="there is nothing to search in; write key=interval"):
        split(LOADER, ["a=1"])


def test_the_ends_of_a_space():
    assert ends(space("a=int(interval(1,8))", "b=x,y,z")) == [
        {"a": 1, "b": "x"},
        {"a": 8, "b": "z"},
    ]


def test_settings_at_fault_are_refused_before_anything_is_made(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
):
    wrong = (
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=0",
        "hydra.sweeper.n_jobs=many",
        "hydra.sweeper.direction=up",
        "+hydra.sweeper.sampler.sede=1",
        "hydra.sweeper.pruner._target_=optuna.samplers.RandomSampler",
        RATE,
    )
    assert swept(tiny, *wrong) == 1
    printed = capsys.readouterr().err
    for line in [
        "hydra.sweeper.n_trials=0: must be a whole number, 1 or more",
        "hydra.sweeper.n_jobs=many: must be a whole number, 1 or more",
        "hydra.sweeper.direction=up: must be minimize, maximize, or null: as the metric asks",
        "training.objective=null: a search compares what it names",
        "hydra.sweeper.sampler.sede: optuna.samplers.TPESampler takes no such key; close: seed",
        "hydra.sweeper.pruner._target_=optuna.samplers.RandomSampler: makes no BasePruner",
    ]:
        assert line in printed
    assert swept(tiny, *OPTUNA, RATE, "training.save_dir=x") == 1
    assert "a search names the folders of its trials; hydra.sweep.dir=…" in capsys.readouterr().err
    launcher = ("hydra/launcher=submitit_local", "launcher.detach=true", "--preview")
    assert swept(tiny, *OPTUNA, RATE, *launcher) == 1
    printed = capsys.readouterr().err
    assert "hydra.launcher.preview=true: what a search runs follows from its results" in printed
    assert "hydra.launcher.detach=true: a search waits for the results of its trials" in printed
    assert not (tiny.root / "sweep").exists()


def test_a_search_that_goes_on_draws_what_an_undisturbed_one_would(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
):
    pruning = ("training.eval_log_every_n=2", "+hydra.sweeper.pruner.n_startup_trials=1")
    search = (*OPTUNA, RATE, *pruning)
    assert swept(tiny, *search, "hydra.sweeper.n_trials=2") == 0
    assert swept(tiny, *search, "hydra.sweeper.n_trials=4") == 0
    printed = capsys.readouterr().out
    assert "4 trials, of which 2 have a result and 0 were begun" in printed
    assert swept(tiny, *search, "hydra.sweeper.n_trials=4", sweep="at once") == 0

    study, at_once = study_in(tiny.root / "sweep"), study_in(tiny.root / "at once")
    assert [t.params for t in study.trials] == [t.params for t in at_once.trials]
    assert [t.state for t in study.trials] == [t.state for t in at_once.trials]
    assert len({t.params["schedule.curve.learning_rate"] for t in study.trials}) == 4

    # the median of trial 0 alone: who is behind it at step 2 or 4 is pruned there
    first, *others = study.trials
    assert list(first.intermediate_values) == [2, 4]
    for trial in others:
        step, value = max(trial.intermediate_values.items())
        behind = value < first.intermediate_values[step]
        assert behind == (trial.state == TrialState.PRUNED)
        assert tiny.logged(f"sweep/trial-{trial.number:04}")["valid/like/auroc"].keys() >= {step}
    kinds = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned"}
    assert list(statuses(tiny.root / "sweep").values()) == [kinds[t.state] for t in study.trials]
    assert "pruned" in statuses(tiny.root / "sweep").values()

    results = yaml.safe_load((tiny.root / "sweep" / "optuna_results.yaml").read_text())
    assert results["direction"] == "maximize"
    assert results["best"]["value"] == study.best_value
    assert results["best"]["trial"] == study.best_trial.number
    assert f"best: trial {study.best_trial.number}, valid/mean/auroc: " in printed

    assert swept(tiny, *search, "training.seed=1") == 1
    assert "the config that all trials share is not that of the search in" in (
        capsys.readouterr().err
    )


def test_a_trial_that_was_running_as_the_search_died_goes_on_in_its_folder(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
):
    search = (*OPTUNA, RATE, "hydra.sweeper.n_trials=2", "training.checkpoint_every_n=1")
    killed_at(tiny, "step 3/6", *search, times=2)
    before = study_in(tiny.root / "sweep").trials
    assert [trial.state for trial in before] == [TrialState.COMPLETE, TrialState.RUNNING]

    assert swept(tiny, *search) == 0
    printed = capsys.readouterr()
    assert "2 trials, of which 1 have a result and 1 were begun" in printed.out
    assert "continuing" in printed.err
    after = study_in(tiny.root / "sweep").trials
    assert [trial.state for trial in after] == [TrialState.COMPLETE] * 2
    assert [trial.params for trial in after] == [trial.params for trial in before]
    assert list(tiny.logged("sweep/trial-0001")["loss"]) == [1, 2, 3, 4, 5, 6]


def test_a_trial_without_a_number_is_told_to_the_study_as_failed(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
):
    two = ("hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "hydra.sweeper.sampler.seed=1")
    assert swept(tiny, *OPTUNA, *two, "schedule.curve.learning_rate=0.01,1e30") == 0
    study = study_in(tiny.root / "sweep")
    told = {t.params["schedule.curve.learning_rate"]: t.state for t in study.trials}
    assert "Launching 2 jobs locally" in capsys.readouterr().out
    assert told == {"0.01": TrialState.COMPLETE, "1e+30": TrialState.FAIL}
    assert swept(tiny, *OPTUNA, *two, "schedule.curve.learning_rate=0.01,1e30") == 0
    assert "2 trials, of which 2 have a result" in capsys.readouterr().out


def test_a_search_whose_trials_all_fail_is_given_up(tiny: Tiny, capsys: pytest.CaptureFixture[str]):
    assert swept(tiny, *OPTUNA, "training.seed=range(-9,0)") == 1
    printed = capsys.readouterr().out
    assert "all of the first 3 trials failed; the search is given up" in printed
    assert [t.state for t in study_in(tiny.root / "sweep").trials] == [TrialState.FAIL] * 3
    assert set(statuses(tiny.root / "sweep").values()) == {"failed"}
