"""The settings of a search, refused with their keys before anything is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from recap.compose import Refused
from recap.compose.binding import binding_faults
from recap.compose.nodes import instantiate, located
from recap.joining import objective_faults
from recap.nearest import nearest
from recap.sweep.table import Direction, direction

PLACE = "hydra.sweeper"


@dataclass(frozen=True, kw_only=True)
class Search:
    """The settings; conf/hydra/sweeper/optuna.yaml says what each means.

    ``sampler`` and ``pruner`` are nodes with a ``_target_``: samplers are made anew with another
    seed, pruners in every trial's process.
    """

    direction: Direction | None
    n_trials: int
    n_jobs: int
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]
    study_name: str

    def direction_for(self, config: DictConfig) -> Direction | None:
        """ "minimize" or "maximize": as it is set, or as the objective's metric asks."""
        return self.direction or direction(config.training.objective)

    def refuse_faults(self, config: DictConfig) -> None:
        """Tells everything that keeps the search from being run.

        Raises:
            Refused: with every fault.
        """
        faults = []
        for name in ("n_trials", "n_jobs"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                faults.append(f"{PLACE}.{name}={value}: must be a whole number, 1 or more")
        if not isinstance(self.study_name, str) or not self.study_name:
            faults.append(f"{PLACE}.study_name={self.study_name}: must be a name")
        if self.direction not in (None, "minimize", "maximize"):
            faults.append(
                f"{PLACE}.direction={self.direction}: must be minimize, maximize, or null: as the "
                "metric asks"
            )
        objective = config.training.objective
        if objective is None:
            faults.append(
                "training.objective=null: a search compares what it names, "
                "<partition>/<task or mean>/<metric>, as validation/mean/auroc"
            )
        elif self.direction is None and direction(objective) is None:
            faults.append(
                f"{PLACE}.direction=null: training.objective={objective} has no better side of "
                "its own; write minimize or maximize"
            )
        else:
            faults += _objective_faults(objective, config)
        if OmegaConf.select(config, "hydra.launcher.preview"):
            faults.append(
                "hydra.launcher.preview=true: what a search runs follows from its results; to see "
                "a trial's batch script, write --preview with one point and without -m"
            )
        if OmegaConf.select(config, "hydra.launcher.detach"):
            faults.append(
                "hydra.launcher.detach=true: a search waits for the results of its trials; run it "
                "with detach=false"
            )
        faults += _node_faults(self.sampler, f"{PLACE}.sampler", BaseSampler)
        faults += _node_faults(self.pruner, f"{PLACE}.pruner", BasePruner)
        if faults:
            raise Refused(faults)


def _objective_faults(objective: object, config: DictConfig) -> list[str]:
    """What no evaluation measures, as far as the sections can be told before a run is made."""
    if not isinstance(objective, str):
        return []  # refused with the rest of its section
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    plain: Any = OmegaConf.to_container(own, resolve=True, throw_on_missing=False)
    return list(objective_faults(objective, plain, tuple(plain["model"]["tasks"])))


def _node_faults(node: Any, place: str, kind: Callable[..., Any]) -> list[str]:
    """What keeps the node from being made into one of the kind."""
    assert isinstance(kind, type)
    if not isinstance(node, dict) or "_target_" not in node:
        return [f"{place}={node}: must be a mapping {{_target_: …}} of a {kind.__name__}"]
    if faults := list(binding_faults(node, place)) or _unknown(node, place):
        return faults
    try:
        made = instantiate(node)
    except Exception as error:  # whatever a library's constructor refuses with
        return located(place, error.__cause__ or error, node)
    if not isinstance(made, kind):
        return [f"{place}._target_={node['_target_']}: makes no {kind.__name__}"]
    return []


def _unknown(node: Mapping[str, Any], place: str) -> list[str]:
    """The keys that the target does not take: Optuna's annotations cannot be read at run time."""
    parameters = inspect.signature(get_object(node["_target_"])).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return []
    return [
        f"{place}.{key}: {node['_target_']} takes no such key; {nearest(key, parameters)}"
        for key in node
        if key != "_target_" and key not in parameters
    ]
