"""A search: rounds of trials, run by any launcher, until so many have a result."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from optuna.distributions import check_distribution_compatibility
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from recap.compose import Refused
from recap.compose.run_config import config_digest
from recap.launcher.waiting import Left
from recap.outcome import Outcome
from recap.search.settings import Search
from recap.search.space import ends, job_overrides, split
from recap.search.study import OUTCOME, asked, opened, trial_of
from recap.search.trial import write_trial
from recap.sweep.closing import record
from recap.sweep.parent import Parent, sweep_run
from recap.sweep.points import Point, composed, launched
from recap.sweep.table import sweep_table

if TYPE_CHECKING:
    from recap.search.space import Axis

log = logging.getLogger(__name__)

JOURNAL = "study.journal"
RESULTS = "optuna_results.yaml"
GIVEN_UP_AFTER = 3  # failures, if there has been nothing else
CONFIG = "config"  # attribute of the study: digest of what its trials share


def sweep(
    config: DictConfig,
    loader: ConfigLoader,
    launcher: Launcher,
    overrides: Sequence[str],
    search: Search,
) -> None:
    """Goes on with the search until ``n_trials`` have a result; prints them, the best first.

    A trial that fails by an error stops no other, and has no result: started again, the search
    draws another in its place. One that was running when the search died is run again in its
    folder, where it goes on from its checkpoint, and one whose job is in a queue is waited for.
    After Ctrl-C its run is KILLED, also where jobs of trials go on: it draws no further one.

    Raises:
        Refused: before anything is run; see ``recap.search.space.split`` and ``search_faults``.
        SystemExit: with 1, where a trial failed by an error or none came to its end.
    """
    search.refuse_faults(config)
    fixed, space = split(loader, overrides)
    sweep_dir = Path(config.hydra.sweep.dir).absolute()
    _refuse_points(loader, config, fixed, space, sweep_dir)
    with sweep_run(config) as parent:
        study = opened(
            sweep_dir / JOURNAL,
            search.study_name,
            pruner=search.pruner,
            direction=search.direction_for(config),
        )
        _refuse_other_study(study, config, space, sweep_dir, search)
        trials = Trials(config, loader, launcher, study, fixed, sweep_dir, search, parent)
        try:
            trials.run(space)
        except Left as left:  # its trials go on, but nobody draws the next
            raise SystemExit(left.code) from None
        results = trials.results()
        objective, wanted = config.training.objective, search.direction_for(config)
        log.info("\n%s", sweep_table(results, sweep_dir, objective, wanted))
        failed_before = [p for p in results if p not in trials.ended and _failed(results[p])]
        record(parent, {p: o for p, o in results.items() if p not in failed_before}, wanted)
        _write_results(sweep_dir, study, objective, results)
    if parent.status == "FAILED":
        raise SystemExit(1)


@dataclass
class Trials:
    """The trials of a study, and their runs."""

    config: DictConfig
    loader: ConfigLoader
    launcher: Launcher
    study: Study
    fixed: Sequence[str]
    sweep_dir: Path
    search: Search
    parent: Parent
    ended: dict[Point, Outcome] = field(default_factory=dict)  # by this process
    _launched: int = 0

    def run(self, space: Mapping[str, Axis]) -> None:
        """Rounds of ``n_jobs`` trials, first of those that were begun, until enough have ended."""
        begun = self.study.get_trials(states=(TrialState.RUNNING,))
        left = self.search.n_trials - sum(_has_result(trial) for trial in self.study.trials)
        log.info(
            "%d trials, of which %d have a result and %d were begun",
            self.search.n_trials,
            self.search.n_trials - left,
            len(begun),
        )
        while left > 0:
            size = min(self.search.n_jobs, left)
            batch, begun = begun[:size], begun[size:]
            while len(batch) < size:
                number = asked(self.study, space, self.search.sampler).number
                batch.append(self.study.trials[number])
            self._run(batch)
            left -= size
            tried = len(self.ended)
            if tried >= max(GIVEN_UP_AFTER, size) and all(map(_failed, self.ended.values())):
                log.error("all of the first %d trials failed; the search is given up", tried)
                return

    def results(self) -> dict[Point, Outcome | None]:
        """What all trials of the study came to."""
        ended = {point.run_dir: (point, outcome) for point, outcome in self.ended.items()}
        results: dict[Point, Outcome | None] = {}
        for trial in self.study.trials:
            point = self._point(trial)
            known, came_to = ended.get(point.run_dir, (point, _recorded(trial)))
            results[known] = came_to
        return results

    def _run(self, batch: Sequence[FrozenTrial]) -> None:
        points: dict[int, Point] = {}
        for trial in batch:
            try:
                [point] = composed(self.loader, self.config, [self._overrides(trial)])
            except Refused as error:
                self._tell(trial, self._point(trial), _failure(str(error)))
                continue
            point = self._point(trial, config=point.config)
            write_trial(
                point.run_dir,
                journal=self.sweep_dir / JOURNAL,
                study=self.search.study_name,
                trial_id=trial._trial_id,
                pruner=self.search.pruner,
            )
            if (came_to := point.outcome) and came_to.status in ("finished", "pruned"):
                self._tell(trial, point, came_to)  # its job ended, but not with the search
            else:
                points[trial.number] = point
        trials = {trial.number: trial for trial in batch}
        for number, (point, came_to) in self._launch(points).items():
            if came_to is None:
                raise Refused(
                    ["hydra/launcher: it left trials in a queue; a search waits for their results"]
                )
            self.parent.record_failure(point, came_to, self.loader)
            self._tell(trials[number], point, came_to)

    def _launch(self, points: Mapping[int, Point]) -> dict[int, tuple[Point, Outcome | None]]:
        """What the points come to."""
        if not points:
            return {}
        outcomes = launched(self.launcher, list(points.values()), self._launched)
        self._launched += len(points)
        ended = zip(points.values(), outcomes, strict=True)
        return dict(zip(points, ended, strict=True))

    def _tell(self, trial: FrozenTrial, point: Point, came_to: Outcome) -> None:
        """Tells the study what a trial came to; a stopped one stays to be gone on with."""
        self.ended[point] = came_to
        if came_to.status == "stopped":
            return
        state, value = TrialState.FAIL, None
        if came_to.status == "pruned":
            state = TrialState.PRUNED
        elif came_to.status == "finished" and math.isfinite(came_to.objective or math.nan):
            state, value = TrialState.COMPLETE, came_to.objective
        open_trial = trial_of(self.study, trial._trial_id)
        assert open_trial is not None
        no_number = came_to.status == "finished" and state == TrialState.FAIL
        open_trial.set_user_attr(OUTCOME, "not finite" if no_number else came_to.status)
        open_trial.set_user_attr("message", came_to.message)
        self.study.tell(trial.number, value, state=state)
        log.info("trial %d: %s%s", trial.number, came_to.status, _and(came_to.objective))

    def _overrides(self, trial: FrozenTrial) -> list[str]:
        return [*job_overrides(self.fixed, trial.params), f"hydra.sweep.subdir={_folder(trial)}"]

    def _point(self, trial: FrozenTrial, config: str = "") -> Point:
        told = " ".join(job_overrides([], trial.params))
        run_dir = self.sweep_dir / _folder(trial)
        return Point(tuple(self._overrides(trial)), told, run_dir, config)


def _folder(trial: FrozenTrial) -> str:
    return f"trial-{trial.number:04}"


def _and(objective: float | None) -> str:
    return "" if objective is None else f", {objective:.5f}"


def _failure(message: str) -> Outcome:
    return Outcome(status="failed", config="", message=message)


def _failed(came_to: Outcome | None) -> bool:
    return came_to is not None and came_to.status == "failed"


def _has_result(trial: FrozenTrial) -> bool:
    """Whether it says something about its point; a failure by an error does not."""
    if trial.state == TrialState.FAIL:
        return trial.user_attrs.get(OUTCOME) == "not finite"
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _recorded(trial: FrozenTrial) -> Outcome | None:
    """What the study has of a trial of an earlier process; None for one that has not ended."""
    if not trial.state.is_finished():
        return None
    return Outcome(
        status=trial.user_attrs.get(OUTCOME, "failed"),
        config="",
        objective=trial.value if trial.state == TrialState.COMPLETE else None,
        message=trial.user_attrs.get("message", ""),
    )


def _refuse_points(
    loader: ConfigLoader,
    config: DictConfig,
    fixed: Sequence[str],
    space: Mapping[str, Axis],
    sweep_dir: Path,
) -> None:
    """Composes two points of the space, so that what no trial could do is refused at once."""
    jobs = [
        [*job_overrides(fixed, params), f"hydra.sweep.subdir=end-{number}"]
        for number, params in enumerate(ends(space))
    ]
    if any(
        composed(loader, config, [job])[0].run_dir != sweep_dir / f"end-{number}"
        for number, job in enumerate(jobs)
    ):
        raise Refused(
            [
                "training.save_dir: a search names the folders of its trials; hydra.sweep.dir=… "
                "names the folder of all"
            ]
        )


def _refuse_other_study(
    study: Study,
    config: DictConfig,
    space: Mapping[str, Axis],
    sweep_dir: Path,
    search: Search,
) -> None:
    """What the folder holds must be the same search, or its results would not be comparable."""
    faults = []
    way_out = f"of the search in {sweep_dir}; hydra.sweep.dir=… names another folder"
    if (before := study.direction.name.lower()) != search.direction_for(config):
        faults.append(f"hydra.sweeper.direction: {before} is that {way_out}")
    shared = config_digest(config)
    if study.user_attrs.get(CONFIG, shared) != shared:
        faults.append(f"the config that all trials share is not that {way_out}")
    keys = [set(trial.distributions) for trial in study.trials]
    if any(key_set != set(space) for key_set in keys):
        told = ", ".join(sorted(keys[-1]))
        faults.append(f"{', '.join(sorted(space))}: not the keys ({told}) {way_out}")
    else:
        for key, axis in space.items():
            try:
                for trial in study.trials:
                    check_distribution_compatibility(trial.distributions[key], axis)
            except ValueError:
                faults.append(f"{key}: not the kind or the choices {way_out}")
    if faults:
        raise Refused(faults)
    study.set_user_attr(CONFIG, shared)


def _write_results(
    sweep_dir: Path, study: Study, objective: str, results: Mapping[Point, Outcome | None]
) -> None:
    """Keeps the best point and how many ended how in the search's folder, as YAML."""
    statuses = ["running" if o is None else o.status for o in results.values()]
    about: dict[str, Any] = {
        "study": study.study_name,
        "objective": objective,
        "direction": study.direction.name.lower(),
        "trials": {status: statuses.count(status) for status in dict.fromkeys(statuses)},
    }
    if study.get_trials(states=(TrialState.COMPLETE,)):
        best = study.best_trial
        about["best"] = {
            "trial": best.number,
            "value": best.value,
            "run": str(sweep_dir / _folder(best)),
            "overrides": job_overrides([], best.params),
        }
        log.info("best: trial %d, %s: %.5f", best.number, objective, best.value)
        log.info("      %s", " ".join(job_overrides([], best.params)))
    path = sweep_dir / RESULTS
    path.write_text(yaml.safe_dump(about, sort_keys=False))
    log.info("results: %s", path)
