"""The study of a search, kept as a journal beside its runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from recap.compose.nodes import instantiate
from recap.sweep.table import Direction

optuna.logging.set_verbosity(optuna.logging.WARNING)

OUTCOME = "outcome"  # of a trial, as in recap.outcome


def opened(
    journal: Path,
    name: str,
    *,
    pruner: Mapping[str, Any],
    direction: Direction | None = None,
) -> optuna.Study:
    """The study of this name in the journal; made there if a direction is given.

    A journal is one file that processes on several machines may write at once, as long as they
    share its file system.
    """
    storage = JournalStorage(JournalFileBackend(str(journal)))
    made: Any = instantiate(dict(pruner)) if pruner else optuna.pruners.NopPruner()
    # a trial's parameters are drawn by the search alone, which sets its own
    sampler = optuna.samplers.RandomSampler()
    if direction is None:
        return optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=made)
    return optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=sampler,
        pruner=made,
        direction=direction,
        load_if_exists=True,
    )


def trial_of(study: optuna.Study, trial_id: int) -> optuna.Trial | None:
    """The trial that a run reports to; None where it has its result."""
    if study._storage.get_trial(trial_id).state != TrialState.RUNNING:
        return None
    return optuna.Trial(study, trial_id)


def asked(
    study: optuna.Study,
    space: Mapping[str, optuna.distributions.BaseDistribution],
    sampler: Mapping[str, Any],
) -> optuna.Trial:
    """A new trial with its parameters drawn.

    A sampler with a ``seed`` draws trial n with seed + n, so that a search that was interrupted
    goes on as if it had not been.
    """
    node = dict(sampler)
    if isinstance(node.get("seed"), int):
        node["seed"] += len(study.get_trials(deepcopy=False))
    study.sampler = instantiate(node)
    return study.ask(dict(space))
